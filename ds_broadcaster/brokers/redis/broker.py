"""The broker itself: publishing, history and rosters, each one script on the server.

Everything here goes out from any thread, with no event loop. A process that serves streams listens beside it, on the
loop of its hub: see listener.py.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured

from ...conf import History
from ...exceptions import BrokerUnavailable, Gap
from ...ids import new_epoch, parse_id
from ...sse import PLAIN, Facts, Frame
from ..base import (
    COMMANDS_KEPT,
    EVERYWHERE,
    Command,
    Event,
    Position,
    PresenceChange,
    PresenceDiff,
    ProcessHoldings,
    Receiver,
    frame,
)
from ..network import NetworkBroker, T
from ..packing import decoded, encoded, pack_command, pack_event, pack_user, unpack_command, unpack_event, unpack_user
from . import scripts
from .listener import RedisListener
from .topology import Servers

# Seconds between two sweeps of a process, and channels that are let go of in one step: the server does nothing else.
SWEEP_INTERVAL = 30
SWEPT = 100
# Milliseconds that replicas may take to confirm an event: less than the server has for its answer.
REPLICAS_WAIT = 600


class RedisBroker(NetworkBroker):
    """Carries over a Redis server, a primary that sentinels watch, or a cluster, of which it uses one slot.

    LOCATION is a URL, as in `redis://:password@host:6379/0`, `rediss://...` for TLS, or `unix:///path`. Of OPTIONS it
    takes:

    - `sentinel`: the name by which sentinels, whose URLs are in LOCATION, know the primary;
    - `cluster`: True, if LOCATION has the URLs of some nodes of a cluster;
    - `replicas`: how many replicas must have an event before publish() returns, 0 without it. What Redis has confirmed
      without them may be lost when one of them takes over; clients are told of the gap then;
    - `prefix`: what all keys begin with, "ds_broadcaster" without it: two projects in one database need two;
    - `lease`: see LEASE.

    The others go to redis-py's connections.
    """

    server = "Redis"

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        rest = {name: value for name, value in options.items() if name != "lease"}
        prefix = rest.pop("prefix", "ds_broadcaster")
        if not isinstance(prefix, str) or not prefix or "}" in prefix:
            raise ImproperlyConfigured(
                f"DS_BROADCASTER_BROKER['OPTIONS']['prefix'] must be a name such as \"myproject\", not {prefix!r}."
            )
        # In braces, so that all keys are in one slot of a cluster.
        self.prefix = f"{{{prefix}}}"
        self._replicas = rest.pop("replicas", 0)
        sentinel, cluster = rest.pop("sentinel", None), rest.pop("cluster", False)
        if cluster and self._replicas:
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['OPTIONS'] must not have replicas for a cluster: they are waited for behind a "
                "single server or sentinels alone. A cluster's nodes can refuse what too few replicas would get, with "
                "Redis' own min-replicas-to-write."
            )
        self._state = [f"{self.prefix}:{name}" for name in ("state", "last", "floor", "size", "times")]
        self.servers = Servers(location, self._state[0], sentinel=sentinel, cluster=cluster, options=rest)
        self._swept = 0.0

    # Publishing.

    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int:
        return self._publish([(encoded(channel), pack_event(payload, facts))])

    def publish_all(self, events: Sequence[Event]) -> None:
        if events:
            self._publish([(encoded(each.channel), pack_event(each.payload, each.facts)) for each in events])

    def _publish(self, events: Sequence[tuple[bytes, bytes]]) -> int:
        limits = self.limits
        arguments: list[Any] = [limits.max_events, limits.max_bytes, _ms(limits.max_age), limits.max_total_bytes]
        arguments += [self.history_of(b""), self.topic_of(b""), *chain.from_iterable(events)]
        return int(self._write(scripts.PUBLISH, [self.history_of(name) for name, _ in events], arguments)[1])

    def command(self, channel: str, command: Command) -> None:
        name = encoded(channel)
        keys = [self.history_of(name), f"{self.prefix}:commands"]
        arguments = [name, pack_command(channel, command), command.verb, _ms(COMMANDS_KEPT), self.topic_of(name)]
        self._write(scripts.COMMAND, keys, arguments)

    async def commands(self, channel: str, after: int) -> list[Command]:
        found = await asyncio.to_thread(self.commands_since, after)
        return [command for _, name, command in found if name in (channel, EVERYWHERE)]

    def commands_since(self, after: int) -> list[tuple[int, str, Command]]:
        """Return the sequence, the channel and the command of all that are kept."""
        with _asking():
            kept = self.servers.client.zrangebyscore(f"{self.prefix}:commands", f"({after}", "+inf")
        entries = [entry.split(b" ", 2) for entry in kept]
        return [(int(sequence), *unpack_command(text)) for sequence, _, text in entries]

    # Where clients stand.

    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        parsed = parse_id(event_id) if event_id else None
        names = [encoded(channel) for channel in channels]
        epoch, sequence = parsed or ("", 0)
        histories = [self.history_of(name) for name in names]
        answer = self._run(scripts.LOCATE, histories, [epoch, sequence, _ms(self.limits.max_age), *names])
        now, granted, *covered = answer
        if not event_id:
            return Position(now.decode(), granted, granted)
        gaps = frozenset(channel for channel, is_covered in zip(channels, covered, strict=True) if not is_covered)
        return Position(now.decode(), granted, granted if len(gaps) == len(channels) else sequence, gaps)

    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        return await asyncio.to_thread(self._read, channel, cursor)

    def _read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        name = encoded(channel)
        answer = self._run(scripts.READ, [self.history_of(name)], [name, cursor, _ms(self.limits.max_age)])
        if not answer[1]:
            raise Gap(f"{channel!r} no longer holds what came after {cursor}.")
        epoch = answer[0].decode()
        sequences = [int(entry.partition(b"-")[0]) for entry, _ in answer[2]]
        events = [unpack_event(fields[3]) for _, fields in answer[2]]
        return [(each, frame(epoch, each, *event)) for each, event in zip(sequences, events, strict=True)]

    # The server.

    def history_of(self, name: bytes) -> bytes:
        """Return the key of a channel's history."""
        return b"%b:h:%b" % (self.prefix.encode(), name)

    def topic_of(self, name: bytes) -> bytes:
        """Return what a process that serves the channel subscribes to."""
        # What is told reaches all databases of a server, whichever of them it is about.
        return b"%b:%d:c:%b" % (self.prefix.encode(), self.servers.database, name)

    def _write(self, script: scripts.Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run a script, and wait for the replicas that must have what it wrote."""
        if not self._replicas:
            return self._run(script, keys, arguments)
        with _asking(), self.servers.client.client() as server:
            # On one connection, because WAIT is about what was written on its own.
            answer = self._run(script, keys, arguments, server)
            confirmed = server.wait(self._replicas, REPLICAS_WAIT)
        if confirmed < self._replicas:
            raise BrokerUnavailable(
                f"Redis has it, but only {confirmed} of {self._replicas} replicas: when another server takes over, it "
                "may be lost."
            )
        return answer

    def _run(self, script: scripts.Script, keys: Sequence[Any], arguments: Sequence[Any], server: Any = None) -> Any:
        # Another epoch each time: a server that forgets twice must not come back to the one it had.
        keys = [*self._state, *keys]
        arguments = [*keys, new_epoch(), *arguments]
        with _asking():
            server = server or self.servers.client
            try:
                answer = server.evalsha(script.sha, len(keys), *arguments)
            except redis.exceptions.NoScriptError:
                answer = server.eval(script.text, len(keys), *arguments)
        self.know(answer[0].decode())
        return answer

    def sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept > SWEEP_INTERVAL:
            self._swept = now
            asyncio.get_running_loop().run_in_executor(None, self._sweep)

    def _sweep(self) -> None:
        with contextlib.suppress(BrokerUnavailable):  # Nobody waits for it, and the next one is not far.
            arguments = [_ms(self.limits.max_age), SWEPT, self.history_of(b"")]
            while self._run(scripts.SWEEP, [], arguments)[1] == SWEPT:
                pass

    def close(self) -> None:
        super().close()
        self.servers.close()

    # Hubs.

    def listen(self, receiver: Receiver) -> RedisListener:
        return RedisListener(self, receiver)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)

    # Who is there.

    async def sync(self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float) -> PresenceDiff:
        return await asyncio.to_thread(self._sync, receiver.process, changes, lease)

    def _sync(self, process: str, changes: Sequence[PresenceChange], lease: float) -> PresenceDiff:
        users: dict[str, list[Any]] = {}
        for each in changes:
            if each.user is not None:
                users.setdefault(each.channel, []).extend((pack_user(each.user), each.connections))
        arguments: list[Any] = [process, _ms(lease), self.topic_of(b""), self._holdings, self._people]
        for each in changes:
            if each.user is None:
                theirs = users.get(each.channel, [])
                arguments += [encoded(each.channel), each.connections, len(theirs) // 2, *theirs]
        answer = self._run(scripts.SHARE, [f"{self.prefix}:processes"], arguments)
        _, was_there, next_end, joined, left = answer
        return PresenceDiff(_pairs(joined), _pairs(left), not was_there, next_end / 1000)

    def users_but(self, channel: str, processes: list[str]) -> list[Any]:
        found = []
        for people in self._ask_others(self._people, b":" + encoded(channel), "all", processes).values():
            for user, connections in zip(people[::2], people[1::2], strict=True):
                found += [unpack_user(user)] * int(connections)
        return found

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        people = self._ask_others(self._people, b":" + encoded(channel), "keys", [receiver.process])
        return [unpack_user(user) for users in people.values() for user in users]

    def holdings_but(self, processes: list[str]) -> list[ProcessHoldings]:
        found = []
        for process, holdings in self._ask_others(self._holdings, b"", "all", processes).items():
            pairs = zip(holdings[::2], holdings[1::2], strict=True)
            found.append(ProcessHoldings(process, {decoded(name): int(count) for name, count in pairs if int(count)}))
        return found

    @property
    def _holdings(self) -> str:
        return f"{self.prefix}:r:"

    @property
    def _people(self) -> str:
        return f"{self.prefix}:u:"

    def _ask_others(self, prefix: str, suffix: bytes, what: str, but: list[str]) -> dict[str, list[bytes]]:
        """Return what each process has under a key."""
        answer = self._run(scripts.ROSTER, [f"{self.prefix}:processes"], [prefix, suffix, what, *but])[1:]
        return {process.decode(): found for process, found in zip(answer[::2], answer[1::2], strict=True)}


@contextlib.contextmanager
def _asking() -> Any:
    """Raise BrokerUnavailable for what keeps the server from doing what it was asked to."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis could not be asked: {error}") from error


def _pairs(found: list[bytes]) -> list[tuple[str, Any]]:
    return [(decoded(name), unpack_user(user)) for name, user in zip(found[::2], found[1::2], strict=True)]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
