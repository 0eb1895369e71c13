"""The Redis broker: publishing and history, each call one script on the server. See listener.py for hubs."""

import asyncio
import contextlib
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ...compaction import superfluous
from ...conf import History
from ...exceptions import BrokerUnavailable, Gap
from ...ids import parse_id
from ...sse import PLAIN, Facts, Frame
from ..base import COMMANDS_KEPT, EVERYWHERE, LEASE, Command, Event, GivenCommand, Position, Receiver
from ..joining import Joining, LoopJoining
from ..network import NetworkBroker
from ..packing import encoded, pack_command, pack_event
from . import scripts
from .listener import RedisListener
from .messages import unpack_entry
from .presence import RedisPresence
from .session import KeptCommands, Session, milliseconds

# Seconds between two sweeps of a process, and channels dropped in one step: the server does nothing else meanwhile.
SWEEP_INTERVAL = 30
SWEPT = 100


class RedisBroker(NetworkBroker):
    """Carries over a Redis server, a primary that sentinels watch, or a cluster, of which it uses one slot.

    LOCATION is a URL, such as `redis://:password@host:6379/0`, `rediss://...` for TLS, or `unix:///path`. OPTIONS may
    have:

    - `sentinel`: the name by which sentinels, whose URLs are in LOCATION, know the primary;
    - `cluster`: True if LOCATION has the URLs of some nodes of a cluster;
    - `replicas`: the number of replicas that must have an event or a command before its call returns, 0 by default.
      Without them, a confirmed command may be lost when a replica takes over; events are a gap then in either case;
    - `prefix`: the beginning of all keys, "ds_broadcaster" by default: two projects in one database need two;
    - `lease`: see LEASE.

    All others go to redis-py's connections.
    """

    server = "Redis"

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        self.session = Session(location, options, self.on_epoch)
        self.presence = RedisPresence(self.session, options.get("lease", LEASE))
        self._swept = 0.0
        self._max_age = milliseconds(history.max_age)
        limits = history.max_events, history.max_bytes, self._max_age, history.max_total_bytes
        # The first of publish.lua's arguments.
        self._settings = struct.pack("<4d", *limits) + self.session.topic_of(b"")
        self._joining = Joining(self._publish, _size_of)
        self._loop_joining = LoopJoining(self._apublish, _size_of)
        self._questions = LoopJoining(self._commands, lambda seconds: 0)

    # Publishing.

    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int:
        return self._joining.publish([_item(channel, payload, facts)])

    async def apublish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int:
        return await self._loop_joining.publish([_item(channel, payload, facts)])

    def publish_all(self, events: Sequence[Event]) -> None:
        if events:
            self._joining.publish([_item(*each) for each in events])

    async def apublish_all(self, events: Sequence[Event]) -> None:
        if events:
            await self._loop_joining.publish([_item(*each) for each in events])

    def _publish(self, items: "list[_Item]") -> Sequence[int]:
        arguments, replaced_by = self._prepared(items)
        ask = self.session.write if _is_any_kept(items) else self.session.run
        return _sequences(ask(scripts.PUBLISH, (), arguments)[1], replaced_by)

    async def _apublish(self, items: "list[_Item]") -> Sequence[int]:
        arguments, replaced_by = self._prepared(items)
        ask = self.session.awrite if _is_any_kept(items) else self.session.arun
        return _sequences((await ask(scripts.PUBLISH, (), arguments))[1], replaced_by)

    def _prepared(self, items: "list[_Item]") -> tuple[list[Any], Sequence[int | None]]:
        """Return the script's arguments, without items that later ones replace, and superfluous() of all items.

        To the server each of those would be an entry to add and to take.
        """
        if len(items) == 1:
            return [self._settings, *items[0][:4]], _ALONE
        replaced_by = superfluous((item[0], item[4]) for item in items)
        arguments: list[Any] = [self._settings]
        for item, later in zip(items, replaced_by, strict=True):
            if later is None:
                arguments += item[:4]
        return arguments, replaced_by

    def command(self, channel: str, command: Command) -> None:
        name, session = encoded(channel), self.session
        keys = [session.key_of("commands")]
        text, kept = pack_command(channel, command), milliseconds(COMMANDS_KEPT)
        session.write(scripts.COMMAND, keys, [name, text, command.verb, kept, session.topic_of(name)])

    # Positions and history.

    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        answer = self.session.run(scripts.LOCATE, (), self._question(channels, event_id))
        return _position(channels, event_id, answer)

    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Position:
        answer = await self.session.arun(scripts.LOCATE, (), self._question(channels, event_id))
        return _position(channels, event_id, answer)

    def _question(self, channels: Sequence[str], event_id: str | None) -> list[Any]:
        epoch, sequence = (parse_id(event_id) if event_id else None) or ("", 0)
        return [epoch, sequence, self.limits.max_events, self._max_age, *map(encoded, channels)]

    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        return await asyncio.to_thread(self._read, channel, cursor)

    def _read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        name = encoded(channel)
        answer = self.session.run(scripts.READ, (), [name, cursor, self.limits.max_events, self._max_age])
        if not answer[1]:
            raise Gap(f"{channel!r} no longer holds what came after {cursor}.")
        epoch = answer[0].decode()
        events = []
        for entry in answer[2]:
            try:
                events.append(unpack_entry(epoch, entry))
            except ValueError as error:
                self.session.malformed.note(channel, error)
        return events

    async def commands(self, channels: Collection[str], seconds: float) -> list[GivenCommand]:
        names = {*channels, EVERYWHERE}
        # Streams that open together ask together.
        kept = await self._questions.publish([seconds])
        return [
            # A sequence of another epoch says nothing: the age decides.
            GivenCommand(each.command, each.sequence if each.epoch == kept.epoch else 1, each.age)
            for each in kept.entries
            if each.channel in names and each.age <= seconds
        ]

    async def _commands(self, seconds: list[float]) -> list[KeptCommands]:
        return [await self.session.acommands(max(seconds))] * len(seconds)

    def sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept > SWEEP_INTERVAL:
            self._swept = now
            asyncio.get_running_loop().run_in_executor(None, self._sweep)

    def _sweep(self) -> None:
        with contextlib.suppress(BrokerUnavailable):  # The next sweep is not far.
            arguments = [self._max_age, SWEPT, milliseconds(COMMANDS_KEPT)]
            while self.session.run(scripts.SWEEP, [self.session.key_of("commands")], arguments)[1] == SWEPT:
                pass

    # Hubs.

    def create_listener(self, receiver: Receiver) -> RedisListener:
        return RedisListener(receiver, self, self.session)

    def close(self) -> None:
        super().close()
        self.session.close()


def _position(channels: Sequence[str], event_id: str | None, answer: Sequence[Any]) -> Position:
    """Return what locate.lua has answered about a client with this id."""
    now, granted, *covered = answer
    if not event_id:
        return Position(now.decode(), granted, granted)
    sequence = (parse_id(event_id) or ("", 0))[1]
    found = list(zip(channels, covered, strict=True))
    gaps = frozenset(channel for channel, what in found if what == 0)
    refreshed = frozenset(channel for channel, what in found if what == 2)
    return Position(now.decode(), granted, granted if len(gaps) == len(channels) else sequence, gaps, refreshed)


# An event as publish.lua has it, and its facts.
_Item = tuple[bytes, bytes, str, str, Facts]
# superfluous() of one item.
_ALONE = (None,)


def _item(channel: str, payload: bytes, facts: Facts = PLAIN) -> _Item:
    line, spec, tab = _described(facts)
    return encoded(channel), line + payload, spec, tab, facts


# Many events have the same facts.
@lru_cache(maxsize=1024)
def _described(facts: Facts) -> tuple[bytes, str, str]:
    """Return what pack_event() writes before an event's payload, what the event is, and the tab that it leaves out."""
    if facts.is_transient:
        spec = "t"
    else:
        spec = "r" if facts.is_refresh else ""
        if facts.replaces is not None:
            spec += f"={facts.replaces}"
    return pack_event(b"", facts), spec, facts.exclude or ""


def _size_of(item: _Item) -> int:
    return len(item[1])


def _is_any_kept(items: Sequence[_Item]) -> bool:
    # Replicas keep nothing of what is transient.
    return any(spec != "t" for _, _, spec, _, _ in items)


def _sequences(newest: int, replaced_by: Sequence[int | None]) -> list[int]:
    """Return the sequence of each event of a step; that of the event that replaces it for one that was not sent."""
    found = [newest] * len(replaced_by)
    for index in range(len(found) - 1, -1, -1):
        later = replaced_by[index]
        if later is None:
            found[index], newest = newest, newest - 1
        else:
            found[index] = found[later]
    return found
