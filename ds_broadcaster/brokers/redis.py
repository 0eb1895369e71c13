"""The Redis broker: many processes and machines, one Redis or Valkey.

Publishing is one script on the server: it gives the sequence, keeps the history, and tells whoever has subscribed. It
goes out from any thread, with no event loop. A process that serves streams listens on one more connection, on the
loop of its hub.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..conf import History
from ..exceptions import BrokerUnavailable, Gap
from ..ids import format_id, new_epoch, parse_id
from ..sse import with_id
from . import redis_scripts as scripts
from .base import COMMANDS_KEPT, EVERYWHERE, Broker, Command, Place, Receiver
from .redis_listener import (
    LEASE,
    TIMEOUT,
    Listener,
    decoded,
    encoded,
    pack_command,
    pack_users,
    unpack_command,
    unpack_users,
)

logger = logging.getLogger("ds_broadcaster")

# Connections that the publishers of a process share.
CONNECTIONS = 16
# Seconds between two sweeps of a process, and channels that one lets go of at the most.
SWEEP_INTERVAL = 30
SWEPT = 100


class RedisBroker(Broker):
    """Carries over one Redis server.

    LOCATION is its URL, as in `redis://:password@host:6379/0`, `rediss://...` for TLS, or `unix:///path`. OPTIONS go to
    redis-py's connections, but for `prefix`, which all keys begin with: two projects on one server need two.
    """

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        self._options = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "socket_keepalive": True}
        self._options |= options
        self.prefix = f"{{{self._options.pop('prefix', 'ds_broadcaster')}}}"
        if not isinstance(location, str):
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['LOCATION'] must be one URL for the Redis broker, such as "
                f'"redis://127.0.0.1:6379/0", not {location!r}.'
            )
        self._url = location or "redis://127.0.0.1:6379/0"
        # Nothing is tried twice: a publish whose answer is lost may have been done.
        pool = redis.BlockingConnectionPool.from_url(
            self._url, max_connections=CONNECTIONS, timeout=TIMEOUT, retry=Retry(NoBackoff(), 0), **self._options
        )
        self._redis = redis.Redis(connection_pool=pool)
        self._scripts = {
            name: self._redis.register_script(getattr(scripts, name.upper()))
            for name in ("publish", "command", "locate", "read", "share", "roster", "sweep")
        }
        self._state = [f"{self.prefix}:{name}" for name in ("state", "last", "floor", "size", "times")]
        self._listeners: dict[Receiver, Listener] = {}
        self._swept = 0.0
        self.epoch = ""

    # Publishing.

    def publish(self, channel: str, payload: bytes) -> int:
        limits = self.limits
        name = encoded(channel)
        arguments = [name, payload, limits.max_events, limits.max_bytes, _ms(limits.max_age), self.topic_of(name)]
        return int(self._run("publish", [self.history_of(name)], arguments)[1])

    async def apublish(self, channel: str, payload: bytes) -> int:
        return await asyncio.to_thread(self.publish, channel, payload)

    def command(self, channel: str, command: Command) -> None:
        name = encoded(channel)
        self._run(
            "command",
            [self.history_of(name), f"{self.prefix}:commands"],
            [name, pack_command(channel, command), command.verb, _ms(COMMANDS_KEPT), self.topic_of(name)],
        )

    async def acommand(self, channel: str, command: Command) -> None:
        await asyncio.to_thread(self.command, channel, command)

    async def commands(self, channel: str, after: int) -> list[Command]:
        kept = await asyncio.to_thread(self._call, "zrangebyscore", f"{self.prefix}:commands", f"({after}", "+inf")
        found = [unpack_command(entry.split(b" ", 2)[2]) for entry in kept]
        return [command for name, command in found if name in (channel, EVERYWHERE)]

    # Where clients stand.

    def cursor(self) -> str:
        place = self.locate((), None)
        return format_id(self.epoch, place.granted)

    async def acursor(self) -> str:
        return await asyncio.to_thread(self.cursor)

    def locate(self, channels: Sequence[str], event_id: str | None) -> Place:
        parsed = parse_id(event_id) if event_id else None
        names = [encoded(channel) for channel in channels]
        epoch, sequence = parsed or ("", 0)
        histories = [self.history_of(name) for name in names]
        answer = self._run("locate", histories, [epoch, sequence, _ms(self.limits.max_age), *names])
        granted = answer[1]
        if not event_id:
            return Place(granted, granted)
        gaps = frozenset(channel for channel, covered in zip(channels, answer[2:], strict=True) if not covered)
        return Place(granted, granted if len(gaps) == len(channels) else sequence, gaps)

    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Place:
        return await asyncio.to_thread(self.locate, channels, event_id)

    async def read(self, channel: str, cursor: int) -> list[tuple[int, bytes]]:
        return await asyncio.to_thread(self._read, channel, cursor)

    def _read(self, channel: str, cursor: int) -> list[tuple[int, bytes]]:
        name = encoded(channel)
        answer = self._run("read", [self.history_of(name)], [name, cursor, _ms(self.limits.max_age)])
        if not answer[1]:
            raise Gap(f"{channel!r} no longer holds what came after {cursor}.")
        return [self.event(int(entry.partition(b"-")[0]), fields[3]) for entry, fields in answer[2]]

    def event(self, sequence: int, payload: bytes) -> tuple[int, bytes]:
        """Return an event as hubs know it."""
        return sequence, with_id(format_id(self.epoch, sequence), payload)

    def close(self) -> None:
        """Let go of the connections."""
        for receiver in list(self._listeners):
            self.detach(receiver)
        self._redis.close()

    # The server.

    def history_of(self, name: bytes) -> bytes:
        """Return the key of a channel's history."""
        return b"%b:h:%b" % (self.prefix.encode(), name)

    def topic_of(self, name: bytes) -> bytes:
        """Return what a process that serves the channel subscribes to."""
        return b"%b:c:%b" % (self.prefix.encode(), name)

    def _run(self, script: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        # Another one each time: a server that forgets twice must not come back to the epoch it had.
        answer = self._asking(self._scripts[script], keys=[*self._state, *keys], args=[new_epoch(), *arguments])
        self.know(answer[0].decode())
        return answer

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._asking(getattr(self._redis, name), *arguments)

    def _asking(self, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, OSError) as error:
            raise BrokerUnavailable(f"Redis could not be reached: {error}") from error

    def know(self, epoch: str) -> None:
        """Take note of the epoch that the server is in; after another one nothing that was given can go on."""
        if epoch != self.epoch:
            before, self.epoch = self.epoch, epoch
            if before:
                logger.warning("Redis has lost its memory: every client starts from a snapshot.")
                for receiver in list(self._listeners):
                    receiver.reset()

    def sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept > SWEEP_INTERVAL:
            self._swept = now
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._sweep)

    def _sweep(self) -> None:
        with contextlib.suppress(BrokerUnavailable):  # Nobody waits for it, and the next one is not far.
            self._run("sweep", [], [_ms(self.limits.max_age), SWEPT, self.history_of(b"")])

    # Hubs.

    def attach(self, receiver: Receiver) -> int:
        self._listeners[receiver] = Listener(self, receiver, self._url, self._options)
        return 0  # Nothing is carried before subscribe().

    def detach(self, receiver: Receiver) -> None:
        listener = self._listeners.pop(receiver, None)
        if listener is not None:
            listener.close()

    async def subscribe(self, channel: str) -> int:
        return await self._listener().subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        await self._listener().unsubscribe(channel)

    # Who is there.

    def changed(self, channel: str) -> None:
        self._listener().changed(channel)

    def users(self, channel: str) -> list[Any]:
        here = [user for receiver in list(self._listeners) for user in receiver.users(channel)]
        there = [unpack_users(each)[0] for each in self._elsewhere(encoded(channel)) if each]
        return here + [user for users in there for user in users]

    def elsewhere(self, channel: str) -> list[Any]:
        there = [unpack_users(each) for each in self._elsewhere(encoded(channel)) if each]
        return [user for users, graced in there for user in [*users, *graced]]

    async def ausers(self, channel: str) -> list[Any]:
        return await asyncio.to_thread(self.users, channel)

    def channels(self) -> list[str]:
        here = [name for receiver in list(self._listeners) for name in receiver.channels()]
        return list(
            dict.fromkeys([*here, *(decoded(name) for names in self._elsewhere(b"") for name in names if name)])
        )

    async def achannels(self) -> list[str]:
        return await asyncio.to_thread(self.channels)

    def share(self, listener: Listener, receiver: Receiver, channels: Iterable[str]) -> float:
        """Renew the lease of a hub, and write who is on these channels of it; return when the next lease ends."""
        keys = [f"{self.prefix}:processes", self._share_of(listener.process)]

        def write(names: Iterable[str]) -> list[Any]:
            pairs: list[bytes] = []
            for name in names:
                pairs += encoded(name), pack_users(receiver.users(name), receiver.graced(name))
            prefixes = [self.topic_of(b""), self._share_of("")]
            return list(self._run("share", keys, [listener.process, _ms(LEASE), *prefixes, *pairs]))

        _, was_there, next_end = write(channels)
        if not was_there:
            _, _, next_end = write(receiver.channels())
        return float(next_end) / 1000

    def _elsewhere(self, channel: bytes) -> list[Any]:
        """Return what the other processes have: the users of a channel, or all their channels."""
        ours = [each.process for each in list(self._listeners.values())]
        keys = [f"{self.prefix}:processes"]
        return list(self._run("roster", keys, [self._share_of(""), channel, *ours])[1:])

    def _share_of(self, process: str) -> str:
        return f"{self.prefix}:r:{process}"

    def _listener(self) -> Listener:
        loop = asyncio.get_running_loop()
        return next(each for each in self._listeners.values() if each.loop is loop)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
