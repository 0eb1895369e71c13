"""The workloads of several processes: two workers that serve, and a process beside them that publishes.

The workers share one core. The load client, the publisher and the store between them share the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .load import Load, warm_up
from .machine import CannotMeasure, cores
from .publisher import Publisher
from .record import Row
from .rounds import Size, in_turn
from .servers import Running, Server
from .stores import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

PUBLISHED = 5000
# Where the store runs that publishers use.
OWN, SHARED = "its own", "shared"
PUBLISHING = (
    "redis-py",
    "redis",
    "redis-threads",
    "redis-coroutines",
    "redis-coroutine",
    "channels",
    "channels-sync",
    "postgres",
    "postgres-threads",
)


def latency(size: Size) -> list[list[Row]]:
    """Measure how long an event is on its way from one process to a client of another: 500 a second, 10 clients.

    `p50_ms`, `p99_ms`: from just before broadcast() to the moment the client has read the event. `per_s`:
    deliveries a second, so a tenth of it is the rate that the publisher really held. `us`: CPU of the workers a
    delivery; `store_us`, `send_us`: CPU of the store and of the publisher an event.
    """
    events = 1000 if size.short else 2500
    return in_turn(size, _cluster, [(key, 10, events, 500.0) for key in ("redis", "postgres")])


def throughput(size: Size) -> list[list[Row]]:
    """Measure a broadcast to 1000 clients of two workers: 4 and 20 events a second, and 100 back to back.

    `us`: CPU of both workers together a delivery, without the store's and the publisher's, which `store_us` and
    `send_us` show an event. `least`: the share of the clients that the worker with fewer of them has.
    Channels is saturated at 20 a second.
    """
    steps = [(1000, 40, 4.0), (1000, 100, 20.0), (1000, 100, 0.0)]
    return in_turn(size, _cluster, [(key, *step) for step in steps for key in ("redis", "channels")])


def _cluster(server: Server, streams: int, events: int, rate: float) -> Row:
    with store_of(server) as store, Running(server, store.env) as running, Publisher(server, store.env) as publisher:
        warm_up(running, publisher)
        with Load(running, streams, events=events, rate=rate, timeout=90, publisher=publisher) as load:
            running.settle()
            split = running.streams()
            stored = store.cpu_seconds()
            seen = load.measure()
            stored = store.cpu_seconds() - stored
        if not seen["events"]:
            raise CannotMeasure(f"{server.title}: no event arrived.\n{running.log()}")
    return {
        "rate": rate,
        "us": seen["cpu"] / seen["events"] * 1e6,
        "store_us": stored / events * 1e6,
        "send_us": seen["published"]["cpu"] / events * 1e6,
        "per_s": seen["events"] / seen["seconds"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "delivered": seen["events"] / seen["expected"],
        "skips": seen["skips"],
        "least": min(split) / sum(split) if len(split) > 1 else 0.0,
    }


def publishing(size: Size) -> list[list[Row]]:
    """Measure one process that publishes as fast as it can to a channel without clients, one event after the other, or
    50 threads or coroutines at once.

    The store runs on a core of its own, as it would on a machine of its own, or shares the publisher's, so that each
    finds the caches full of the other's. `sends_s`: events a second. `send_us`, `store_us`: CPU of the publisher and
    of the store an event.
    """
    return in_turn(size, _publishing, [(key, 0, core) for core in (OWN, SHARED) for key in PUBLISHING])


def _publishing(server: Server, streams: int, store_core: str) -> Row:
    core = cores()[0 if store_core == OWN else 1]
    with store_of(server, core) as store, Publisher(server, store.env) as publisher:
        publisher.begin(500)  # Ours has a history to trim from here on.
        publisher.end()
        stored = store.cpu_seconds()
        publisher.begin(PUBLISHED)
        figures = publisher.end()
        stored = store.cpu_seconds() - stored
    return {
        "store_core": store_core,
        "sends_s": PUBLISHED / figures["seconds"],
        "send_us": figures["cpu"] / PUBLISHED * 1e6,
        "store_us": stored / PUBLISHED * 1e6,
    }


CLUSTER: dict[str, Callable[[Size], list[list[Row]]]] = {
    "latency": latency,
    "throughput": throughput,
    "publishing": publishing,
}
