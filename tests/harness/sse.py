"""A stream as a client sees it: raw bytes, HTTP/1.1 framing, and the WHATWG rules for event streams."""

import codecs
import re
import socket
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.harness.loop import loop_thread

# -- Event streams


@dataclass(frozen=True)
class Event:
    """One dispatched event. `id` is the last event id at that moment, as a browser's `lastEventId` is."""

    type: str
    data: str
    id: str = ""

    @property
    def args(self) -> dict[str, str]:
        """Datastar's data lines by their first word; lines with the same word are joined."""
        found: dict[str, list[str]] = {}
        for line in self.data.split("\n"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
        return {word: "\n".join(lines) for word, lines in found.items()}

    @property
    def elements(self) -> str:
        return self.args.get("elements", "")

    @property
    def signals(self) -> str:
        return self.args.get("signals", "")


@dataclass(frozen=True)
class Comment:
    """A line that clients ignore; its text without the colon and one space."""

    text: str


@dataclass(frozen=True)
class Retry:
    """A new base interval for reconnects."""

    milliseconds: int


@dataclass(frozen=True)
class IdOnly:
    """A frame that carries an id and no data."""

    id: str


Frame = Event | Comment | Retry | IdOnly


class SSEParser:
    """Turn bytes into frames, however they are cut."""

    _line_end = re.compile("\r\n|\r|\n")

    def __init__(self) -> None:
        self.last_event_id = ""
        # The signature variant drops one leading byte order mark, as the rules ask.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line = ""
        self._after_cr = False
        self._type = ""
        self._data: list[str] = []
        self._id_seen = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield what these bytes complete. An event without its blank line is never yielded."""
        text = self._decoder.decode(data)
        if not text:
            return
        if self._after_cr and text[0] == "\n":
            text = text[1:]
        self._after_cr = text.endswith("\r")
        *lines, self._line = self._line_end.split(self._line + text)
        for line in lines:
            yield from self._end_line(line)

    def _end_line(self, line: str) -> Iterator[Frame]:
        if not line:
            yield from self._dispatch()
            return
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name and colon:
            yield Comment(value)
        elif name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self.last_event_id = value
            self._id_seen = True
        elif name == "retry" and value.isascii() and value.isdigit():
            yield Retry(int(value))

    def _dispatch(self) -> Iterator[Frame]:
        if self._data:
            yield Event(self._type or "message", "\n".join(self._data), self.last_event_id)
        elif self._id_seen:
            yield IdOnly(self.last_event_id)
        self._type, self._data, self._id_seen = "", [], False


# -- HTTP/1.1


class ChunkDecoder:
    """Undo `Transfer-Encoding: chunked`; `done` is set by the final chunk alone."""

    def __init__(self) -> None:
        self.done = False
        self._buffer = b""
        self._left = 0  # bytes of the current chunk still to come, its closing CRLF included

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        body = []
        while self._buffer and not self.done:
            if self._left:
                piece = self._buffer[: self._left]
                self._buffer = self._buffer[len(piece) :]
                self._left -= len(piece)
                # What is left afterwards tells how many of the closing CRLF's two bytes this piece holds.
                body.append(piece[: max(0, len(piece) - max(0, 2 - self._left))])
                continue
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                break
            self._buffer = rest
            size = int(line.split(b";")[0], 16)
            if size == 0:
                self.done = True
            else:
                self._left = size + 2
        return b"".join(body)


class LengthDecoder:
    """A body of a known length, or one that lasts until the connection closes."""

    def __init__(self, length: int | None) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        data = data[: self._left]
        self._left -= len(data)
        return data


# -- The client

CLEAN = "clean"  # the body's end was announced: the final chunk, or all of Content-Length
CUT = "cut"  # the connection was closed before that
RESET = "reset"  # the connection was reset
CLOSED = "closed"  # by this client itself

open_clients: "weakref.WeakSet[SSEClient]" = weakref.WeakSet()


@dataclass(eq=False)
class SSEClient:
    """One stream, read in the background from the moment it is made until it ends.

        client = SSEClient(server.url + "/connect/room/", headers={"Cookie": ...})
        event = client.expect("hello")

    `frames` holds everything in order; `events`, `comments`, `retry` and `last_event_id` are views of it.
    `body` holds the bytes of an answer that is no event stream. A small `receive_buffer` (bytes) is full
    soon.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    receive_buffer: int | None = None
    timeout: float = 10

    def __post_init__(self) -> None:
        self.frames: list[Frame] = []
        self.times: list[float] = []  # time.monotonic() of each frame
        self.status: int | None = None
        self.response_headers: dict[str, str] = {}
        self.body = b""
        self.bytes_read = 0
        self.end: str | None = None
        self._changed = threading.Condition()
        self._position = 0
        self._parser = SSEParser()
        self._head = b""
        self._transfer: ChunkDecoder | LengthDecoder = LengthDecoder(None)
        self._content = None
        self._loop = loop_thread()
        self.socket = self._connect()
        open_clients.add(self)
        self._loop.call(self._set_reading, True)

    def _connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        connection = socket.socket()
        try:
            if self.receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            connection.settimeout(self.timeout)
            connection.connect((parts.hostname, parts.port or 80))
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lines = [f"{self.method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Accept: text/event-stream"]
            lines += [f"{name}: {value}" for name, value in self.headers.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection

    # Reading, on the loop's thread

    def _readable(self) -> None:
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return
        except ConnectionError:
            self._finish(RESET)
            return
        with self._changed:
            if data:
                self.bytes_read += len(data)
                self._feed(data)
                done = self.status is not None and self._transfer.done
            if not data:
                unbounded = self.status is not None and isinstance(self._transfer, LengthDecoder)
                self._finish(CLEAN if unbounded and self._transfer._left is None else CUT)
            elif done:
                self._finish(CLEAN)
            self._changed.notify_all()

    def _feed(self, data: bytes) -> None:
        if self.status is None:
            self._head += data
            head, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            self._read_head(head.decode("latin-1"))
        data = self._transfer.feed(data)
        if self._content is not None:
            data = self._content.decompress(data)
        if not self.response_headers.get("content-type", "").startswith("text/event-stream"):
            self.body += data
            return
        now = time.monotonic()
        for frame in self._parser.feed(data):
            self.frames.append(frame)
            self.times.append(now)

    def _read_head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self.status = int(first.split(" ")[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.response_headers[name.strip().lower()] = value.strip()
        length = self.response_headers.get("content-length")
        if self.status in (204, 304) or self.method == "HEAD":
            self._transfer = LengthDecoder(0)
        elif self.response_headers.get("transfer-encoding", "").lower() == "chunked":
            self._transfer = ChunkDecoder()
        else:
            self._transfer = LengthDecoder(None if length is None else int(length))
        if self.response_headers.get("content-encoding") == "gzip":
            self._content = zlib.decompressobj(wbits=31)

    def _finish(self, end: str) -> None:
        with self._changed:
            if self.end is None:
                self.end = end
                self._loop.loop.remove_reader(self.socket.fileno())
                self.socket.close()
            self._changed.notify_all()

    # What has arrived

    @property
    def events(self) -> list[Event]:
        return [frame for frame in list(self.frames) if isinstance(frame, Event)]

    @property
    def comments(self) -> list[str]:
        return [frame.text for frame in list(self.frames) if isinstance(frame, Comment)]

    @property
    def retry(self) -> int | None:
        """The last reconnect interval the server named, in milliseconds."""
        return next((f.milliseconds for f in reversed(list(self.frames)) if isinstance(f, Retry)), None)

    @property
    def last_event_id(self) -> str:
        return self._parser.last_event_id

    # Waiting

    def wait_for(self, condition: Callable[[], object], timeout: float = 5, what: str = "the condition") -> None:
        """Wait until `condition()` is true; it is asked again whenever something arrives."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise AssertionError(f"Waited {timeout} s for {what}. {self._story()}")

    def opened(self, timeout: float = 10) -> int:
        """Wait for the response's headers and return its status."""
        self.wait_for(lambda: self.status is not None or self.end, timeout, "an answer")
        assert self.status is not None, f"The connection ended without an answer ({self.end})."
        return self.status

    def expect(self, wanted: str | Callable[[Event], object], timeout: float = 5) -> Event:
        """Return the next event that `wanted` accepts (text: one that holds it), and move on past it.

        Events that were passed over are not looked at again, so a row of calls also checks the order.
        """
        accepts = (lambda event: wanted in event.data) if isinstance(wanted, str) else wanted
        return self._next(lambda f: isinstance(f, Event) and accepts(f), timeout, f"an event with {wanted!r}")

    def expect_comment(self, wanted: str, timeout: float = 5) -> Comment:
        """Return the next comment that holds this text, and move on past it."""
        return self._next(lambda f: isinstance(f, Comment) and wanted in f.text, timeout, f"a comment with {wanted!r}")

    def expect_frame(self, kind: type[Frame], timeout: float = 5) -> Frame:
        """Return the next frame of this kind (Event, Comment, Retry, IdOnly), and move on past it."""
        return self._next(lambda f: isinstance(f, kind), timeout, f"a frame of kind {kind.__name__}")

    def _next(self, accepts: Callable[[Frame], object], timeout: float, what: str) -> Frame:
        found = []

        def look() -> bool:
            while self._position < len(self.frames):
                frame = self.frames[self._position]
                self._position += 1
                if accepts(frame):
                    found.append(frame)
                    return True
            return self.end is not None

        self.wait_for(look, timeout, what)
        assert found, f"The stream ended ({self.end}) before {what}. {self._story()}"
        return found[0]

    def wait_end(self, timeout: float = 5) -> str:
        """Wait for the stream's end and tell how it ended: "clean", "cut" (no final chunk) or "reset"."""
        self.wait_for(lambda: self.end, timeout, "the stream's end")
        return self.end

    def _story(self) -> str:
        last = "".join(f"\n    {frame}" for frame in self.frames[-20:])
        return (
            f"{self.url}: status {self.status}, end {self.end}, {self.bytes_read} bytes, "
            f"{len(self.frames)} frames, the last ones:{last or ' none'}"
            + (f"\n    body: {self.body[:500]!r}" if self.body else "")
        )

    # Behaving badly

    def stall(self) -> None:
        """Stop reading: the server's writes fill the socket's buffers and then block."""
        self._loop.call(self._set_reading, False)

    def resume(self) -> None:
        """Read on."""
        self._loop.call(self._set_reading, True)

    def _set_reading(self, reading: bool) -> None:
        if self.end is None and reading:
            self._loop.loop.add_reader(self.socket.fileno(), self._readable)
        elif self.end is None:
            self._loop.loop.remove_reader(self.socket.fileno())

    def half_close(self) -> None:
        """Send a FIN and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with an RST."""
        if self.end is None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection, as a browser does that leaves the page."""
        self._loop.call(self._finish, CLOSED)

    def __enter__(self) -> "SSEClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def close_all_clients() -> None:
    """Close what a test left open."""
    for client in list(open_clients):
        client.close()
