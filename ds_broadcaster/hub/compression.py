"""Compression, once for all streams: gzip without an end, in pieces that each are compressed by themselves.

There is no compressor for a stream or a channel. A text is compressed when it is first sent, as raw deflate that ends
flushed, and what that gives is sent to all who get the text. A text may refer to what came before it: then it is for
streams alone that were sent exactly that, last. What a channel sends to all its clients is on the channel's Tape, and
a stream that is at the end of the tape is in step. Whatever is for one client, or of another channel, is compressed
without a reference to anything, and the stream is out of step until it has the next text of a tape.

Nothing but this module tells which bytes a stream may be sent: to one out of step, others decode to a wrong text, and
no checksum tells. A stream ends without gzip's trailer: all clients take that for its end.
"""

import zlib
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

# Deflate refers back to at most so many bytes.
WINDOW = 1 << 15
# Begins a gzip stream: the method is deflate, and nothing is said of name, time and system.
HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# An empty block: a sign of life that is no text, and leaves a stream in step.
EMPTY_BLOCK = b"\0\0\0\xff\xff"
# Bytes. A block that is stored as it is has at most so many.
_STORED_MOST = (1 << 16) - 1
# Bytes. What is shorter is not worth zlib's memory: heartbeats, for example.
_TOO_SHORT = 100
# Bytes of a text and its dictionary up to which a small memory is as good, and set up in a third of the time.
_SHORT = 4 << 10
# Bytes beyond which the fastest level is used, so that the event loop is held up for milliseconds at most.
_LONG = 64 << 10


class Piece(NamedTuple):
    """A part of a chunk which is not compressed with the others, and not at all when it `is_stored`."""

    text: bytes
    is_stored: bool = False


def pieces_of(parts: Iterable[tuple[str, Piece]]) -> tuple[Piece, ...]:
    """Return pieces, joined as far as they follow one another, belong to the same channel and are of one kind."""
    return tuple(
        Piece(b"".join(piece.text for _, piece in group), is_stored)
        for (_, is_stored), group in groupby(parts, lambda part: (part[0], part[1].is_stored))
    )


def packed(piece: Piece, dictionary: bytes = b"") -> bytes:
    """Return a piece as blocks of deflate, which may refer to the `dictionary`, the bytes before it."""
    text = piece.text
    if piece.is_stored or (len(text) < _TOO_SHORT and not dictionary):
        return b"".join(_stored(text[begin : begin + _STORED_MOST]) for begin in range(0, len(text), _STORED_MOST))
    size = len(text) + len(dictionary)
    level, memory = 1 if len(text) > _LONG else 6, 5 if size < _SHORT else 8
    if dictionary:
        compressor = zlib.compressobj(
            level, zlib.DEFLATED, -zlib.MAX_WBITS, memory, zlib.Z_DEFAULT_STRATEGY, dictionary
        )
    else:
        compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
    return compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _stored(text: bytes) -> bytes:
    size = len(text).to_bytes(2, "little")
    return b"\0%b%b%b" % (size, bytes(each ^ 255 for each in size), text)


class Mark:
    """Where a stream is: at the end of a text on a tape, `offset` bytes from the tape's beginning, or at none.

    Marks are told apart by identity. `tells_id` where a client that has the text knows the id of its last event.
    """

    __slots__ = ("offset", "tells_id")

    def __init__(self, offset: int = 0, *, tells_id: bool = False) -> None:
        self.offset = offset
        self.tells_id = tells_id


# Of a stream that was sent nothing yet, not even the header; and of one that was last sent what is on no tape.
NOT_BEGUN = Mark()
OUT_OF_STEP = Mark()


class Segment(NamedTuple):
    """A text's place on a tape: between two marks, after the bytes in the `window`, the last text with `previous`."""

    before: Mark
    after: Mark
    window: bytes
    previous: int

    def dictionary(self, mark: Mark, since: int) -> bytes:
        """Return what the text may refer to, for a stream at a mark which is in step since an offset."""
        if mark is not self.before:
            return b""
        if mark.offset - since >= len(self.window):
            return self.window
        return self.window[-self.previous :]


class Tape:
    """What a channel sent to all clients that take gzip: the newest bytes, as far back as deflate refers.

    Only what is newer than all that is on it is put on it, which is what those clients get that keep up. What a client
    gets that is slow, or new and has seen no presence yet, would put all the others out of step.

    `is_quiet` may be set, and is no longer true after the next text.
    """

    __slots__ = ("_cursor", "_end", "_presence_at", "_previous", "_window", "is_quiet")

    def __init__(self) -> None:
        self.is_quiet = False
        self._cursor = -1
        self._presence_at: float = 0
        self._end = Mark()
        self._window = b""
        self._previous = 0

    @property
    def size(self) -> int:
        """The bytes held."""
        return len(self._window)

    def forget(self) -> None:
        """Hold nothing. Every stream is out of step until it has the next text."""
        self._end = Mark()
        self._window = b""
        self._previous = 0

    def take(self, text: bytes, place: "Place", cursor: int, presence_at: float) -> Segment | None:
        """Put a text at the end of the tape; return None for one that begins before that."""
        has_presence = place.presence_at < presence_at
        if place.first <= self._cursor or (has_presence and place.presence_at < self._presence_at):
            return None
        self.is_quiet = False
        self._cursor = cursor
        if has_presence:
            self._presence_at = presence_at
        last_event = text[text.rfind(b"\n\n", 0, -1) + 1 :].lstrip(b"\n")
        after = Mark(self._end.offset + len(text), tells_id=last_event.startswith(b"id:"))
        segment = Segment(self._end, after, self._window, self._previous)
        self._end = after
        self._window = (self._window + text)[-WINDOW:]
        self._previous = min(len(text), WINDOW)
        return segment


class Place(NamedTuple):
    """Where on a tape a text may be put: its first event has the sequence `first`.

    Its clients have seen presence up to the number `presence_at`.
    """

    tape: Tape
    first: int
    presence_at: float
