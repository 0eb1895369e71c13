"""A stream in a test, and who may have one."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from ..hub.connections import Connection
from ..hub.hub import REFUSED
from ..ids import format_id
from ..sse import Mode
from ..streams.responses import BroadcastResponse
from .events import Description, Event, Parser, Verb
from .hidden import __tracebackhide__, __unittest  # noqa: F401
from .stage import Stage
from .visitor import Visitor

if TYPE_CHECKING:
    from django.db.models import Model

_TITLE = re.compile(r"<title>\s*(.*?)\s*</title>", re.DOTALL | re.IGNORECASE)

# What the Datastar client sends with the request for a stream.
HEADERS = {"Accept": "text/event-stream, text/html, application/json", "Datastar-Request": "true"}


class Stream:
    """An open stream of a test: a client that takes everything at once, and does not come back when it ends.

    `events` are all that came so far, `cursor` is the id that a client would come back with, `reason` says why the
    stream ended, and `response` is Django's. next() gives what comes after the stream has opened, and what it missed:
    the presence that it opens with is in `events` alone.
    """

    def __init__(
        self, visitor: Visitor, url: str, headers: Mapping[str, str] | None = None, name: str | None = None
    ) -> None:
        self.url = url
        self.events: list[Event] = []
        self.reason: str | None = None
        self._stage = stage = visitor.stage
        self._parser = Parser()
        self._unread: list[Event] = []
        self._connection: Connection | None = None
        self.response = visitor.get(url, {**HEADERS, **(headers or {})})
        self.status: int = self.response.status_code
        if not is_stream(self.response):
            self.reason = f"{urlsplit(url).path} answered with {refusal_of(stage, self.response)}"
            return
        stage.opened(self, name or f"the stream of {url}")
        before = stage.presence()
        self._reading = stage.begin(self._read())
        stage.settle()
        shown = [event for frames in (before | stage.presence()) for event in Parser().feed(frames)]
        self._unread = [each for each in self._unread if each not in shown]

    @property
    def cursor(self) -> str:
        """The id of the last event, or of the moment at which the stream opened."""
        return self._parser.cursor

    @property
    def is_final(self) -> bool:
        """Whether it ended in a way after which a client that knows nothing of ds_broadcaster does not come back."""
        closing = None if self._connection is None else self._connection.closing
        return self.reason is not None and (closing is None or closing.clean)

    @property
    def is_open(self) -> bool:
        """Whether the stream is open, now that all that is on its way has come."""
        self._stage.settle()
        return self.reason is None

    def next(
        self,
        *,
        verb: Verb | None = None,
        mode: Mode | None = None,
        target: "str | Model | None" = None,
        contains: str | None = None,
        signals: Mapping[str, Any] | None = None,
    ) -> Event:
        """Return the next event. AssertionError says what came instead of one that is as described, or of any.

        See Event.differences() for what describes it.
        """
        self._stage.settle()
        if not self._unread:
            ended = "" if self.reason is None else f" The stream has ended: {self.reason}."
            raise AssertionError(f"No event came on {self.url}.{ended}{self._history()}")
        event = self._unread.pop(0)
        found = event.differences(verb=verb, mode=mode, target=target, contains=contains, signals=signals)
        if found:
            raise AssertionError(f"Another event came on {self.url}: {event}{_lines(found)}")
        return event

    def __iter__(self) -> Iterator[Event]:
        """Yield the events that next() has not returned yet, and end there: it does not wait for more."""
        self._stage.settle()
        while self._unread:
            yield self._unread.pop(0)

    def assert_nothing(self) -> None:
        """Assert that no event came that next() has not returned."""
        self._stage.settle()
        if self._unread:
            raise AssertionError(f"{len(self._unread)} came on {self.url}:{_lines(self._unread)}")

    def assert_open(self) -> None:
        """Assert that the stream is open."""
        if not self.is_open:
            raise AssertionError(f"The stream of {self.url} has ended: {self.reason}.")

    def assert_closed(self) -> None:
        """Assert that the site has closed the stream; `reason` then says why."""
        if self.is_open:
            raise AssertionError(f"The stream of {self.url} is open.{self._history()}")

    def close(self) -> None:
        """Leave, as a client that closes its connection."""
        if self.reason is None:
            self.reason = "the client left"
            self._reading.cancel()
            self._stage.settle()

    # Async twins.

    async def anext(self, **described: Unpack[Description]) -> Event:
        """See next()."""
        return await self._stage.acall(self.next, **described)

    async def aassert_nothing(self) -> None:
        """See assert_nothing()."""
        await self._stage.acall(self.assert_nothing)

    async def aassert_open(self) -> None:
        """See assert_open()."""
        await self._stage.acall(self.assert_open)

    async def aassert_closed(self) -> None:
        """See assert_closed()."""
        await self._stage.acall(self.assert_closed)

    async def aclose(self) -> None:
        """See close()."""
        await self._stage.acall(self.close)

    def __repr__(self) -> str:
        return f"<Stream {self.url}: {'open' if self.reason is None else self.reason}>"

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    async def _read(self) -> None:
        is_gzip = self.response.headers.get("Content-Encoding") == "gzip"
        decode: Callable[[bytes], bytes] = zlib.decompressobj(31).decompress if is_gzip else bytes
        try:
            async for part in self.response:
                self._connection = self._connection or self._find_connection()
                for event in self._parser.feed(decode(part)):
                    self.events.append(event)
                    self._unread.append(event)
        except Exception as error:
            self.reason = self.reason or f"it failed with {error!r}"
        finally:
            self.reason = self.reason or self._why()
            self._stage.closed(self)

    def _why(self) -> str:
        closing = None if self._connection is None else self._connection.closing
        if closing is None:
            return "it could not begin" if is_ours(self.response) else "its view ended it"
        refusal = self._stage.refusals.get(self.response.asgi_request.path) if closing.why == REFUSED else None
        return closing.why if refusal is None else f"{closing.why} ({refusal})"

    def _history(self) -> str:
        return f" Before came:{_lines(self.events)}" if self.events else ""

    def _find_connection(self) -> Connection | None:
        scope = self.response.asgi_request.scope
        return next((each for each in self._stage.connections() if each.request.scope is scope), None)


def is_stream(response: Any) -> bool:
    """Tell whether a response is a stream of events."""
    return bool(response.streaming) and response.headers.get("Content-Type") == "text/event-stream"


def is_ours(response: Any) -> bool:
    """Tell whether a response is a stream of ds_broadcaster's, and not of the project's own."""
    return isinstance(response, BroadcastResponse)


def refusal_of(stage: Stage, response: Any) -> str:
    """Return the status of a response that is no stream, and why it is none, where that is known."""
    why = stage.refusals.get(response.asgi_request.path)
    said = f": {why}" if why is not None else _said_by(response)
    to = f" to {response.headers['Location']}" if "Location" in response.headers else ""
    return f"{response.status_code}{to}{said}"


def _said_by(response: Any) -> str:
    """Return what a response says, in a few words: the title of a page, or the beginning of other text."""
    if is_stream(response):
        return " and a stream, which open_stream() opens"
    text = "" if response.streaming else response.content[:2000].decode(errors="replace")
    if "text/html" not in response.headers.get("Content-Type", ""):
        return f" and {text[:200]!r}" if text else ""
    title = _TITLE.search(text)
    hint = ", which is no stream: name the view that its element asks" if response.status_code == 200 else ""
    return f" and a page{f', {title[1]!r}' if title else ''}{hint}"


def check_may_listen(visitor: Visitor, url: str, headers: Mapping[str, str] | None = None) -> None:
    """Raise AssertionError unless the visitor gets the stream at a URL, with these headers beside a client's."""
    response = visitor.get(url, {**HEADERS, **(headers or {})})
    visitor.stage.run(closed(response))
    if not is_stream(response):
        raise AssertionError(
            f"{_named(visitor)} may not listen at {url}: it answered with {refusal_of(visitor.stage, response)}."
        )


def check_refused(visitor: Visitor, url: str, status: int, headers: Mapping[str, str] | None = None) -> None:
    """Raise AssertionError unless the visitor is refused the stream at a URL, with this status.

    A client that comes back for a stream must be refused too, with 204, which ends its tries, or the status.
    """
    broker = visitor.stage.broker
    returning = {"Last-Event-ID": format_id(broker.epoch, broker.heard())}
    for expected, back in (({status}, {}), ({204, status}, returning)):
        response = visitor.get(url, {**HEADERS, **(headers or {}), **back})
        visitor.stage.run(closed(response))
        if response.status_code in expected and not is_stream(response):
            continue
        comes = ", coming back," if back else ""
        if is_stream(response):
            raise AssertionError(f"{_named(visitor)}{comes} may listen at {url}, and was to be refused with {status}.")
        found = "found no stream" if response.status_code == 200 else "is refused"
        raise AssertionError(
            f"{_named(visitor)}{comes} {found} at {url}: it answered with "
            f"{refusal_of(visitor.stage, response)}, not with {' or '.join(map(str, sorted(expected)))}."
        )


async def closed(response: Any) -> None:
    """Close a response that is not read; Django has closed the others."""
    if response.streaming:
        response.close()


def _named(visitor: Visitor) -> str:
    return "An anonymous visitor" if visitor.user is None else f"User {visitor.user}"


def _lines(things: Iterable[object]) -> str:
    return "".join(f"\n  - {each}" for each in things)
