"""How a process that serves streams hears what is published on Redis: one connection, on the loop of its hub."""

import asyncio
import contextlib
from contextvars import Context
from typing import TYPE_CHECKING, Any

import redis

from ...exceptions import BrokerUnavailable, Gap
from ...sse import Frame
from ..base import COMMANDS_KEPT, EVERYWHERE, LEASE, Command, Receiver, frame
from ..network import Listener
from ..packing import decoded, encoded, unpack_command, unpack_event
from .topology import TIMEOUT

if TYPE_CHECKING:
    from .broker import RedisBroker

# Seconds. After half of it in silence the server is asked whether it is still there, and has one more to say so.
PING = 1.5
# Messages after which other tasks have their turn, however many more are waiting.
IN_A_ROW = 100


class RedisListener(Listener):
    """One connection that listens for a hub: what it hears goes to the hub, in the order of the server."""

    def __init__(self, broker: "RedisBroker", receiver: Receiver) -> None:
        super().__init__("Redis", (redis.RedisError,))
        self._broker = broker
        self._receiver = receiver
        self._prefix = len(broker.topic_of(b""))
        # The channels that are carried here, each with the last sequence that the hub has; None while it is not known.
        self._last: dict[str, int | None] = {}
        # Whether the server has confirmed a channel, on the connection that there is now.
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        # What comes for a channel whose subscriber does not know yet where it begins.
        self._early: dict[str, list[tuple[int, Frame | Command]]] = {}
        # The newest sequence that was heard, and when anything was.
        self._head = 0
        self._heard_at = self.loop.time()
        self._connection: Any = None
        # How many connections there were.
        self._begun = 0

    async def subscribe(self, channel: str) -> int:
        if channel not in self._confirmed:
            self._confirmed[channel] = self.loop.create_future()
            self._last[channel] = None
            await self._say("SUBSCRIBE", channel)
        # One that goes on from that of a subscriber before, who may be gone first and would let go of what comes now.
        early = self._early[channel] = list(self._early.get(channel, ()))
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                while True:
                    await asyncio.shield(self._confirmed[channel])
                    begun = self._begun
                    granted = (await self._broker.alocate((), None)).granted
                    if begun == self._begun:  # What was lost with a connection is read again only from a known place.
                        break
        except TimeoutError as error:
            raise BrokerUnavailable("Redis could not be reached: nothing is heard of it.") from error
        finally:
            # A turn later: whoever asked has to take note of the sequence first.
            self.loop.call_soon(self._release, channel, early)
        self._last[channel] = max(self._last[channel] or 0, granted)
        return granted

    async def unsubscribe(self, channel: str) -> None:
        self._confirmed.pop(channel, None)
        self._last.pop(channel, None)
        await self._say("UNSUBSCRIBE", channel)

    async def _say(self, verb: str, channel: str) -> None:
        if self._connection is not None:
            try:
                await self._connection.send_command(verb, self._topic(channel))
            except (redis.RedisError, OSError):
                await self._hang_up()  # Which ends the wait for messages, and begins anew with what is wanted by then.

    def _release(self, channel: str, early: list[tuple[int, Frame | Command]]) -> None:
        if self._early.get(channel) is early:
            del self._early[channel]
            for sequence, item in early:
                self._receiver.deliver(channel, sequence, item)

    # The connection.

    async def hear(self) -> None:
        connection = await asyncio.to_thread(self._broker.servers.listening)
        try:
            await self._begin(connection)
            await self._listen(connection)
        finally:
            self._connection = None
            await connection.disconnect()

    async def _begin(self, connection: Any) -> None:
        """Subscribe to everything, then bring the hub up to date on what it missed meanwhile."""
        wanted = [EVERYWHERE, *self._last]
        heard = []
        async with asyncio.timeout(2 * TIMEOUT):
            await connection.connect()
            await connection.send_command("SUBSCRIBE", *map(self._topic, wanted))
            waiting = len(wanted)
            while waiting:
                message = await connection.read_response()
                if message[0] == b"subscribe":
                    waiting -= 1
                else:
                    heard.append(message)
        await self._catch_up([channel for channel in wanted if self._last.get(channel) is not None])
        # Channels that were asked for meanwhile.
        self._connection = connection
        self._begun += 1
        for channel in [each for each in self._last if each not in wanted]:
            await connection.send_command("SUBSCRIBE", self._topic(channel))
        for channel in wanted:
            self._confirm(channel)
            if self._begun > 1:
                self._receiver.on_presence(channel)  # Who came and went meanwhile was not heard either.
        for message in heard:
            self._hear(*message)
        for channel in wanted:
            if channel != EVERYWHERE and channel not in self._last:  # Let go of meanwhile.
                await connection.send_command("UNSUBSCRIBE", self._topic(channel))

    async def _catch_up(self, channels: list[str]) -> None:
        """Hand over what was published on these channels while nothing was heard."""
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
                # Some are forgotten by now. Whoever was to go is no longer let in.
                self._receiver.deliver(EVERYWHERE, self._head, Command("recheck"))
            known = {EVERYWHERE, *channels}
            commands = await asyncio.to_thread(self._broker.commands_since, self._head)
            missed += [each for each in commands if each[1] in known]
        # In one line, as they would have come: a stream of several channels has one cursor for all of them.
        for sequence, channel, item in sorted(missed, key=lambda each: each[0]):
            self._hand_over(channel, sequence, item)

    async def _listen(self, connection: Any) -> None:
        """Hear what comes, until the connection ends."""
        watch = self.loop.create_task(self._watch(connection), context=Context())
        try:
            while True:
                for _ in range(IN_A_ROW):
                    self._hear(*await connection.read_response())
                await asyncio.sleep(0)
        finally:
            watch.cancel()

    async def _watch(self, connection: Any) -> None:
        """End a connection that is dead, though nobody has said so."""
        while True:
            await asyncio.sleep(PING)
            silence = self.loop.time() - self._heard_at
            if silence > 2 * PING:
                await connection.disconnect()
                return
            if silence > PING / 2:
                with contextlib.suppress(redis.RedisError, OSError):
                    await connection.send_command("PING")

    async def _hang_up(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    # What is heard.

    def _hear(self, kind: bytes, topic: bytes, data: Any = b"") -> None:
        self._heard_at = self.loop.time()
        if kind == b"message":
            name = decoded(topic[self._prefix :])
            epoch, number, rest = data.split(b" ", 2)
            self._broker.know(epoch.decode())
            sequence = int(number)
            if rest[:1] == b"e":
                self._hand_over(name, sequence, frame(epoch.decode(), sequence, *unpack_event(rest[1:])))
            elif rest[:1] == b"c":
                self._hand_over(name, sequence, unpack_command(rest[1:])[1])
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

    def _hand_over(self, channel: str, sequence: int, item: Frame | Command) -> None:
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

    def forget(self) -> None:
        self._head = 0
        for channel in list(self._last):
            self._last[channel] = None

    def _topic(self, channel: str) -> bytes:
        return self._broker.topic_of(encoded(channel))
