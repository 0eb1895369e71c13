"""The workloads of streams that open: at any time, all at once after they were away, and beside a database."""

from __future__ import annotations

import contextlib
import http.client
import time
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING
from urllib.request import urlopen

from .load import Load, warm_up
from .machine import CannotMeasure
from .publisher import publisher_of
from .record import Row
from .rounds import Size, in_turn
from .servers import Running, Server
from .stores import log_in, store_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .publisher import Publisher
    from .stores import Store

TURNS = 2
MISSED = 50  # events, for each client that returns


def connect(size: Size) -> list[list[Row]]:
    """Measure what opening a stream costs, each on a new connection, and what it adds to a page that does nothing.

    `page_us`, `open_us`: CPU of the server for a page and for a stream, both with their connection, which is left
    open: 1000 of each, in two turns, and the mean of the turns. `added_us`: their difference. `view` is the kind
    of view that both have.
    """
    cases = [("handoff", "sync"), ("handoff", "async"), ("plain", "sync"), ("plain", "async")]
    cases += [("eventstream", "sync"), ("starlette", "async"), ("nchan", "")]
    return in_turn(size, _connect, [(key, 1000, view) for key, view in cases])


def _connect(server: Server, streams: int, view: str) -> Row:
    page = "/sync" if view == "sync" else "/async"
    stream = "/async-stream" if view == "async" and server.key in ("handoff", "plain") else "/stream"
    costs: dict[str, list[float]] = {page: [], stream: []}
    with Running(server) as running, publisher_of(running) as publisher:
        warm_up(running, publisher)
        for _ in range(TURNS):
            for path in (page, stream):
                running.settle()
                before = running.cpu_seconds()
                with Load(running, streams, path=path, is_page=path == page, timeout=120):
                    running.settle()
                    costs[path].append((running.cpu_seconds() - before) / streams * 1e6)
    page_us, open_us = map(mean, costs.values())
    return {"view": view, "page_us": page_us, "open_us": open_us, "added_us": open_us - page_us}


def reconnect(size: Size) -> list[list[Row]]:
    """Measure 1000 clients that return at once, each with the id of the last event it has had and 50 to come.

    `cpu_s`: CPU seconds of the server from the first connection until all have all they missed; `all_s`: seconds
    until then. `delivered`: the share of the missed events that came, over 1 where some came twice; `skips`: events
    out of order.
    """
    keys = ("handoff", "uvloop", "plain", "eventstream-stored", "starlette", "nchan")
    return in_turn(size, _reconnect, [(key, 1000) for key in keys])


def _reconnect(server: Server, streams: int) -> Row:
    with _served(server) as (running, publisher, _):
        warm_up(running, publisher)
        cursor = _cursor(running, publisher)
        _publish(running, publisher, MISSED)
        running.settle()
        header = f"Last-Event-ID: {cursor}" if cursor else ""
        before, start = running.cpu_seconds(), time.monotonic()
        with Load(running, streams, header=header, expected=MISSED * streams, quiet=3, timeout=90) as load:
            seen = load.measure()
            whole = seen["least"] >= MISSED
            return {
                "cpu_s": running.cpu_seconds() - before,
                "all_s": time.monotonic() - start if whole else None,
                "delivered": seen["events"] / seen["expected"],
                "skips": seen["skips"],
            }


def _cursor(running: Running, publisher: Publisher | None) -> str:
    """Return the id of the newest event, as a client gets it; "" where events have none."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/stream", headers={"Accept": "text/event-stream", "Datastar-Request": "true"})
        answer = connection.getresponse()
        time.sleep(0.2)  # Some servers answer before they listen.
        _publish(running, publisher, 1)
        newest, seen = "", False
        for line in iter(answer.readline, b""):
            if line.startswith(b"id:"):
                newest = line[3:].decode().strip()
            elif b"data-ts" in line:
                seen = True
            elif not line.strip() and seen:
                return newest
    raise CannotMeasure(f"{running.server.title} ended a stream.")


def _publish(running: Running, publisher: Publisher | None, events: int) -> None:
    if publisher is not None:
        publisher.begin(events)
        publisher.end()
    else:
        urlopen(f"http://127.0.0.1:{running.port}/publish?events={events}&rate=0&size=200&make=distinct").close()


def databases(size: Size) -> list[list[Row]]:
    """Measure the connections to PostgreSQL that a process holds while a logged-in user has 1000 or 10,000 streams.

    `databases`: connections to it, with sessions and users as `startproject` sets them up; django-eventstream
    keeps its events there too, without which a client that returns misses what was sent meanwhile.
    """
    cases = [("handoff-database", 1000), ("plain-database", 1000), ("eventstream-stored", 1000)]
    cases += [("handoff-database", 10_000), ("plain-database", 10_000)]
    return in_turn(replace(size, rounds=1), _databases, cases)  # They are not a matter of luck.


def _databases(server: Server, streams: int) -> Row:
    with _served(server) as (running, publisher, store):
        assert store is not None
        warm_up(running, publisher)
        with Load(running, streams, header=f"Cookie: sessionid={log_in(server, store)}", timeout=120):
            running.settle()
            return {"databases": running.connections_to(store.port), "threads": running.threads()}


@contextlib.contextmanager
def _served(server: Server) -> Iterator[tuple[Running, Publisher | None, Store | None]]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_of(server)) if server.store else None
        running = stack.enter_context(Running(server, store.env if store else None))
        yield running, stack.enter_context(publisher_of(running)), store
