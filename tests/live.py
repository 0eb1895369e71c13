"""What the tests of live streams share: servers of the live site, and waiting for a server's state."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import MODES, IdOnly, Server, SSEClient

# FULL_LOAD=1 runs the tests of load at the numbers that are promised; without it they are smaller, and take seconds.
FULL = bool(os.environ.get("FULL_LOAD"))
SITE = "tests.project.live_site"
# For tests that open streams by the hundred: most of an open's time goes into Django's middleware.
BARE = {"ROOT_URLCONF": SITE, "MIDDLEWARE": []}


def live_server(mode: str, kind: str = "uvicorn-httptools", **options: Any) -> Server:
    """Return a server of the live site, not yet started; `settings` are added to its own."""
    options["settings"] = {"ROOT_URLCONF": SITE} | options.get("settings", {})
    return Server(kind, mode, **options)


def each_mode_of(**options: Any) -> Any:
    """Return a fixture: a server of the live site for a whole module, in both modes."""

    @pytest.fixture(scope="module", params=MODES)
    def server(request, django_db_setup):
        with live_server(request.param, **options) as server:
            yield server

    return server


def until(condition: Callable[[], Any], timeout: float = 15) -> Any:
    """Ask again until the condition is true and return what it said. Each question is a request, not a sleep."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"Waited {timeout} s, and it is still {answer!r}."
        time.sleep(0.005)
    return answer


def begun(*clients: SSEClient, timeout: float = 10) -> None:
    """Wait until each stream has begun: its connection is on its channels from then on."""
    for client in clients:
        client.opened(timeout)
        client.wait_for(
            lambda client=client: client.end or any(isinstance(frame, IdOnly) for frame in client.frames),
            timeout,
            "the opening frames",
        )


def open_many(count: int, connect: Callable[[int], SSEClient], *, at_once: int = 40) -> list[SSEClient]:
    """Open streams with `connect(number)`, which does not wait; more `at_once` overflow a server's backlog."""
    clients: list[SSEClient] = []
    for number in range(count):
        clients.append(connect(number))
        if len(clients) % at_once == 0 or number == count - 1:
            begun(*clients[-at_once:], timeout=20)
    return clients


def numbers(client: SSEClient) -> list[int]:
    """Return the numbers of the items that a burst brought to this client."""
    return [
        int(event.elements.partition("item-")[2].partition('"')[0]) for event in client.events if "item-" in event.data
    ]


def told_of_a_gap(client: SSEClient) -> bool:
    return "gap" in client.comments
