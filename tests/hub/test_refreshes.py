"""Refreshes: what each page shows now, rendered anew; when, how often, and in which order with events."""

import asyncio
from unittest.mock import patch

import pytest

from ds_broadcaster.hub import refreshes
from ds_broadcaster.hub.grant import Audience
from ds_broadcaster.hub.refreshes import PARALLEL, PATIENCE, Rendered
from ds_broadcaster.sse import OWING, Facts, encode_elements, encode_signals
from tests.fakes import virtual_world
from tests.hub.test_hub import each_kind


class Site:
    """Renders what its pages show: the text `now`, which takes `seconds`."""

    def __init__(self):
        self.now = "<p id='x'>0</p>"
        self.seconds = 0
        self.rendered = []
        self.running = self.most = 0
        self.refused = set()

    async def render_own(self, connection, refreshed):
        self.rendered.append((connection, refreshed))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            now = self.now
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return Rendered(encode_elements(now), connection.user_id not in self.refused)
        finally:
            self.running -= 1

    def render_event(self, payload, audience):
        self.rendered.append((payload, audience))
        return encode_elements(f"<i id='e'>{payload.decode().strip()} {audience}</i>")

    def audience(self, value):
        def render():
            self.rendered.append((None, value))
            return encode_elements(f"{self.now} for {value}")

        return Audience(value, ("view", value), render)


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def world(site):
    with virtual_world(render_own=site.render_own, render_event=site.render_event) as world:
        yield world


def viewer(world, **options):
    """A client whose view renders a snapshot."""
    return world.client(snapshot_callback=lambda request, channel: "<p id='gap'></p>", **options)


def test_stream_gets_what_its_page_shows_now(world, site):
    client, other = viewer(world), world.client()
    world.broadcast.refresh("room")
    world.settle()
    assert client.texts == [site.now]
    assert other.texts == []
    assert client.last_id == other.last_id == world.broadcast.cursor()


@each_kind
def test_events_after_a_refresh_wait_for_it(world, site, kind):
    client = viewer(world, kind=kind)
    site.seconds = 1
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='b'></b>")
    world.advance(0.9)
    assert client.texts == []
    world.advance(0.2)
    assert client.texts == [site.now, "<b id='b'></b>"]
    assert client.last_id == world.broadcast.cursor()


@each_kind
def test_update_during_a_render_is_not_undone(world, site, kind):
    client = viewer(world, kind=kind)
    site.seconds = 1
    world.broadcast.refresh("room")
    world.advance(0.5)
    site.now = "<p id='x'>1</p>"
    world.broadcast("room", site.now)
    world.advance(1)
    assert client.texts == ["<p id='x'>0</p>", "<p id='x'>1</p>"]


def test_unchanged_snapshot_is_not_sent(world, site):
    client = viewer(world)
    for _ in range(3):
        world.broadcast.refresh("room")
        world.advance(1)
    assert len(site.rendered) == 3
    assert client.texts == [site.now]
    assert client.last_id == world.broadcast.cursor()


def test_snapshot_is_sent_again_after_an_event_that_changed_the_page(world, site):
    client = viewer(world)
    world.broadcast.refresh("room")
    world.advance(1)
    world.broadcast("room", "<p id='x'>9</p>")
    world.broadcast.refresh("room")
    world.advance(1)
    assert client.texts == [site.now, "<p id='x'>9</p>", site.now]


def test_signals_alone_change_no_elements(world, site):
    client = viewer(world)
    for number in range(2):
        world.broadcast.refresh("room")
        world.advance(1)
        world.broadcast.signals("room", {"n": number})
    assert client.texts == [site.now]


def test_many_refreshes_are_few_renders_and_the_last_one_counts(world, site):
    client = viewer(world)
    for number in range(100):
        site.now = f"<p id='x'>{number}</p>"
        world.broadcast.refresh("room")
        world.advance(0.01)
    world.advance(1)
    assert len(site.rendered) <= 4
    assert client.texts[-1] == "<p id='x'>99</p>"
    assert client.last_id == world.broadcast.cursor()


def test_client_that_leaves_while_it_owes_a_refresh_has_missed_it_and_nothing_else(world, site):
    client = viewer(world)
    world.broadcast.refresh("room")
    world.settle()
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='b'></b>")
    world.advance(0.1)
    assert client.texts == [site.now, "<b id='b'></b>"]
    assert client.last_id == world.broadcast.cursor() + OWING
    client.vanish()
    world.settle()
    back = viewer(world, cursor=client.last_id)
    assert back.told_of_gap
    assert back.texts == ["<p id='gap'></p>"]
    assert back.last_id == world.broadcast.cursor()


def test_returning_client_that_missed_refreshes_gets_the_events_and_one_snapshot(world):
    client, plain = viewer(world), world.client()
    client.vanish(), plain.vanish()
    world.broadcast("room", "<b id='b'></b>")
    for _ in range(5):
        world.broadcast.refresh("room")
    world.settle()
    back, plain_back = viewer(world, cursor=client.last_id), world.client(cursor=plain.last_id)
    assert back.texts == ["<b id='b'></b>", "<p id='gap'></p>"]
    assert plain_back.texts == ["<b id='b'></b>"]
    assert plain_back.last_id == back.last_id == world.broadcast.cursor()


def test_excluded_tab_is_not_refreshed(world, site):
    client = viewer(world, query=b"datastar=%7B%22broadcastTab%22%3A%22tab-number-1%22%7D")
    world.broadcast.refresh("room", exclude="tab-number-1")
    world.settle()
    assert client.texts == []
    assert client.last_id == world.broadcast.cursor()


def test_refused_viewer_loses_the_stream(world, site):
    ada, bob = viewer(world, user_id=1), viewer(world, user_id=2)
    site.refused = {1}
    world.broadcast.refresh("room")
    world.settle()
    assert (ada.texts, bob.texts) == ([], [site.now])
    assert ada.end is not None
    assert bob.end is None


def test_streams_of_their_own_take_turns(world, site):
    site.seconds = 0.25  # As long as a step of the clock.
    clients = [viewer(world) for _ in range(10)]
    world.broadcast.refresh("room")
    world.advance(0.25 * 10 / PARALLEL)
    assert site.most == PARALLEL
    assert [client.texts for client in clients] == [[site.now]] * 10
    assert len(site.rendered) == 10


def test_one_render_for_each_audience(world, site):
    staff, rest = site.audience("staff"), site.audience("rest")
    clients = [viewer(world, audience=staff if number % 2 else rest) for number in range(20)]
    with patch.object(refreshes, "LOOK_INTERVAL", 1e9):
        world.broadcast.refresh("room")
        world.settle()
    assert site.rendered == [(None, "rest"), (None, "staff")]
    assert {client.texts[0] for client in clients} == {f"{site.now} for staff", f"{site.now} for rest"}


def test_event_is_rendered_once_for_each_audience_that_is_connected(world, site):
    options = [{"audience": site.audience(value)} for value in ("a", "a", "b")] + [{}]
    clients = [world.client(**each) for each in options]
    world.broadcast("room", "<b id='1'></b>")
    world.broker.publish("room", b"hello\n", Facts(is_refresh=True, is_audience=True))
    world.broadcast("room", "<b id='2'></b>")
    world.settle()
    assert sorted(str(value) for _, value in site.rendered) == ["None", "a", "b"]
    for client, value in zip(clients, ("a", "a", "b", None), strict=True):
        assert client.texts == ["<b id='1'></b>", f"<i id='e'>hello {value}</i>", "<b id='2'></b>"]
        assert client.last_id == world.broadcast.cursor()


def test_render_that_hangs_gives_its_place_to_the_next(world, site):
    site.seconds = 1000
    clients = [viewer(world) for _ in range(PARALLEL)]
    world.broadcast.refresh("room")
    world.settle()
    site.seconds = 0
    late = viewer(world)
    world.broadcast.refresh("room")
    world.advance(PATIENCE + 1)
    assert late.texts == [site.now]
    world.broadcast("room", "<b id='b'></b>")
    world.advance(60)
    assert all(client.texts[-1] == "<b id='b'></b>" for client in clients)


def test_stream_that_ends_during_its_render_leaves_nothing(world, site):
    site.seconds = 1
    client = viewer(world, user_id=1)
    world.broadcast.refresh("room")
    world.settle()
    world.disconnect("room", 1)
    world.settle()
    assert client.end is not None
    world.advance(5)
    assert world.hub.is_idle()


def test_client_that_is_slow_gets_a_refresh_once_it_has_the_rest(world, site):
    client = viewer(world)
    client.stall()
    world.broadcast("room", "<b id='1'></b>")
    world.settle()
    world.broadcast.refresh("room")
    world.advance(1)
    site.now = "<p id='x'>late</p>"
    client.drain()
    world.advance(1)
    assert client.texts == ["<b id='1'></b>", "<p id='x'>late</p>"]


def test_snapshot_with_signals_is_sent_again_after_signals(world, site):
    snapshot = encode_elements("<p id='x'></p>") + encode_signals({"n": 1})

    async def render(connection, refreshed):
        return Rendered(snapshot)

    with virtual_world(render_own=render) as other:
        client = viewer(other)
        for _ in range(2):
            other.broadcast.refresh("room")
            other.advance(1)
            other.broadcast.signals("room", {"n": 2})
        assert client.signals == ['{"n":1}', '{"n":2}', '{"n":1}']
