"""A channel as one process has it: its log, its roster, and the connections on it."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..asgi_servers import LAST_CHUNK
from ..log import Log
from ..sse import Fragment, Frame
from .compression import HEADER, NOT_BEGUN, OUT_OF_STEP, Mark, Piece, Place, Segment, Tape, packed
from .roster import Roster

PresenceCallback = Callable[[str, list[Any]], Fragment]
# Called with the channel, the user and True for a join, False for a leave.
AttendanceHook = Callable[[str, Any, bool], None]

# Clients that read from different places each need a chunk of their own; more than this are not worth keeping. There
# are as many places again where heartbeats have told of events of other channels.
CHUNKS_KEPT = 32


class Reader(Protocol):
    """What a channel knows of a connection."""

    cursor: int

    def keeps_up(self) -> bool:
        """Tell whether the client had everything a moment ago."""


R = TypeVar("R", bound=Reader)


class Stop(NamedTuple):
    """A frame that is rendered for those who come to it: a refresh, or a template for each audience."""

    channel: str
    sequence: int
    frame: Frame


class Chunk:
    """Bytes for a client, and where they take it; shared by all clients at one place in a log.

    `more` tells that further chunks wait, `last` that the response ends with this one. A frame that is a `stop` is a
    chunk of its own: its bytes are for clients of streams that cannot render.

    Of the `pieces`, if there are any, each is compressed by itself. A chunk without a `place` on a tape is for one
    client, or for few, and nothing else is compressed with a reference to it.
    """

    __slots__ = (
        "_forms",
        "_message",
        "_wire",
        "body",
        "cursor",
        "last",
        "more",
        "pieces",
        "place",
        "presence_at",
        "stop",
    )

    def __init__(
        self,
        body: bytes,
        cursor: int = 0,
        presence_at: float = 0,
        *,
        more: bool = False,
        last: bool = False,
        stop: Stop | None = None,
        pieces: Sequence[Piece] = (),
        place: Place | None = None,
    ) -> None:
        self.stop = stop
        self.body = body
        self.cursor = cursor
        self.presence_at = presence_at
        self.more = more
        self.last = last
        self._message: dict[str, Any] | None = None
        self._wire = b""
        self.pieces = pieces
        self.place = place
        self._forms: _Forms | None = None

    def message(self) -> dict[str, Any]:
        """Return the bytes as an ASGI message; made once for all."""
        if self._message is None:
            self._message = {"type": "http.response.body", "body": self.body, "more_body": not self.last}
        return self._message

    def wire(self) -> bytes:
        """Return the bytes as HTTP/1.1 chunked encoding has them; made once for all."""
        if not self._wire:
            self._wire = b"%x\r\n%b\r\n" % (len(self.body), self.body) if self.body else b""
            if self.last:
                self._wire += LAST_CHUNK
        return self._wire

    def packed(self, sent: Mark, since: int) -> tuple["Chunk", Mark, int]:
        """Return the chunk as gzip for a stream that is at the mark `sent`, in step since an offset; and both after it.

        Made once for all that are sent the same.
        """
        forms = self._forms
        if forms is None:
            forms = self._forms = _Forms(self)
        if sent is forms.before:
            form = forms.whole if since <= forms.whole_since else forms.next
            if form is not None:
                return form, forms.after, since
        return forms.make(sent, since, self)


class _Forms:
    """The forms of a chunk as gzip, each made when it is first asked for.

    One is for streams out of step, `next` for those that were sent the text before it on the tape, and `whole` for
    those that were sent all that the tape holds.
    """

    __slots__ = ("_alone", "_segment", "after", "before", "next", "whole", "whole_since")

    def __init__(self, chunk: Chunk) -> None:
        place = chunk.place
        self._segment: Segment | None = None
        if place is not None:
            self._segment = place.tape.take(chunk.body, place, chunk.cursor, chunk.presence_at)
        self._alone: Chunk | None = None
        self.next: Chunk | None = None
        self.whole: Chunk | None = None
        self.before: Mark | None = None
        self.after = OUT_OF_STEP
        self.whole_since = 0
        if self._segment is not None:
            self.before, self.after = self._segment.before, self._segment.after
            self.whole_since = self.before.offset - len(self._segment.window)

    def make(self, sent: Mark, since: int, chunk: Chunk) -> tuple[Chunk, Mark, int]:
        """See Chunk.packed()."""
        dictionary = b"" if self._segment is None else self._segment.dictionary(sent, since)
        if dictionary:
            form = _packed(chunk, dictionary)
            if since <= self.whole_since:
                self.whole = form
            else:
                self.next = form
            return form, self.after, since
        if self._alone is None:
            self._alone = _packed(chunk, b"")
        form = self._alone
        if sent is NOT_BEGUN:
            form = Chunk(HEADER + form.body, last=chunk.last)
        return form, self.after, 0 if self.before is None else self.before.offset


def _packed(chunk: Chunk, dictionary: bytes) -> Chunk:
    pieces = chunk.pieces or (Piece(chunk.body),)
    return Chunk(b"".join(packed(piece, dictionary) for piece in pieces), last=chunk.last)


class Channel(Generic[R]):
    """The state of a channel on one hub. Only the hub's event loop changes it.

    `log` is None until the broker carries the channel here. `connections` and `blocked` are dicts used as ordered
    sets; `blocked` holds the connections whose transport is full. `presence` is the newest presence frame, numbered by
    `presence_at`: it replaces the one before it and is not kept in the log. `unsynced` tells that other processes do
    not know the roster as it is.
    """

    __slots__ = (
        "attendance_hook",
        "blocked",
        "chunks",
        "connections",
        "delivered",
        "expiry",
        "log",
        "name",
        "patched_at",
        "presence",
        "presence_at",
        "presence_callback",
        "render",
        "rendered_at",
        "roster",
        "signalled_at",
        "stale",
        "subscribing",
        "tape",
        "unsynced",
    )

    def __init__(self, name: str, presence_callback: PresenceCallback | None = None) -> None:
        self.name = name
        self.connections: dict[R, None] = {}
        # Events.
        self.log: Log | None = None
        self.subscribing = asyncio.Lock()
        self.blocked: dict[R, None] = {}
        self.chunks: dict[tuple[Any, ...], Chunk] = {}
        self.tape = Tape()
        self.delivered = 0
        # The newest events that changed the elements of pages, and their signals.
        self.patched_at = 0
        self.signalled_at = 0
        # Presence.
        self.roster = Roster()
        self.unsynced = False
        self.expiry: asyncio.TimerHandle | None = None
        self.attendance_hook: AttendanceHook | None = None
        self.presence_callback = presence_callback
        self.presence = b""
        self.presence_at = 0
        # The render that is waiting or running, and whether the roster changed since it began.
        self.render: asyncio.TimerHandle | Future[bytes] | None = None
        self.rendered_at = -math.inf
        self.stale = False

    def append(self, sequence: int, frame: Frame, now: float) -> bool:
        """Add an event to the log; return False for one that is already there."""
        if self.log is None or not self.log.append(sequence, frame, now):
            return False
        self.chunks.clear()
        self.delivered += 1
        if not frame.facts.is_transient:
            if frame.facts.is_audience or _is_patch(frame.data, b"elements"):
                self.patched_at = sequence
            if _is_patch(frame.data, b"signals"):
                self.signalled_at = sequence
        return True

    def is_changed_after(self, cursor: int, snapshot: bytes) -> bool:
        """Tell whether an event after `cursor` may have changed what a snapshot shows.

        What a transient event shows is worth nothing a moment later.
        """
        return self.patched_at > cursor or (self.signalled_at > cursor and b"datastar-patch-signals" in snapshot)

    def set_presence(self, frame: bytes, number: int) -> None:
        """Replace the presence frame; an empty one is not sent to new connections."""
        self.presence = frame
        self.presence_at = number if frame else 0
        self.chunks.clear()

    def begin(self, log: Log | None) -> None:
        """Have another log, None for none. What comes next does not join what was sent."""
        self.log = log
        self.tape = Tape()
        self.chunks.clear()

    def keep_chunk(self, place: tuple[Any, ...], chunk: Chunk) -> None:
        """Keep the chunk for the next client at this place."""
        if len(self.chunks) >= CHUNKS_KEPT:
            del self.chunks[next(iter(self.chunks))]
        self.chunks[place] = chunk

    def held(self) -> float:
        """Return the lowest cursor of the blocked connections that keep up, infinity without any."""
        return min((reader.cursor for reader in self.blocked if reader.keeps_up()), default=math.inf)


def _is_patch(data: bytes, kind: bytes) -> bool:
    # An event with both has the elements first.
    return b"\nevent: datastar-patch-%b\n" % kind in (data[:200] if kind == b"elements" else data)
