"""A channel as one process has it: its log, its roster, and who is connected here."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..log import READ_BYTES, Log
from ..sse import Fragment, Frame, data_for
from .roster import Roster

if TYPE_CHECKING:
    from .connections import Connection

PresenceCallback = Callable[[str, list[Any]], Fragment]
# Called with the channel, the user and whether they came, when somebody joins or leaves.
AttendanceHook = Callable[[str, Any, bool], None]

# Clients that read from different cursors each need a chunk of their own; more than this are not worth keeping.
CHUNKS_KEPT = 16


class Chunk:
    """What a connection is to write next, and where that takes it. Shared by all that stand at the same place.

    `message` is the ASGI message that carries the bytes; `more` tells that still more is waiting behind it.
    """

    __slots__ = ("_wire", "cursor", "message", "more", "presence_at")

    def __init__(self, body: bytes, cursor: int, presence_at: float, more: bool) -> None:
        self.message: dict[str, Any] = {"type": "http.response.body", "body": body, "more_body": True}
        self.cursor = cursor
        self.presence_at = presence_at
        self.more = more
        self._wire = b""

    def wire(self) -> bytes:
        """Return the bytes as HTTP/1.1 chunked encoding has them on the wire; framed once for all."""
        if not self._wire:
            body = self.message["body"]
            self._wire = b"%x\r\n%b\r\n" % (len(body), body)
        return self._wire


class Channel:
    """The state of a channel on one hub. Only the hub's event loop changes it.

    `log` is None until the broker carries the channel here. `connections` and `blocked` are dicts used as ordered
    sets; `blocked` holds those whose transport is full. `presence` is the newest presence frame, numbered by
    `presence_at`: it replaces the one before it and is not kept in the log.
    """

    __slots__ = (
        "_chunks",
        "attendance_hook",
        "blocked",
        "connections",
        "delivered",
        "expiry",
        "log",
        "name",
        "presence",
        "presence_at",
        "presence_callback",
        "render",
        "rendered_at",
        "roster",
        "stale",
        "subscribing",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: Log | None = None
        self.subscribing = asyncio.Lock()
        self.roster = Roster()
        self.connections: dict[Connection, None] = {}
        self.blocked: dict[Connection, None] = {}
        self.delivered = 0
        self.presence = b""
        self.presence_at = 0
        self.presence_callback: PresenceCallback | None = None
        self.attendance_hook: AttendanceHook | None = None
        # The presence render that is waiting or running, and whether the roster changed since it began.
        self.render: asyncio.TimerHandle | Future[bytes] | None = None
        self.rendered_at = -math.inf
        self.stale = False
        self.expiry: asyncio.TimerHandle | None = None
        self._chunks: dict[tuple[int, float], Chunk] = {}

    def append(self, sequence: int, frame: Frame, now: float) -> bool:
        """Add an event to the log; False when it is there already."""
        if self.log is None or not self.log.append(sequence, frame, now):
            return False
        self._chunks.clear()
        self.delivered += 1
        return True

    def excludes(self, tab: str | None, cursor: int) -> bool:
        """Tell whether some event after `cursor` is not for this tab."""
        return tab is not None and self.log is not None and self.log.excludes(tab, cursor)

    def set_presence(self, frame: bytes, number: int) -> None:
        """Replace the presence frame; with an empty one there is nothing to tell whoever comes."""
        self.presence = frame
        self.presence_at = number if frame else 0
        self._chunks.clear()

    def next_chunk(self, cursor: int, presence_at: float) -> Chunk | None:
        """Return what somebody who stands there is to get next, None when there is nothing; raises Gap."""
        log = self.log
        if log is None or (cursor >= log.last and presence_at >= self.presence_at):
            return None
        place = (cursor, presence_at)
        chunk = self._chunks.get(place)
        if chunk is None:
            body, reached = log.read(cursor)
            more = reached < log.last
            if presence_at < self.presence_at:
                body += self.presence
            chunk = Chunk(body, reached, self.presence_at, more)
            if len(self._chunks) >= CHUNKS_KEPT:
                self._chunks.clear()
            self._chunks[place] = chunk
        return chunk

    def held(self) -> float:
        """Return the lowest cursor of those that are still writing, infinity when there is none."""
        return min((connection.cursor for connection in self.blocked if connection.keeps_up()), default=math.inf)


def merged_chunk(
    channels: tuple[Channel, ...],
    cursor: int,
    presence_at: float,
    until: float = math.inf,
    tab: str | None = None,
) -> Chunk | None:
    """Return the next chunk of one stream, up to `until`: events of its channels in the order of their ids.

    Of an event that is not for this tab there is only the id.
    """
    waiting: list[tuple[int, bytes]] = []
    presence = b""
    reached_presence = presence_at
    for channel in channels:
        if channel.log is not None and cursor < min(channel.log.last, until):
            waiting += [(sequence, data_for(frame, tab)) for sequence, frame in channel.log.after(cursor)]
        if presence_at < channel.presence_at:
            presence += channel.presence
            reached_presence = max(reached_presence, channel.presence_at)
    waiting = sorted(event for event in waiting if event[0] <= until)
    if not waiting and not presence:
        return None
    size = 0
    taken = 0
    for _, frame in waiting:
        size += len(frame)
        if taken and size > READ_BYTES:
            break
        taken += 1
    reached = waiting[taken - 1][0] if taken else cursor
    body = b"".join(frame for _, frame in waiting[:taken]) + presence
    return Chunk(body, reached, reached_presence, taken < len(waiting))
