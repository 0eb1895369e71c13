"""The history that publish.lua keeps: what the memory broker keeps of the same events, with figures that are true."""

import asyncio
import itertools
import struct
from collections.abc import Callable
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ds_broadcaster.brokers import Event
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.compaction import CONTAINER, ELEMENT, NOTHING, REFRESH, SIGNALS, superfluous
from ds_broadcaster.conf import History
from ds_broadcaster.sse import Facts
from ds_broadcaster.testing.brokers.receiver import RecordingReceiver
from tests.fakes import FACTOR
from tests.harness.redis import RedisServer

pytestmark = pytest.mark.brokers

CHANNELS = ("a", "b")
ROOMY = History(max_events=1000)
NARROW = History(max_events=4, max_bytes=400, max_total_bytes=700)

REPLACED = st.sampled_from(
    [None, NOTHING, ELEMENT + "x", ELEMENT + "y", CONTAINER + "x", CONTAINER + "z", SIGNALS + "1", REFRESH]
)
TABS = st.sampled_from([None, None, "tab-1", "tab-2"])
SIZES = st.sampled_from([1, 20, 150])
KEPT = st.builds(
    lambda replaces, exclude: Facts(replaces=replaces, exclude=exclude, is_refresh=replaces == REFRESH), REPLACED, TABS
)
FACTS = KEPT | st.just(Facts(is_transient=True))
STEPS = st.lists(st.lists(st.tuples(st.sampled_from(CHANNELS), SIZES, FACTS), min_size=1, max_size=6), max_size=12)


class Server(NamedTuple):
    """A Redis, and what sends it one command."""

    url: str
    ask: Callable[..., Any]


prefixes = map("history-{}".format, itertools.count())


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server, closing(server.client()) as client:
        yield Server(server.url, client.execute_command)


@contextmanager
def published(server, history, steps):
    """Yield a Redis broker with this history, and a memory broker with room for all: both have published the steps."""
    other = MemoryBroker("", {}, ROOMY)
    other.attach(RecordingReceiver())
    number = itertools.count()
    with closing(RedisBroker(server.url, {"prefix": next(prefixes)}, history)) as ours:
        for step in steps:
            events = [
                Event(channel, b"%d" % next(number) + b"x" * size + b"\n\n", facts) for channel, size, facts in step
            ]
            if len(events) == 1:
                ours.publish(*events[0])
            else:
                ours.publish_all(events)
            replaced_by = superfluous((event.channel.encode(), event.facts) for event in events)
            for event, later in zip(events, replaced_by, strict=True):
                if later is None:  # Otherwise it is not sent.
                    other.publish(*event)
        yield ours, other


def payloads(frames):
    return [frame.data.partition(b"\n")[2] for _, frame in frames]


def kept_by_memory(broker, channel):
    log = broker._logs.get(channel)
    return payloads(log.after(log.floor)) if log is not None else []


def noted(server, broker, channel):
    """Return the newest event that a channel has dropped, None without the channel; check what else is noted of it."""
    prefix = broker.session.prefix
    text = server.ask("hget", f"{prefix}:channels", channel)
    if text is None:
        return None
    _, floor, size, count, _, _, _, names = struct.unpack("<8d", text[:64])
    entries = server.ask("xrange", f"{prefix}:h:{channel}", "-", "+")
    assert count == len(entries)
    assert size == sum(len(fields[b"p"]) for _, fields in entries)
    assert names == server.ask("hlen", f"{prefix}:w:{channel}") <= 2 * count + 16
    assert (names > 0) == (server.ask("ttl", f"{prefix}:w:{channel}") > 0)
    assert count <= 1.25 * broker.limits.max_events
    return int(floor)


def kept_by_redis(server, broker, channel):
    """Return what a client may have of a channel."""
    noted(server, broker, channel)
    broker.locate([channel], broker.cursor())  # It drops what publishing leaves over the limits.
    floor = noted(server, broker, channel)
    return [] if floor is None else payloads(asyncio.run(broker.read(channel, floor)))


def check_total(server, broker):
    prefix = broker.session.prefix
    sizes = [struct.unpack("<8d", each[:64])[2] for each in server.ask("hvals", f"{prefix}:channels") if each]
    total = struct.unpack("<4d", server.ask("get", f"{prefix}:state")[:32])[2]
    assert total == sum(sizes)
    assert total <= broker.limits.max_total_bytes or len(list(filter(None, sizes))) == 1


# The first and the last make the events between them neighbours.
NEIGHBOURS = [("a", 1, Facts(replaces=name)) for name in (ELEMENT + "y", CONTAINER + "x", ELEMENT + "y")]
CONTAINER_AGAIN = [("a", 1, Facts(replaces=name)) for name in (CONTAINER + "x", ELEMENT + "y", CONTAINER + "x")]


@settings(max_examples=60 * FACTOR, deadline=None)
@given(STEPS)
@example([CONTAINER_AGAIN, CONTAINER_AGAIN[2:]])
@example([CONTAINER_AGAIN[:1], NEIGHBOURS])
def test_history_is_that_of_the_memory_broker(server, steps):
    with published(server, ROOMY, steps) as (ours, other):
        for channel in CHANNELS:
            assert kept_by_redis(server, ours, channel) == kept_by_memory(other, channel)
        if any(steps):
            check_total(server, ours)


@settings(max_examples=60 * FACTOR, deadline=None)
@given(STEPS)
def test_history_that_is_full_has_the_newest_of_them(server, steps):
    with published(server, NARROW, steps) as (ours, other):
        for channel in CHANNELS:
            kept = kept_by_redis(server, ours, channel)
            assert len(kept) <= NARROW.max_events
            assert sum(map(len, kept)) <= NARROW.max_bytes
            everything = kept_by_memory(other, channel)
            assert kept == everything[len(everything) - len(kept) :]
        if any(steps):
            check_total(server, ours)


def test_step_of_very_many_names_is_kept(server):
    """Lua puts some thousands of values on its stack."""
    step = [("a", 1, Facts(replaces=f"{ELEMENT}{number}")) for number in range(9000)]
    with published(server, History(max_events=10_000, max_bytes=1 << 30), [step, step[:4500]]) as (ours, _):
        assert len(kept_by_redis(server, ours, "a")) == 9000


def test_transient_event_leaves_what_is_kept_of_others(server):
    """Even where one event is more than all may be."""
    history = History(max_bytes=10_000, max_total_bytes=1000)
    with published(server, history, [[("a", 2000, Facts())], [("b", 1, Facts(is_transient=True))]]) as (ours, other):
        assert kept_by_redis(server, ours, "a") == kept_by_memory(other, "a")
