"""Transient events: for who is there, and nobody later; and what a history keeps of events that replace each other."""

import pytest
from django.test import override_settings

from ds_broadcaster.ids import parse_id
from tests.fakes import KINDS, virtual_world
from tests.harness.sse import Event

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def point(world, text, channel="room", **options):
    world.broadcast(channel, f"<p>{text}</p>", "#pointers", "inner", transient=True, **options)


def shown(client):
    return [text.removeprefix("<p>").removesuffix("</p>") for text in client.texts]


@each_kind
def test_whoever_is_connected_gets_it_in_its_place_and_without_an_id(world, kind):
    client = world.client(kind=kind)
    both = world.client(["hall", "room"], kind=kind)
    world.broadcast("room", "<p>1</p>", "#list", "append")
    kept = world.broadcast.cursor()
    world.settle()
    point(world, 2)
    point(world, 3, key="pointer")
    world.settle()
    assert client.last_id == both.last_id == kept
    world.broadcast("room", "<p>4</p>", "#list", "append")
    world.settle()
    assert shown(client) == shown(both) == ["1", "2", "3", "4"]
    assert client.last_id == both.last_id == world.broadcast.cursor()
    assert [event.id for event in client.events if isinstance(event, Event)][-3:-1] == [kept, kept]


@each_kind
def test_client_that_comes_or_returns_later_does_not(world, kind):
    slow = world.client()
    slow.stall()
    left = world.client(kind=kind)
    world.broadcast("room", "<p>1</p>", "#list", "append")
    world.settle()
    left.vanish()
    before = left.last_id
    point(world, 2)
    world.settle()
    point(world, 3)  # On its way to the hub while clients come.
    clients = [world.client(kind=kind, cursor=cursor) for cursor in (before, None, world.broadcast.cursor())]
    clients.append(world.client(["room", "hall"], kind=kind, cursor=before))
    assert not any(client.texts or client.told_of_gap for client in clients)
    point(world, 4)
    world.broadcast("room", "<p>5</p>", "#list", "append")
    world.settle()
    assert [shown(client) for client in clients] == [["4", "5"]] * 4
    slow.drain()
    world.settle()
    assert shown(slow) == ["1", "2", "3", "4", "5"]


@each_kind
def test_slow_client_gets_the_newest_of_a_key_alone(world, kind):
    client, other = world.client(kind=kind), world.client()
    client.stall()
    world.broadcast("room", "<p>first</p>", "#list", "append")
    world.settle()
    for number in range(50):
        point(world, f"a{number}", key="a")
        point(world, f"b{number}", key="b")
        world.settle()
    world.advance(5)
    world.broadcast("room", "<p>last</p>", "#list", "append")
    client.drain()
    world.settle()
    assert shown(client) == ["first", "a49", "b49", "last"]
    assert len(other.texts) == 102


@override_settings(DS_BROADCASTER_HISTORY={"max_events": 10, "max_bytes": 20_000})
def test_what_waits_for_a_client_that_stalls_is_bounded_and_what_is_dropped_is_no_gap(world):
    client = world.client()
    client.stall()
    world.broadcast("room", "<p>first</p>", "#list", "append")
    world.settle()
    for number in range(200):
        point(world, f"{number} {'x' * 3000}")
        world.settle()
        assert world.hub.channel("room").log.size < 40_000
    world.broadcast("room", "<p>last</p>", "#list", "append")
    world.settle()
    client.drain()
    world.settle()
    got = [text.split(" ")[0] for text in shown(client)]
    assert got == ["first", *(str(number) for number in range(200 - len(got) + 2, 200)), "last"]
    assert 3 < len(got) <= 12
    assert client.end is None


def test_nothing_is_kept_of_it_where_no_client_is_slow(world):
    client = world.client()
    for number in range(30):
        point(world, number)
        world.settle()
    world.advance(2)
    point(world, "last")
    world.settle()
    assert len(world.hub.channel("room").log) == 1
    assert not world.broker._logs
    assert len(client.texts) == 31


@each_kind
def test_tab_that_sent_it_gets_nothing_at_all(world, kind):
    tab = "tab-number-1"
    client = world.client(kind=kind, query=f'datastar={{"broadcastTab":"{tab}"}}'.encode())
    other = world.client(kind=kind)
    before = client.writes
    for number in range(3):
        point(world, number, exclude=tab)
        world.settle()
    assert client.writes == before
    world.broadcast("room", "<p>4</p>", "#list", "append", exclude=tab)
    world.broadcast("room", "<p>5</p>", "#list", "append")
    world.settle()
    assert (shown(client), shown(other)) == (["5"], ["0", "1", "2", "4", "5"])
    assert client.last_id == world.broadcast.cursor()
    assert client.end is None


def test_clients_share_the_bytes(world):
    clients = [world.client() for _ in range(20)]
    point(world, 1)
    world.settle()
    assert len(world.hub.channel("room").chunks) <= 1
    assert {tuple(client.texts) for client in clients} == {("<p>1</p>",)}


def test_heartbeat_moves_on_the_id_of_a_client_that_has_seen_only_transient_events(world):
    client = world.client()
    point(world, 1)
    world.settle()
    world.advance(16)
    assert parse_id(client.last_id)[1] == world.broker.heard()


@each_kind
def test_hidden_tab_that_missed_a_progress_bar_gets_one_event(world, kind):
    client = world.client(kind=kind)
    world.broadcast("room", "<li id=m1>Hello</li>", "#messages", "append")
    world.settle()
    client.vanish()
    for number in range(1000):
        world.broadcast("room", f'<progress id="bar" value="{number}"></progress>')
        if number % 500 == 0:
            world.broadcast("room", f"<li id=n{number}>Hello</li>", "#messages", "append")
    world.settle()
    back = world.client(kind=kind, cursor=client.last_id)
    assert not back.told_of_gap
    assert back.texts == [
        "<li id=n0>Hello</li>",
        "<li id=n500>Hello</li>",
        '<progress id="bar" value="999"></progress>',
    ]


def test_slow_client_gets_the_newest_of_what_replaces_each_other(world):
    client, other = world.client(), world.client()
    client.stall()
    for number in range(500):
        world.broadcast("room", f'<p id="bar">{number}</p>')
        world.settle()
    client.drain()
    world.settle()
    assert client.texts == ['<p id="bar">0</p>', '<p id="bar">499</p>']
    assert len(other.texts) == 500
    assert client.end is None


@each_kind
def test_client_that_keeps_up_gets_each_event_of_a_burst(world, kind):
    """What is superfluous is dropped after a flush, as all that is trimmed."""
    client = world.client(kind=kind)
    for number in range(100):
        world.broadcast("room", f'<p id="bar">{number}</p>')
        point(world, number, key="pointer")
    world.settle()
    assert client.texts == [text for number in range(100) for text in (f'<p id="bar">{number}</p>', f"<p>{number}</p>")]


@each_kind
def test_client_that_returns_after_transient_events_alone_is_caught_up(world, kind):
    world.client()
    cursor = world.broadcast.cursor()
    point(world, 1)
    world.advance(40)  # By then it is gone from the log, and was the newest.
    back = world.client(kind=kind, cursor=cursor)
    world.broadcast("room", "<p>2</p>", "#list", "append")
    world.settle()
    assert shown(back) == ["2"]
