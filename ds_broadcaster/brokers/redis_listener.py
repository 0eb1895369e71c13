"""How a process that serves streams hears what is published on Redis: one connection, on the loop of its hub."""

import asyncio
import contextlib
import json
import logging
import random
import uuid
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from ..exceptions import BrokerUnavailable, Gap
from ..ids import new_epoch
from .base import EVERYWHERE, Command, Receiver

if TYPE_CHECKING:
    from .redis import RedisBroker

logger = logging.getLogger("ds_broadcaster")

# Seconds in which the server must answer.
TIMEOUT = 0.9
# Seconds of silence after which the server is asked whether it is still there.
PING = 5
# Seconds: what a process says about who is there holds for so long, and is renewed so often; news of many changes go
# out together after the last.
LEASE = 15.0
RENEWED = 5.0
SHARED = 0.05
# Seconds before a lost connection is tried again: doubled each time, with jitter, so that not all come at once.
RECONNECT = (0.1, 5.0)


class Listener:
    """One connection that listens for a hub: what it hears goes to the hub, in the order of the server."""

    def __init__(self, broker: "RedisBroker", receiver: Receiver, url: Any, options: Mapping[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self._broker = broker
        self._receiver = receiver
        timeouts = {"socket_timeout": None, "socket_connect_timeout": TIMEOUT}
        self._redis = redis.asyncio.Redis.from_url(url, **{**options, **timeouts})
        self._pubsub: redis.asyncio.client.PubSub | None = None
        # The channels that are carried here, each with the last sequence that the hub has; None while it is not known.
        self._last: dict[str, int | None] = {EVERYWHERE: 0}
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._early: dict[str, list[tuple[str, int, bytes | Command]]] = {}
        self.process = new_epoch()
        self._dirty: set[str] = set()
        self._is_dirty = asyncio.Event()
        self._tasks = [self.loop.create_task(each, context=Context()) for each in (self._run(), self._share())]

    def close(self) -> None:
        """Stop listening."""
        if not self.loop.is_closed():
            for task in self._tasks:
                self.loop.call_soon_threadsafe(task.cancel)

    def changed(self, channel: str) -> None:
        """Write soon who is on a channel."""
        self._dirty.add(channel)
        self._is_dirty.set()

    async def subscribe(self, channel: str) -> int:
        """Listen to a channel; return a sequence after which nothing on it will be missed."""
        if channel not in self._confirmed:
            self._confirmed[channel] = self.loop.create_future()
            self._last[channel] = None
            if self._pubsub is not None:
                await self._pubsub.subscribe(self._broker.topic_of(encoded(channel)))
        # What comes from here on waits until the hub is ready for it.
        early = self._early.setdefault(channel, [])
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                await asyncio.shield(self._confirmed[channel])
            place = await self._broker.alocate((), None)
        except TimeoutError as error:
            raise BrokerUnavailable("Redis could not be reached: nothing is heard of it.") from error
        finally:
            self.loop.call_soon(self._release, channel, early)
        self._last[channel] = max(self._last[channel] or 0, place.granted)
        return place.granted

    async def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._confirmed.pop(channel, None)
        self._last.pop(channel, None)
        if self._pubsub is not None:
            await self._pubsub.unsubscribe(self._broker.topic_of(encoded(channel)))

    def _release(self, channel: str, early: list[tuple[str, int, bytes | Command]]) -> None:
        if self._early.get(channel) is early:
            del self._early[channel]
            for item in early:
                self._receiver.deliver(*item)

    async def _share(self) -> None:
        """Tell the other processes who is here, for as long as this one lives."""
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_dirty.wait()
            await asyncio.sleep(SHARED)
            self._is_dirty.clear()
            channels, self._dirty = self._dirty, set()
            try:
                next_end = await asyncio.to_thread(self._broker.share, self, self._receiver, channels)
                pause = min(RENEWED, next_end)
            except BrokerUnavailable:
                self._dirty |= channels
                pause = RENEWED

    # The connection.

    async def _run(self) -> None:
        pause = RECONNECT[0]
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await self._begin(pubsub)
                    pause = RECONNECT[0]
                    while True:
                        await self._listen(pubsub)
            except (redis.RedisError, OSError, BrokerUnavailable, TimeoutError) as error:
                logger.warning("The connection to Redis is lost and will be tried again: %s", error)
            finally:
                self._pubsub = None
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, RECONNECT[1])

    async def _begin(self, pubsub: Any) -> None:
        """Subscribe to everything, then bring the hub up to date on what it missed meanwhile."""
        wanted = list(self._last)
        await pubsub.subscribe(*(self._broker.topic_of(encoded(channel)) for channel in wanted))
        waiting = len(wanted)
        heard = []
        while waiting:
            async with asyncio.timeout(TIMEOUT):
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=None)
            if message["type"] == "subscribe":
                waiting -= 1
            elif message["type"] == "message":
                heard.append(message)
        missed: list[tuple[int, str, bytes]] = []
        for channel in wanted:
            last = self._last.get(channel)
            if last is None or channel == EVERYWHERE:
                continue
            try:
                missed += [(sequence, channel, frame) for sequence, frame in await self._broker.read(channel, last)]
            except Gap:
                self._receiver.missed(channel)
        # In one line, as they would have come: a stream of several channels has one cursor for all of them.
        for sequence, channel, frame in sorted(missed):
            self._hand_over(channel, sequence, frame)
        # Channels that were asked for meanwhile.
        self._pubsub = pubsub
        for channel in [each for each in self._last if each not in wanted]:
            await pubsub.subscribe(self._broker.topic_of(encoded(channel)))
        for channel in wanted:
            self._confirm(channel)
        for message in heard:
            self._hear(message)

    async def _listen(self, pubsub: Any) -> None:
        """Wait for one message; in silence ask whether the server is still there."""
        try:
            async with asyncio.timeout(PING):
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=None)
        except TimeoutError:
            await pubsub.ping()
            async with asyncio.timeout(TIMEOUT):
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=None)
        if message is not None:
            self._hear(message)

    def _hear(self, message: Mapping[str, Any]) -> None:
        channel = message["channel"]
        name = decoded(channel[len(self._broker.topic_of(b"")) :]) if channel else ""
        if message["type"] == "subscribe":
            self._confirm(name)
        elif message["type"] == "message":
            epoch, sequence, rest = message["data"].split(b" ", 2)
            self._broker.know(epoch.decode())
            if rest[:1] == b"r":
                if rest[1:].decode() != self.process:
                    self._receiver.attended(name)
            elif rest[:1] == b"c":
                self._hand_over(name, int(sequence), unpack_command(rest[1:])[1])
            else:
                self._hand_over(name, *self._broker.event(int(sequence), rest[1:]))

    def _confirm(self, channel: str) -> None:
        future = self._confirmed.get(channel)
        if future is not None and not future.done():
            future.set_result(None)

    def _hand_over(self, channel: str, sequence: int, item: bytes | Command) -> None:
        last = self._last.get(channel)
        if last is not None and sequence <= last and channel != EVERYWHERE:
            return
        if channel in self._last:
            self._last[channel] = sequence
        if channel in self._early:
            self._early[channel].append((channel, sequence, item))
        else:
            self._receiver.deliver(channel, sequence, item)


def encoded(channel: str) -> bytes:
    """Return a channel's name as it stands in keys; any string may be one."""
    return channel.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """Return the channel behind a name in a key."""
    return name.decode("utf-8", "surrogatepass")


def pack_command(channel: str, command: Command) -> bytes:
    """Return a command as bytes."""
    return json.dumps([channel, command.verb, _plain(command.user_id)]).encode()


def unpack_command(text: bytes) -> tuple[str, Command]:
    """Return the channel and the command that pack_command() wrote."""
    channel, verb, user = json.loads(text)
    return channel, Command(verb, _typed(user))


def pack_users(users: list[Any], graced: list[Any]) -> bytes:
    """Return a roster as bytes, nothing for an empty one."""
    if not users and not graced:
        return b""
    return json.dumps([[_plain(user) for user in each] for each in (users, graced)]).encode()


def unpack_users(text: bytes) -> list[list[Any]]:
    """Return the users that pack_users() wrote: those who are connected, and those who are shown as online still."""
    return [[_typed(user) for user in each] for each in json.loads(text)]


def _plain(user: Any) -> Any:
    """Return a user's id in a form that JSON has; the type must come back, for ids are compared."""
    return {"uuid": str(user)} if isinstance(user, uuid.UUID) else user


def _typed(user: Any) -> Any:
    return uuid.UUID(user["uuid"]) if isinstance(user, dict) else user
