"""How a process that serves streams hears of events in PostgreSQL, on the loop of its hub.

One connection waits for notifications. They only wake: new events are read from the table, on the hub's session.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg

from ...exceptions import BrokerUnavailable
from ..base import COMMANDS_KEPT, EVERYWHERE, Command, Receiver, frame
from ..network import Listener, MalformedLog
from ..packing import unpack_command, unpack_event, unpack_tab
from . import statements
from .session import TIMEOUT, Session, connect, ended_at

# Seconds of silence before the table is read all the same: a connection may be dead without an error.
SILENCE = 2.0
# Events, and bytes, read at a time: few enough to arrive in time over a slow line.
BATCH = 500
BATCH_BYTES = 1 << 18

_NOT_NOTIFIED = (
    "PostgreSQL does not notify over this connection: is there a pooler in transaction mode, such as pgbouncer, in "
    'between? Name an entry of DATABASES that goes straight to the server: "OPTIONS": {"listen": "direct"}. Publishing '
    "works through a pooler as it is."
)


class PostgresListener(Listener):
    """Two connections, whose events go to a hub in the order of the sequences.

    `limits` are those of a history as statements.py names them; `on_epoch` is NetworkBroker's.
    """

    def __init__(
        self,
        receiver: Receiver,
        session: Session,
        alias: str,
        limits: Mapping[str, float],
        on_epoch: Callable[[str], bool],
        malformed: MalformedLog,
    ) -> None:
        super().__init__("PostgreSQL", (psycopg.OperationalError, psycopg.InterfaceError))
        self._receiver = receiver
        self._session = session
        self._alias = alias
        self._limits = limits
        self._on_epoch = on_epoch
        # The subscribed channels by their keys.
        self._channels = {statements.key_of(EVERYWHERE): EVERYWHERE}
        # The epoch and the newest sequence that the hub has; None while it is unknown.
        self._epoch = ""
        self._head: int | None = None
        self._malformed = malformed
        self._fetching = asyncio.Lock()
        self._fetched_at = self._heard_at = self.loop.time()
        self._is_woken = False
        self._listening = asyncio.Event()

    async def subscribe(self, channel: str) -> int:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._listening.wait()
                await self._fetching.acquire()
        except TimeoutError as error:
            raise BrokerUnavailable("PostgreSQL could not be reached: no connection listens to it.") from error
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

    async def listen(self) -> None:
        try:
            async with await connect(self._alias) as connection:
                await self._begin(connection)
                await self._follow(connection)
        finally:
            self._listening.clear()

    async def cleanup(self) -> None:
        await self._session.close()

    async def _begin(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Listen, then bring the hub up to date."""
        self._is_woken = False
        with ended_at(connection, self.loop.time() + TIMEOUT):
            await connection.execute(f"LISTEN {statements.TOPIC}")
        await self._session.fetch(statements.NOTIFY, (statements.TOPIC, "?"))
        # Notifications for other processes arrive here too, and may arrive first.
        end = self.loop.time() + TIMEOUT / 2
        while not self._is_woken and (left := end - self.loop.time()) > 0:
            await self._wait(connection, left)
        if not self._is_woken:
            raise BrokerUnavailable(_NOT_NOTIFIED)
        async with self._fetching:
            gaps: list[str] = []
            if self._head is not None:
                gaps = await self._uncovered(self._head)
                for channel in self._channels.values():
                    self._receiver.on_presence(channel)  # Changes of presence were missed too.
            await self._fetch(gaps)
        self._listening.set()

    async def _follow(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            await self._wait(connection, SILENCE)
            if self._is_woken or self.loop.time() > self._fetched_at + SILENCE:
                self._is_woken = False
                async with self._fetching:
                    await self._fetch()

    async def _wait(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        """Wait for a notification, or for so many seconds."""
        async for notification in connection.notifies(timeout=seconds, stop_after=1):
            with contextlib.suppress(ValueError):  # Anyone who may connect can notify anything.
                self._take(notification)

    def _take(self, notification: psycopg.Notify) -> None:
        kind, content = notification.payload[:1], notification.payload[1:]
        if kind == "t":
            self._receiver.on_tab_closed(*unpack_tab(content))
        elif kind == "r":
            process, key = content.rsplit(" ", 1)
            channel = self._channels.get(bytes.fromhex(key))
            if channel is not None and process != self._receiver.process:
                self._receiver.on_presence(channel)
        elif kind == "?" or bytes.fromhex(content) in self._channels:
            self._is_woken = True

    # Events.

    async def _uncovered(self, cursor: int) -> list[str]:
        """Return the channels that no longer have everything after a sequence."""
        channels = {key: channel for key, channel in self._channels.items() if channel != EVERYWHERE}
        parameters = {**self._limits, "cursor": cursor, "keys": list(channels)}
        [(_, _, covered, _)] = await self._session.fetch(statements.LOCATE, parameters)
        return [channel for channel, is_covered in zip(channels.values(), covered, strict=True) if not is_covered]

    async def _fetch(self, gaps: Sequence[str] = ()) -> None:
        """Deliver what is new. The caller holds the lock.

        Commands reach a hub before a gap or a new epoch, which sends away the clients that they concern. The events of
        channels with `gaps` are for clients that return.
        """
        lost = set(gaps)
        are_commands_lost = False
        while True:
            begin, self._fetched_at = self._head, self.loop.time()
            after = 0 if begin is None else begin
            parameters = {"cursor": after, "keys": list(self._channels), "count": BATCH, "size": BATCH_BYTES}
            rows: list[Any] = await self._session.fetch(statements.FETCH, parameters)
            epoch, head, trimmed = rows[0][:3] if rows else (None, None, [])
            if epoch is None:
                await self._session.fetch(statements.BEGIN)
                continue
            silence, self._heard_at = self.loop.time() - self._heard_at, self.loop.time()
            self._on_epoch(epoch)
            is_new = epoch != self._epoch
            if begin is None or (is_new and not self._epoch):
                self._epoch, self._head = epoch, head
                return
            # What a sweep dropped before it was read: after a burst, or while this process was busy.
            lost.update(self._channels[key] for key in trimmed if key in self._channels)
            are_commands_lost |= EVERYWHERE in lost or silence > COMMANDS_KEPT
            for *_, sequence, key, verb, payload in rows:
                channel = self._channels.get(key)
                is_event = verb in ("", statements.TRANSIENT)
                if sequence is None or channel is None or (is_event and (is_new or channel in lost)):
                    continue
                with self._malformed.skipping(channel):
                    item = frame(epoch, sequence, *unpack_event(payload)) if is_event else unpack_command(payload)[1]
                    self._receiver.deliver(channel, sequence, item)
            if len(rows) == BATCH or sum(len(payload or b"") for *_, payload in rows) >= BATCH_BYTES:
                self._head = rows[-1][3]
                continue
            if is_new or are_commands_lost:
                # A recheck refuses the users whom they would have put out.
                self._receiver.deliver(EVERYWHERE, max(begin, head) + is_new, Command("recheck"))
            if is_new:
                self._epoch = epoch
                self._receiver.reset(epoch)
            else:
                for channel in lost - {EVERYWHERE}:
                    self._receiver.on_gap(channel)
            self._head = head
            self._receiver.on_position(head)
            return

    def begin_anew(self, receiver: Receiver, epoch: str) -> None:
        pass  # _fetch() does, when it has read the commands.
