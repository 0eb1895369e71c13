"""How a process that serves streams hears of events on Redis: one connection, on the loop of its hub."""

import asyncio
import contextlib
from contextvars import Context
from typing import Any

import redis

from ...exceptions import BrokerUnavailable, Gap
from ...sse import Frame
from ..base import COMMANDS_KEPT, EVERYWHERE, LEASE, Command, Receiver
from ..network import Listener, NetworkBroker
from ..packing import decoded, encoded
from .messages import ClosedTab, Message, unpack_message
from .session import KeptCommands, Session
from .topology import FAILURES, TIMEOUT

# Seconds. A connection silent for half of this is pinged, and ended after twice this in silence.
PING = 1.5
# On an error redis-py would disconnect without waiting: a loop that ends then leaves a TLS connection half open.
_READ = {"disconnect_on_error": False}
# Seconds between two questions for the server's epoch.
LOOK = 1.0
# Higher than any sequence.
LAST = 1 << 62
# Messages in a row before other tasks get a turn.
IN_A_ROW = 100


class RedisListener(Listener):
    """One connection, whose messages go to a hub in the server's order."""

    def __init__(self, receiver: Receiver, broker: NetworkBroker, session: Session) -> None:
        super().__init__("Redis", FAILURES)
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
        # The epoch that the hub is in, "" while it is unknown, and the time at which it came there.
        self._epoch = broker.epoch
        self._began_at = self.loop.time()
        # The newest sequence heard, and the time of the newest message.
        self._head = 0
        self._heard_at = self.loop.time()
        self._connection: Any = None
        # The number of connections so far.
        self._connected = 0
        self._ending: asyncio.Task[None] | None = None
        # Whether a message was of another epoch, and the task that asks the server.
        self._is_epoch_doubtful = False
        self._looking: asyncio.Task[None] | None = None

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
                    now = await self._broker.alocate((), None)
                    if connected == self._connected:  # Catching up after a reconnect needs a known sequence.
                        break
            if now.epoch != self._epoch:
                raise BrokerUnavailable("Redis has begun a new epoch meanwhile.")
        except TimeoutError as error:
            raise BrokerUnavailable("Redis could not be reached: the subscription is not confirmed.") from error
        finally:
            # A turn later: the caller has to note the sequence first.
            self.loop.call_soon(self._release, channel, early)
        if channel in self._last:  # Otherwise the last client has left meanwhile.
            self._last[channel] = max(self._last[channel] or 0, now.granted)
        return now.granted

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
        except (redis.RedisError, OSError):
            if self._broker.epoch == self._epoch:  # Otherwise the connection was ended, to begin in the new epoch.
                raise
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
        await self._catch_up()
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

    async def _catch_up(self) -> None:
        """Deliver what was published while there was no connection: commands before gaps, which send clients away."""
        kept = await asyncio.to_thread(self._session.commands)
        is_new = kept.epoch != self._epoch
        events: list[tuple[int, str, Frame | Command]] = []
        gaps = []
        for channel, last in [] if is_new else list(self._last.items()):
            if last is not None:
                try:
                    events += [(sequence, channel, frame) for sequence, frame in await self._broker.read(channel, last)]
                except Gap:
                    gaps.append(channel)
        if self._broker.epoch != kept.epoch:
            raise BrokerUnavailable("Redis has begun a new epoch meanwhile.")
        commands = self._unheard(kept)
        if is_new or gaps:
            # Not in their place among the events: a gap sends clients away that have not got the events before it.
            for sequence, channel, command in commands:
                self._receiver.deliver(channel, sequence, command)
            commands = []
        if is_new:
            self._enter(kept.epoch)
        for channel in gaps:
            if channel in self._last:  # Otherwise it was unsubscribed meanwhile.
                self._receiver.on_gap(channel)
                self._last[channel] = kept.newest
        # In the order of publishing: a stream of several channels has one cursor for all of them.
        for sequence, channel, item in sorted([*events, *commands], key=lambda each: each[0]):
            self._deliver(channel, sequence, item)
        self._head = max(self._head, kept.newest)

    def _unheard(self, kept: KeptCommands) -> list[tuple[int, str, Command]]:
        """Return the commands that the hub has not heard, in their order."""
        if not self._epoch:
            return []
        found = []
        if self.loop.time() - self._heard_at > COMMANDS_KEPT - LEASE:
            # Some commands may be gone by now. A recheck refuses the users whom they would have put out.
            found.append((kept.newest, EVERYWHERE, Command("recheck")))
        for each in kept.entries:
            if each.channel != EVERYWHERE and each.channel not in self._last:
                continue
            if each.epoch == self._epoch and each.sequence > self._head:
                found.append((each.sequence, each.channel, each.command))
            elif each.epoch != self._epoch and each.age < self.loop.time() - self._began_at:
                # Of a later epoch: all connections of this one were granted before.
                found.append((LAST, each.channel, each.command))
        return found

    def _enter(self, epoch: str) -> None:
        """Have the hub start anew in another epoch, unless this is its first."""
        if self._epoch:
            self.reset()
            self._receiver.reset(epoch)
        self._epoch, self._began_at = epoch, self.loop.time()

    def begin_anew(self, receiver: Receiver, epoch: str) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be closed.
            self.loop.call_soon_threadsafe(self._end_connection)

    def _end_connection(self) -> None:
        if self._broker.epoch != self._epoch:
            self._ending = self.loop.create_task(self._disconnect(), context=Context())

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
        since = self.loop.time()
        while True:
            due = self.loop.time() + PING
            await asyncio.sleep(PING)
            now = self.loop.time()
            if now - due > PING / 2:
                since = now  # The loop was late, and has not read what came meanwhile.
            silence = now - max(self._heard_at, since)
            if silence > 2 * PING:
                await connection.disconnect()
                return
            if silence > PING / 2:
                with contextlib.suppress(redis.RedisError, OSError):
                    await connection.send_command("PING")

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    async def cleanup(self) -> None:
        for task in (self._ending, self._looking):
            if task is not None:
                task.cancel()

    # Messages.

    def _take(self, kind: bytes, topic: bytes, data: Any = b"") -> None:
        self._heard_at = self.loop.time()
        if kind == b"message":
            name = decoded(topic[self._prefix :])
            try:
                message = unpack_message(data)
            except ValueError as error:
                self._session.malformed.note(name, error)
                return
            if message.epoch != self._epoch:
                self._look_at_epoch()
            else:
                self._take_message(name, message)
        elif kind == b"subscribe":
            self._confirm(decoded(topic[self._prefix :]))

    def _take_message(self, channel: str, message: Message) -> None:
        item = message.item
        if item is None:
            self._head = max(self._head, message.sequence)
            self._receiver.on_position(message.sequence)
        elif isinstance(item, ClosedTab):
            self._receiver.on_tab_closed(*item)
        elif not isinstance(item, str):
            self._deliver(channel, message.sequence, item)
        elif item != self._receiver.process:
            self._receiver.on_presence(channel)

    def _look_at_epoch(self) -> None:
        """Ask the server for its epoch: a message may be late, or another program's. The answer goes to on_epoch()."""
        self._is_epoch_doubtful = True
        if self._looking is None or self._looking.done():
            self._looking = self.loop.create_task(self._look(), context=Context())

    async def _look(self) -> None:
        while self._is_epoch_doubtful:
            self._is_epoch_doubtful = False
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.alocate((), None)
            await asyncio.sleep(LOOK)

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
        for channel in self._last:
            self._last[channel] = None
        for early in self._early.values():
            early.clear()

    def _topic(self, channel: str) -> bytes:
        return self._session.topic_of(encoded(channel))
