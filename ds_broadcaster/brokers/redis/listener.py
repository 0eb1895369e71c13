"""How a process that serves streams hears of events on Redis: one connection, on the loop of its hub."""

import asyncio
import contextlib
from contextvars import Context
from typing import Any

import redis

from ...exceptions import BrokerUnavailable, Gap
from ...sse import Frame
from ..base import COMMANDS_KEPT, EVERYWHERE, LEASE, Command, Receiver, frame
from ..network import Listener, NetworkBroker
from ..packing import decoded, encoded, unpack_command, unpack_event
from .session import Session
from .topology import TIMEOUT

# Seconds. A connection silent for half of this is pinged, and ended after twice this in silence.
PING = 1.5
# On an error redis-py would disconnect without waiting: a loop that ends then leaves a TLS connection half open.
_READ = {"disconnect_on_error": False}
# Messages in a row before other tasks get a turn.
IN_A_ROW = 100


class RedisListener(Listener):
    """One connection, whose messages go to a hub in the server's order."""

    def __init__(self, receiver: Receiver, broker: NetworkBroker, session: Session) -> None:
        super().__init__("Redis", (redis.RedisError,))
        self._receiver = receiver
        self._broker = broker
        self._session = session
        self._prefix = len(session.topic_of(b""))
        # The subscribed channels, each with the last sequence that the hub has; None while it is unknown.
        self._last: dict[str, int | None] = {}
        # Whether the server has confirmed a channel's subscription on the present connection.
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        # Messages for a channel whose subscriber does not know its first sequence yet.
        self._early: dict[str, list[tuple[int, Frame | Command]]] = {}
        # The newest sequence heard, and the time of the newest message.
        self._head = 0
        self._heard_at = self.loop.time()
        self._connection: Any = None
        # The number of connections so far.
        self._connected = 0

    async def subscribe(self, channel: str) -> int:
        if channel not in self._confirmed:
            self._confirmed[channel] = self.loop.create_future()
            self._last[channel] = None
            await self._send("SUBSCRIBE", channel)
        # Continue an earlier subscriber's list: that one may give up first, and must not release what arrives now.
        early = self._early[channel] = list(self._early.get(channel, ()))
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                while True:
                    await asyncio.shield(self._confirmed[channel])
                    connected = self._connected
                    granted = (await self._broker.alocate((), None)).granted
                    if connected == self._connected:  # Catching up after a reconnect needs a known sequence.
                        break
        except TimeoutError as error:
            raise BrokerUnavailable("Redis could not be reached: the subscription is not confirmed.") from error
        finally:
            # A turn later: the caller has to note the sequence first.
            self.loop.call_soon(self._release, channel, early)
        self._last[channel] = max(self._last[channel] or 0, granted)
        return granted

    async def unsubscribe(self, channel: str) -> None:
        self._confirmed.pop(channel, None)
        self._last.pop(channel, None)
        await self._send("UNSUBSCRIBE", channel)

    async def _send(self, verb: str, channel: str) -> None:
        if self._connection is not None:
            try:
                await self._connection.send_command(verb, self._topic(channel))
            except (redis.RedisError, OSError):
                await self._disconnect()  # The next connection subscribes to every channel in _last.

    def _release(self, channel: str, early: list[tuple[int, Frame | Command]]) -> None:
        if self._early.get(channel) is early:
            del self._early[channel]
            for sequence, item in early:
                self._receiver.deliver(channel, sequence, item)

    # The connection.

    async def listen(self) -> None:
        connection = await asyncio.to_thread(self._session.topology.new_connection)
        try:
            await self._begin(connection)
            await self._take_messages(connection)
        finally:
            self._connection = None
            with contextlib.suppress(redis.RedisError, OSError):
                await connection.disconnect()

    async def _begin(self, connection: Any) -> None:
        """Subscribe to all channels, then bring the hub up to date."""
        wanted = [EVERYWHERE, *self._last]
        messages = []
        async with asyncio.timeout(2 * TIMEOUT):
            await connection.connect()
            await connection.send_command("SUBSCRIBE", *map(self._topic, wanted))
            waiting = len(wanted)
            while waiting:
                message = await connection.read_response(**_READ)
                if message[0] == b"subscribe":
                    waiting -= 1
                else:
                    messages.append(message)
        await self._catch_up([channel for channel in wanted if self._last.get(channel) is not None])
        self._connection = connection
        self._connected += 1
        # Channels that were added meanwhile.
        for channel in [each for each in self._last if each not in wanted]:
            await connection.send_command("SUBSCRIBE", self._topic(channel))
        for channel in wanted:
            self._confirm(channel)
            if self._connected > 1:
                self._receiver.on_presence(channel)  # Changes of presence were missed too.
        for message in messages:
            self._take(*message)
        for channel in wanted:
            if channel != EVERYWHERE and channel not in self._last:  # Removed meanwhile.
                await connection.send_command("UNSUBSCRIBE", self._topic(channel))

    async def _catch_up(self, channels: list[str]) -> None:
        """Deliver what was published on these channels while there was no connection."""
        missed: list[tuple[int, str, Frame | Command]] = []
        for channel in channels:
            last = self._last.get(channel)
            if last is not None:
                try:
                    missed += [(sequence, channel, frame) for sequence, frame in await self._broker.read(channel, last)]
                except Gap:
                    self._receiver.on_gap(channel)
        if self._head:
            if self.loop.time() - self._heard_at > COMMANDS_KEPT - LEASE:
                # Some commands may be gone by now. A recheck refuses the users whom they would have put out.
                self._receiver.deliver(EVERYWHERE, self._head, Command("recheck"))
            known = {EVERYWHERE, *channels}
            commands = await asyncio.to_thread(self._session.commands_after, self._head)
            missed += [each for each in commands if each[1] in known]
        # In the order of publishing: a stream of several channels has one cursor for all of them.
        for sequence, channel, item in sorted(missed, key=lambda each: each[0]):
            self._deliver(channel, sequence, item)

    async def _take_messages(self, connection: Any) -> None:
        """Take messages until the connection ends."""
        watch = self.loop.create_task(self._watch(connection), context=Context())
        try:
            while True:
                for _ in range(IN_A_ROW):
                    self._take(*await connection.read_response(**_READ))
                await asyncio.sleep(0)
        finally:
            watch.cancel()

    async def _watch(self, connection: Any) -> None:
        """End a connection that is dead without an error."""
        while True:
            await asyncio.sleep(PING)
            silence = self.loop.time() - self._heard_at
            if silence > 2 * PING:
                await connection.disconnect()
                return
            if silence > PING / 2:
                with contextlib.suppress(redis.RedisError, OSError):
                    await connection.send_command("PING")

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    # Messages.

    def _take(self, kind: bytes, topic: bytes, data: Any = b"") -> None:
        self._heard_at = self.loop.time()
        if kind == b"message":
            name = decoded(topic[self._prefix :])
            epoch, number, rest = data.split(b" ", 2)
            self._broker.on_epoch(epoch.decode())
            sequence = int(number)
            if rest[:1] == b"e":
                self._deliver(name, sequence, frame(epoch.decode(), sequence, *unpack_event(rest[1:])))
            elif rest[:1] == b"c":
                self._deliver(name, sequence, unpack_command(rest[1:])[1])
            elif rest[:1] == b"h":
                self._head = max(self._head, sequence)
                self._receiver.on_position(sequence)
            elif rest[1:].decode() != self._receiver.process:
                self._receiver.on_presence(name)
        elif kind == b"subscribe":
            self._confirm(decoded(topic[self._prefix :]))

    def _confirm(self, channel: str) -> None:
        future = self._confirmed.get(channel)
        if future is not None and not future.done():
            future.set_result(None)

    def _deliver(self, channel: str, sequence: int, item: Frame | Command) -> None:
        last = self._last.get(channel)
        if last is not None and sequence <= last:
            return
        self._head = max(self._head, sequence)
        if channel in self._last:
            self._last[channel] = sequence
        if channel in self._early:
            self._early[channel].append((sequence, item))
        else:
            self._receiver.deliver(channel, sequence, item)

    def reset(self) -> None:
        self._head = 0
        for channel in list(self._last):
            self._last[channel] = None

    def _topic(self, channel: str) -> bytes:
        return self._session.topic_of(encoded(channel))
