"""The fixtures of the testing kit, for pytest: there when the package is installed."""

from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .broadcasts import Broadcasts
    from .live_page import LivePage
    from .live_server import LiveServer
    from .stage import Clock, Stage
    from .stream import Stream

# The kit is imported by the fixtures: pytest loads this module in every project, before Django is set up.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> "Generator[None, pytest.TestReport, pytest.TestReport]":
    """Show with a failure what the test had open."""
    report = yield
    stage = getattr(item, "funcargs", {}).get("_broadcaster_stage")
    if report.when == "call" and report.failed and stage is not None and stage.open_things():
        report.sections.append(("What the test had open", "\n".join(stage.open_things())))
    return report


@pytest.fixture
def _broadcaster_stage(request: pytest.FixtureRequest) -> "Iterator[Stage]":
    from .kit import staged

    # The database is there before the stage, and after it.
    for name in ("db", "transactional_db"):
        if name in request.fixturenames:
            request.getfixturevalue(name)
    with staged() as stage:
        yield stage


@pytest.fixture
def broadcasts(_broadcaster_stage: "Stage") -> "Iterator[Broadcasts]":
    """What the test sends to channels: a list of Sent, with assert_sent(), assert_nothing_sent() and clear()."""
    from .broadcasts import recorded

    with recorded() as found:
        yield found


@pytest.fixture
def open_stream(_broadcaster_stage: "Stage") -> "Callable[..., Stream]":
    """Open a stream: open_stream("ds_broadcaster:room-channel", pk=room.pk, user=ann)."""
    from .kit import open_stream as open_on

    return partial(open_on, _broadcaster_stage)


@pytest.fixture
def aopen_stream(_broadcaster_stage: "Stage") -> "Callable[..., Awaitable[Stream]]":
    """Open a stream in an async test: await aopen_stream(...)."""
    from .kit import aopen_stream as open_on

    return partial(open_on, _broadcaster_stage)


@pytest.fixture
def live_page(_broadcaster_stage: "Stage") -> "Callable[..., LivePage]":
    """Open a page, with its streams: live_page(f"/rooms/{room.pk}/", user=ann)."""
    from .kit import live_page as open_on

    return partial(open_on, _broadcaster_stage)


@pytest.fixture
def alive_page(_broadcaster_stage: "Stage") -> "Callable[..., Awaitable[LivePage]]":
    """Open a page in an async test: await alive_page(...)."""
    from .kit import alive_page as open_on

    return partial(open_on, _broadcaster_stage)


@pytest.fixture
def broadcaster_clock(_broadcaster_stage: "Stage") -> "Clock":
    """The clock of streams: broadcaster_clock.advance(seconds)."""
    from .stage import Clock

    return Clock(_broadcaster_stage)


@pytest.fixture
def broadcaster_outage(_broadcaster_stage: "Stage") -> "Callable[[], AbstractContextManager[None]]":
    """Have the broker away: `with broadcaster_outage(): ...`."""
    return lambda: _broadcaster_stage.broker.away()  # Of a live server, that is another broker.


@pytest.fixture(scope="session")
def _broadcaster_plain_code(django_db_setup: None) -> "Iterator[None]":
    from .browser import plain_code_beside_a_loop

    # playwright's loop is there until the session ends, also while databases are emptied.
    with plain_code_beside_a_loop():
        yield


@pytest.fixture
def live_asgi_server(
    _broadcaster_plain_code: None, transactional_db: None, _broadcaster_stage: "Stage"
) -> "Iterator[LiveServer]":
    """The site, served with uvicorn in this process: page.goto(live_asgi_server + "/rooms/1/")."""
    from .live_server import live_server

    with live_server() as server:
        yield server
