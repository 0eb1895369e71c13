"""What a test says. The fixtures of plugin.py and the mixin of cases.py are these functions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .broadcasts import Broadcasts, recorded
from .hidden import __tracebackhide__, __unittest  # noqa: F401
from .stage import Stage
from .stream import Stream, check_may_listen, check_refused, is_stream
from .visitor import Visitor, url_of

if TYPE_CHECKING:
    from django.test import AsyncClient, Client

    from .live_page import LivePage

_stages: list[Stage] = []


@contextmanager
def staged() -> Iterator[Stage]:
    """Have a stage for the time of a block: the one that is there, or a new one."""
    if _stages:
        yield _stages[-1]
        return
    stage = Stage()
    stage.start()
    _stages.append(stage)
    try:
        yield stage
    finally:
        _stages.remove(stage)
        stage.end()


def current_stage() -> Stage | None:
    """Return the stage that is there."""
    return _stages[-1] if _stages else None


@contextmanager
def capture_broadcasts() -> Iterator[Broadcasts]:
    """Record what is sent in a block:

    >>> with capture_broadcasts() as broadcasts:
    ...     message = Message.objects.create(room=room, text="hi")
    >>> [sent] = broadcasts.assert_sent(f"room-{room.pk}", contains="hi")

    Nothing of it leaves the test, whatever broker the settings name.
    """
    with staged(), recorded() as broadcasts:
        yield broadcasts


def assert_may_listen(
    user: Any,
    to: Any,
    /,
    *args: Any,
    client: "Client | AsyncClient | None" = None,
    headers: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> None:
    """Assert that a user, None for an anonymous visitor, gets the stream of a view.

    `to` is a URL, a view's name, a view class or a view function; the other arguments are those of its path. The
    request runs through the project's whole middleware. A `client` gives its cookies and headers; `headers`, such as
    a token, are added to those of the request.
    """
    with staged() as stage:
        stage.call(lambda: check_may_listen(Visitor(stage, user, client), url_of(to, args, kwargs), headers))


def assert_refused(
    user: Any,
    to: Any,
    /,
    *args: Any,
    status: int = 403,
    client: "Client | AsyncClient | None" = None,
    headers: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> None:
    """Assert that a user, None for an anonymous visitor, is refused the stream of a view, with this status.

    A client that comes back for a stream which it had must be refused too. See assert_may_listen().
    """
    with staged() as stage:
        stage.call(lambda: check_refused(Visitor(stage, user, client), url_of(to, args, kwargs), status, headers))


def open_stream(
    stage: Stage,
    to: Any,
    /,
    *args: Any,
    user: Any = None,
    client: "Client | AsyncClient | None" = None,
    cursor: str | None = None,
    headers: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Stream:
    """Open the stream of a view, as a user, None for an anonymous visitor.

    `cursor` is where the stream begins: broadcast.cursor() of before, or another stream's `cursor`. `headers` are added
    to those of the request; `Last-Event-ID` makes it that of a client that comes back. See assert_may_listen() for the
    other arguments. Raises AssertionError where the stream is refused.
    """

    def open_it() -> Stream:
        query = {"cursor": cursor} if cursor is not None else None
        stream = Stream(Visitor(stage, user, client), url_of(to, args, kwargs, query), headers)
        if not is_stream(stream.response):
            raise AssertionError(f"The stream was refused: {stream.reason}.")
        return stream

    return stage.call(open_it)


async def aopen_stream(stage: Stage, to: Any, /, *args: Any, **kwargs: Any) -> Stream:
    """See open_stream()."""
    return open_stream(stage, to, *args, **kwargs)


def live_page(
    stage: Stage,
    to: Any,
    /,
    *args: Any,
    user: Any = None,
    client: "Client | AsyncClient | None" = None,
    headers: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> "LivePage":
    """Open a page of the site, as a user, None for an anonymous visitor, with the streams that its elements open.

    `to` is the page's URL, or a view as for assert_may_listen(). Redirects are followed. `headers`, such as
    Accept-Language, go with every request of the page. Raises AssertionError for what is no page.
    """
    from .live_page import LivePage

    return stage.call(lambda: LivePage(Visitor(stage, user, client, headers), url_of(to, args, kwargs)))


async def alive_page(stage: Stage, to: Any, /, *args: Any, **kwargs: Any) -> "LivePage":
    """See live_page()."""
    return live_page(stage, to, *args, **kwargs)
