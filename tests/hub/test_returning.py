"""Clients that return together, to a process that was not there when they left: what they missed is read for all."""

import asyncio
import random

import pytest
from django.test import override_settings

from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.hub import channel as channel_module
from ds_broadcaster.hub.channels import FILLED
from ds_broadcaster.log import Log
from ds_broadcaster.sse import Facts, Frame
from tests.fakes import KINDS, virtual_world

each_kind = pytest.mark.parametrize("kind", KINDS)


class SlowBroker(MemoryBroker):
    """Its history takes a moment, and counts how often it was read. `meanwhile` is called when it has been."""

    meanwhile = None

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.reads = []

    async def read(self, channel, cursor):
        self.reads.append((channel, cursor))
        found = await super().read(channel, cursor)
        await asyncio.sleep(0.001)
        if self.meanwhile is not None:
            self.meanwhile()
        return found


@pytest.fixture
def world():
    with virtual_world(broker_class=SlowBroker) as world:
        yield world


def publish(world, count, channel="room", first=0):
    """Return the ids before each of so many events, and their texts."""
    ids, texts = [], [f"<p id=e{number}>" for number in range(first, first + count)]
    for text in texts:
        ids.append(world.broadcast.cursor())
        world.broadcast(channel, text)
    world.settle()
    return ids, texts


def come_back(world, cursors, channels="room", **options):
    """Return clients that come at the same moment, each with its id."""
    clients = [world.client(channels, cursor=cursor, **options) for cursor in cursors]
    for _ in range(20):
        world.advance(0.001)
    return clients


@each_kind
def test_what_many_missed_is_read_once_for_all(world, kind):
    [cursor, *_], texts = publish(world, 30)
    clients = come_back(world, [cursor] * 20, kind=kind)
    assert len(world.broker.reads) == 1
    assert all(client.texts == texts and not client.told_of_gap for client in clients)
    _, new = publish(world, 1, first=30)
    assert all(client.texts == texts + new for client in clients)


def test_each_gets_what_came_after_its_own_id(world):
    cursors, texts = publish(world, 50)
    places = [random.Random(7).randrange(50) for _ in range(100)]
    clients = come_back(world, [cursors[place] for place in places])
    assert all(client.texts == texts[place:] for client, place in zip(clients, places, strict=True))
    # Once for each that is older than all before it.
    lowest = {min(places[: number + 1]) for number in range(100)}
    assert len(world.broker.reads) <= len(lowest)


def test_what_they_missed_is_compressed_once_for_all(world, monkeypatch):
    made = []
    packed = channel_module.packed

    def counted(piece, *dictionary):
        made.append(piece.text)
        return packed(piece, *dictionary)

    monkeypatch.setattr(channel_module, "packed", counted)
    [cursor, *_], texts = publish(world, 30)
    clients = come_back(world, [cursor] * 20, gzip=True)
    assert all(client.texts == texts for client in clients)
    assert sum(b"<p id=e29>" in text for text in made) == 1


def test_streams_of_many_channels_share_nothing_that_more_than_one_client_may_hold(world):
    names = [f"room-{number}" for number in range(5)]
    cursor = world.broadcast.cursor()
    for number, name in enumerate(names):
        publish(world, 1, name, first=number)
    clients = come_back(world, [cursor] * 2, names)
    assert all(client.texts == [f"<p id=e{number}>" for number in range(5)] for client in clients)
    assert len(world.broker.reads) == 10


def test_refreshes_that_were_missed_are_one_snapshot_for_each(world):
    [cursor], texts = publish(world, 1)
    world.broadcast.refresh("room")
    world.broadcast.refresh("room")
    clients = come_back(world, [cursor] * 3, snapshot_callback=lambda request, channel: "<b>now</b>")
    assert all(client.texts == [*texts, "<b>now</b>"] for client in clients)
    clients = come_back(world, [cursor] * 3)
    assert all(client.texts == texts for client in clients)
    assert len(world.hub.channel("room").log) == 0  # Nor do those stop there that have no snapshot.


def test_what_was_read_is_forgotten_in_time(world):
    [cursor, *_], texts = publish(world, 10)
    come_back(world, [cursor])
    log = world.hub.channel("room").log
    assert len(log) == 10
    world.advance(2 * FILLED)
    assert len(world.hub.channel("room").log) == 0
    [client] = come_back(world, [cursor])
    assert client.texts == texts


@override_settings(DS_BROADCASTER_HISTORY={"max_total_bytes": 40_000, "max_bytes": 30_000})
def test_logs_of_all_channels_hold_no_more_than_the_cap(world):
    for number in range(3):
        cursor = world.broadcast.cursor()
        for each in range(8):
            world.broadcast(f"room-{number}", f"<p id=e{each}>{'x' * 3000}</p>")
        [client] = come_back(world, [cursor], f"room-{number}")
        assert len(client.texts) == 8
    assert sum(world.hub.channel(f"room-{number}").log.size for number in range(3)) <= 40_000


def test_client_that_leaves_while_its_history_is_read_leaves_nothing(world):
    [cursor, *_], _ = publish(world, 10)
    client = world.client(cursor=cursor, kind="taken over")
    assert world.broker.reads
    client.vanish()
    world.settle()
    assert world.hub.channel("room") is None
    for _ in range(20):
        world.advance(0.001)
    world.advance(60)
    assert world.hub.is_idle()


def test_event_that_comes_while_the_history_is_read_follows_it(world):
    [cursor, *_], texts = publish(world, 10)
    world.broker.meanwhile = lambda: world.broadcast("room", "<p id=meanwhile>")
    [client] = come_back(world, [cursor])
    assert client.texts == [*texts, "<p id=meanwhile>"]


def test_history_of_another_epoch_is_none_of_the_log(world):
    [cursor, *_], _ = publish(world, 10)

    def begin_anew():
        world.broker.epoch = "other"

    world.broker.meanwhile = begin_anew
    [client] = come_back(world, [cursor])
    assert client.texts == []
    assert client.end == "cut"


def test_log_with_older_frames_is_as_if_it_had_always_had_them():
    frames = [
        (2, Frame(b"id: a-2\n\n")),
        (3, Frame(b"id: a-3\n\n", Facts(exclude="tab-0001"))),
        (5, Frame(b"id: a-5\n\n", Facts(is_uncompressed=True))),
        (6, Frame(b"id: a-6\n\n", Facts(is_refresh=True))),
        (9, Frame(b"transient\n\n", Facts(is_transient=True, key="k"))),
    ]
    whole = Log(1)
    for sequence, frame in frames:
        whole.append(sequence, frame, 10.0)
    late = Log(4)
    for sequence, frame in frames[2:]:
        late.append(sequence, frame, 10.0)
    filled = late.with_older(frames[:2], 1, 10.0)
    for name in Log.__slots__:
        assert getattr(filled, name) == getattr(whole, name), name
