"""How a process that serves streams hears what is published in PostgreSQL, on the loop of its hub.

One connection waits for notifications. They only wake: what is new is read from the table, on a second connection
that also does everything else the hub asks.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from ...exceptions import BrokerUnavailable
from ..base import EVERYWHERE, Command, Receiver, frame
from ..network import Listener
from ..packing import unpack_command, unpack_event
from . import statements
from .session import TIMEOUT, Session, connect, ended_at

if TYPE_CHECKING:
    from .broker import PostgresBroker

# Seconds of silence after which the table is looked at all the same: a connection may be dead and nobody says so.
SILENCE = 2.0
# Events that are read at a time, and bytes: over any line that is worth the name they come in time.
BATCH = 500
BATCH_BYTES = 1 << 18

_NOT_HEARD = (
    "PostgreSQL does not notify over this connection: is there a pooler in transaction mode, such as pgbouncer, in "
    'between? Name an entry of DATABASES that goes straight to the server: "OPTIONS": {"listen": "direct"}. Publishing '
    "works through a pooler as it is."
)


class PostgresListener(Listener):
    """What is published goes to the hub in the order of the sequences, whose newest one here is `_head`."""

    def __init__(self, broker: "PostgresBroker", receiver: Receiver) -> None:
        super().__init__("PostgreSQL", (psycopg.OperationalError, psycopg.InterfaceError))
        self.session = Session(broker.listening_alias)
        self._broker = broker
        self._receiver = receiver
        # The channels that are carried here, by what stands for them.
        self._channels = {statements.key_of(EVERYWHERE): EVERYWHERE}
        self._head: int | None = None
        self._fetching = asyncio.Lock()
        self._fetched_at = 0.0
        self._news = False
        self._listening = asyncio.Event()

    async def subscribe(self, channel: str) -> int:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._listening.wait()
                await self._fetching.acquire()
        except TimeoutError as error:
            raise BrokerUnavailable("PostgreSQL could not be reached: nothing is heard of it.") from error
        try:
            self._channels[statements.key_of(channel)] = channel
            await self._fetch()
        finally:
            self._fetching.release()
        assert self._head is not None
        return self._head

    async def unsubscribe(self, channel: str) -> None:
        self._channels.pop(statements.key_of(channel), None)

    # The connection.

    async def hear(self) -> None:
        try:
            async with await connect(self._broker.listening_alias) as connection:
                await self._begin(connection)
                await self._listen(connection)
        finally:
            self._listening.clear()

    async def let_go(self) -> None:
        await self.session.close()

    async def _begin(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Listen, then bring the hub up to date on what it missed meanwhile."""
        self._news = False
        with ended_at(connection, self.loop.time() + TIMEOUT):
            await connection.execute(f"LISTEN {statements.TOPIC}")
        await self.session.fetch(statements.NOTIFY, (statements.TOPIC, "?"))
        # What others are told comes over this connection too, and may come before the answer.
        end = self.loop.time() + TIMEOUT / 2
        while not self._news and (left := end - self.loop.time()) > 0:
            await self._wait(connection, left)
        if not self._news:
            raise BrokerUnavailable(_NOT_HEARD)
        async with self._fetching:
            if self._head is not None:
                for channel in await self._uncovered(self._head):
                    self._receiver.on_gap(channel)
                for channel in self._channels.values():
                    self._receiver.on_presence(channel)  # Who came and went meanwhile was not heard either.
            await self._fetch()
        self._listening.set()

    async def _listen(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            await self._wait(connection, SILENCE)
            if self._news or self.loop.time() > self._fetched_at + SILENCE:
                self._news = False
                async with self._fetching:
                    await self._fetch()

    async def _wait(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        """Wait until something is notified, or for so many seconds."""
        async for notification in connection.notifies(timeout=seconds, stop_after=1):
            with contextlib.suppress(ValueError):  # Anybody who may connect can notify whatever they like.
                self._take(notification)

    def _take(self, notification: psycopg.Notify) -> None:
        kind, content = notification.payload[:1], notification.payload[1:]
        if kind == "r":
            process, key = content.rsplit(" ", 1)
            channel = self._channels.get(bytes.fromhex(key))
            if channel is not None and process != self._receiver.process:
                self._receiver.on_presence(channel)
        elif kind == "?" or bytes.fromhex(content) in self._channels:
            self._news = True

    # What is heard.

    async def _uncovered(self, cursor: int) -> list[str]:
        """Return the channels that have events after a sequence which are no longer there."""
        channels = {key: channel for key, channel in self._channels.items() if channel != EVERYWHERE}
        _, _, covered = await self._broker.ask_where(self.session, list(channels), cursor)
        return [channel for channel, is_covered in zip(channels.values(), covered, strict=True) if not is_covered]

    async def _fetch(self) -> None:
        """Hand over what is new; whoever calls this has the lock."""
        are_orders_lost = False
        while True:
            begin, self._fetched_at = self._head, self.loop.time()
            after = 0 if begin is None else begin
            parameters = {"cursor": after, "keys": list(self._channels), "count": BATCH, "size": BATCH_BYTES}
            rows: list[Any] = await self.session.fetch(statements.FETCH, parameters)
            epoch, head, trimmed = rows[0][:3] if rows else (None, None, [])
            if epoch is None:
                await self._broker.begin(self.session)
                continue
            if self._broker.know(epoch) or begin is None:
                self._head = head
                return
            for key in trimmed:
                if (name := self._channels.get(key)) is not None:
                    # Somebody swept away what was not read here yet: after a burst, or while this process was busy.
                    self._receiver.on_gap(name)
                    are_orders_lost |= name == EVERYWHERE
            for *_, sequence, key, verb, payload in rows:
                channel = self._channels.get(key)
                if sequence is not None and channel is not None:
                    item = unpack_command(payload)[1] if verb else frame(epoch, sequence, *unpack_event(payload))
                    self._receiver.deliver(channel, sequence, item)
            if len(rows) < BATCH and sum(len(payload or b"") for *_, payload in rows) < BATCH_BYTES:
                self._head = head
                if are_orders_lost:  # Whoever was to go is no longer let in.
                    self._receiver.deliver(EVERYWHERE, head, Command("recheck"))
                self._receiver.on_position(head)
                return
            self._head = rows[-1][3]

    def forget(self) -> None:
        self._head = None
