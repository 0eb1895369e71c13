"""Refreshes: what each page shows now, rendered anew; when, how often, and in which order with events."""

import asyncio
from unittest.mock import patch

import pytest
from django.test import override_settings

from ds_broadcaster.hub import refreshes
from ds_broadcaster.hub.grant import Audience
from ds_broadcaster.hub.refreshes import LATE, LONGEST_PATIENCE, PARALLEL, PATIENCE, Rendered
from ds_broadcaster.sse import OWING, Facts, encode_elements, encode_signals
from tests.fakes import MortalBroker, SlowThreads, virtual_world
from tests.hub.test_hub import each_kind

AUDIENCE_EVENT = Facts(is_refresh=True, is_audience=True)


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


def test_snapshot_is_sent_again_after_an_event_for_its_audience(world, site):
    client = viewer(world)
    world.broadcast.refresh("room")
    world.advance(1)
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    world.broadcast.refresh("room")
    world.advance(1)
    assert client.texts == [site.now, "<i id='e'>hello None</i>", site.now]


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


def test_events_for_audiences_are_rendered_first(world, site):
    site.seconds = 1
    for _ in range(10):
        viewer(world)
    world.broadcast.refresh("room")
    world.settle()
    client = world.client("hall")
    world.broker.publish("hall", b"hello\n", AUDIENCE_EVENT)
    world.advance(1.25)
    assert client.texts == ["<i id='e'>hello None</i>"]


def test_events_wait_for_streams_that_take_turns_but_not_for_long(world, site):
    site.seconds = 0.25
    clients = [viewer(world) for _ in range(4 * PARALLEL)]
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='b'></b>")
    world.advance(0.25 * 4)
    assert [client.texts for client in clients] == [[site.now, "<b id='b'></b>"]] * 4 * PARALLEL
    more = [viewer(world) for _ in range(8 * PARALLEL)]
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='c'></b>")
    world.advance(1)
    assert all("<b id='c'></b>" in client.texts for client in more)
    world.advance(5)
    assert all(sorted(client.texts) == ["<b id='c'></b>", site.now] for client in more)


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
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
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


def test_nothing_is_rendered_for_a_client_that_left_before_its_turn(world, site):
    site.seconds = 1
    clients = [viewer(world) for _ in range(PARALLEL + 1)]
    world.broadcast.refresh("room")
    world.settle()
    clients[-1].vanish()
    world.advance(3)
    assert len(site.rendered) == PARALLEL


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


# What may happen meanwhile.


@pytest.fixture
def slow_world(site):
    """A world in which a render of an audience takes `site.seconds` too."""

    async def still_allowed(connection):
        return True

    parts = {"render_own": site.render_own, "render_event": site.render_event, "still_allowed": still_allowed}
    with virtual_world(threads=SlowThreads(lambda: site.seconds), broker_class=MortalBroker, **parts) as world:
        yield world


def waits(world, client):
    """Tell whether the log of a channel is held for a client."""
    connections = [each for each in world.connections if each.user_id == client.user_id]
    return any(each in world.hub.channel("room").blocked for each in connections)


@each_kind
@pytest.mark.parametrize("how", ["leaves", "is kicked", "is refused", "stays"])
def test_log_is_held_for_a_client_that_waits_and_no_longer(world, site, kind, how):
    site.seconds = 1
    client, other = viewer(world, kind=kind, user_id=1), viewer(world, user_id=2)
    site.refused = {1} if how == "is refused" else set()
    world.broadcast.refresh("room")
    world.settle()
    assert waits(world, client)
    if how == "leaves":
        client.vanish()
    elif how == "is kicked":
        world.disconnect("room", 1)
    world.advance(2)
    assert (client.end is None) == (how == "stays")
    assert other.texts == [site.now]
    assert not world.hub.channel("room").blocked


@each_kind
@override_settings(DS_BROADCASTER_HISTORY={"max_events": 5})
def test_events_during_a_long_render_are_not_lost(world, site, kind):
    client = viewer(world, kind=kind)
    site.seconds = 4
    world.broadcast("room", "<b id='0'></b>")
    world.broadcast.refresh("room")
    for number in range(1, 30):
        world.loop.advance(0.1, 0.1)
        world.broadcast("room", f"<b id='{number}'></b>")
    world.advance(4)
    assert client.texts == ["<b id='0'></b>", site.now, *(f"<b id='{number}'></b>" for number in range(1, 30))]
    assert client.end is None


@each_kind
def test_client_that_is_busy_is_not_written_to_by_the_next_render(slow_world, site, kind):
    world, audience = slow_world, site.audience("all")
    site.seconds = 1
    viewer(world, audience=audience)
    world.broadcast.refresh("room")
    world.settle()
    late, busy = viewer(world, audience=audience), viewer(world, audience=audience, kind=kind)
    world.broadcast("room", "<b id='1'></b>")
    world.broadcast.refresh("room")
    world.settle()
    busy.stall()
    world.broadcast("room", "<b id='2'></b>")
    world.advance(3)
    busy.drain()
    world.advance(3)
    assert late.texts[-1] == f"{site.now} for all"
    assert busy.texts == ["<b id='1'></b>", "<b id='2'></b>", f"{site.now} for all"]


def test_viewer_of_another_audience_by_now_does_not_see_what_the_former_sees(slow_world, site):
    world = slow_world
    site.seconds = 1
    client = viewer(world, audience=site.audience("staff"))
    (connection,) = world.connections
    world.broadcast.refresh("room")
    world.settle()
    connection.see_as(site.audience("rest"))
    world.advance(3)
    assert client.texts == [f"{site.now} for rest"]
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    world.settle()
    connection.see_as(site.audience("staff"))
    world.advance(5)
    assert client.texts[1:] == [f"{site.now} for staff"]
    assert client.last_id == world.broadcast.cursor()


def test_viewer_who_cannot_be_shown_a_snapshot_gets_an_event_as_the_audience_that_it_is_by_then(slow_world, site):
    world = slow_world
    site.seconds = 1
    client = world.client(audience=Audience("staff", "staff", None))
    (connection,) = world.connections
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    world.settle()
    connection.see_as(Audience("rest", "rest", None))
    world.advance(3)
    assert client.texts == ["<i id='e'>hello rest</i>"]


def test_render_from_before_a_new_epoch_is_shown_to_none_of_its_clients(slow_world, site):
    world, audience = slow_world, site.audience("all")
    site.seconds = 3
    viewer(world, audience=audience)
    for _ in range(5):
        world.broadcast("room", "<b></b>")
    world.broadcast.refresh("room")
    world.settle()
    world.broker.begin_anew()
    world.settle()
    client = viewer(world, audience=audience)
    site.now = "<p id='x'>1</p>"
    world.broadcast.refresh("room")
    world.advance(8)
    assert client.texts == ["<p id='x'>1</p> for all"]


@pytest.mark.parametrize("error", [StopIteration("none"), SystemExit("now"), asyncio.CancelledError(), KeyError("a")])
def test_whatever_a_render_of_an_audience_raises_the_stream_goes_on(world, site, error, caplog):
    def render():
        raise error

    client = viewer(world, audience=Audience("all", "all", render))
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='b'></b>")
    world.settle()
    assert client.texts == ["<b id='b'></b>"]
    assert client.last_id == world.broadcast.cursor()
    assert type(error).__name__ in caplog.text


class Unequal:
    """A value that cannot be compared."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise ValueError("Not with these.")


def test_audiences_that_cannot_be_compared_are_not_the_same(world, site):
    clients = [viewer(world, audience=site.audience(Unequal())) for _ in range(2)]
    world.broadcast.refresh("room")
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    world.advance(1)
    assert len({client.texts[0] for client in clients}) == 2
    assert [len(client.texts) for client in clients] == [2, 2]


def test_renders_that_hang_stop_refreshes_and_no_stream(world, site, caplog):
    site.seconds = 100
    hanging = [viewer(world) for _ in range(LATE)]
    world.broadcast.refresh("room")
    world.advance(PATIENCE * LATE / PARALLEL + 1)
    assert len(site.rendered) == LATE
    site.seconds = 0
    client = viewer(world)
    world.broadcast.refresh("room")
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    other = world.client(audience=site.audience("other"))
    world.broker.publish("room", b"hello\n", AUDIENCE_EVENT)
    world.broadcast("room", "<b id='b'></b>")
    world.advance(LONGEST_PATIENCE + 1)
    assert other.texts == client.texts == ["<b id='b'></b>"]
    assert "pages are not refreshed until some do" in caplog.text
    world.advance(100)
    assert client.texts == ["<b id='b'></b>", site.now]
    assert all(each.texts[-1] == site.now for each in hanging)
    assert not world.hub.channel("room").blocked


def test_refusal_that_comes_too_late_for_its_render_counts(world, site):
    client = viewer(world, user_id=1)
    site.refused, site.seconds = {1}, LONGEST_PATIENCE + 5
    world.broadcast.refresh("room")
    world.broadcast("room", "<b id='b'></b>")
    world.advance(LONGEST_PATIENCE + 1)
    assert client.end is None
    world.advance(10)
    assert client.end is not None


each_stop = pytest.mark.parametrize("facts", [Facts(is_refresh=True), AUDIENCE_EVENT], ids=["refresh", "event"])


@each_kind
@each_stop
@pytest.mark.parametrize("is_stalled", [False, True], ids=["waits", "stalled"])
def test_client_that_a_shutdown_sends_away_has_missed_the_refresh_that_it_was_not_shown(
    slow_world, site, kind, facts, is_stalled
):
    world = slow_world
    site.seconds = 1
    client = viewer(world, kind=kind)
    before = client.last_id
    if is_stalled:
        client.stall()
        world.broadcast("room", "<b id='a'></b>")
        world.settle()
    world.broker.publish("room", b"\n", facts)
    world.settle()
    world.broadcast("room", "<b id='b'></b>")
    shutdown = world.hub.shutdown()
    world.settle()
    client.drain()
    world.loop.run_until_complete(shutdown)
    world.advance(2)
    assert client.texts[-1] == "<b id='b'></b>"
    assert client.last_id.endswith(OWING) or client.last_id == before
    assert world.hub.is_idle()


@each_kind
def test_client_that_is_kicked_does_not_wait_for_a_transient_event(slow_world, site, kind):
    world = slow_world
    site.seconds = 1
    client = viewer(world, kind=kind, user_id=1)
    client.stall()
    world.broadcast("room", "<b id='a'></b>")
    world.settle()
    world.broker.publish("room", b"\n", AUDIENCE_EVENT._replace(is_transient=True))
    world.broadcast("room", "<b id='b'></b>")
    world.settle()
    world.disconnect("room", 1)
    client.drain()
    world.settle()
    assert client.texts == ["<b id='a'></b>", "<b id='b'></b>"]
    assert client.end == "clean"
    assert not client.last_id.endswith(OWING)


@each_kind
@each_stop
@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=1)
def test_element_hears_that_its_stream_lives_while_it_waits(slow_world, site, kind, facts):
    world = slow_world
    site.seconds = 4
    client = viewer(world, kind=kind, query=b"element=stream-1")
    before = client.last_id
    world.broker.publish("room", b"\n", facts)
    world.settle()
    world.broadcast("room", "<b id='b'></b>")
    writes = client.writes
    world.loop.advance(3, 1 / 16)
    assert client.writes >= writes + 2
    assert client.last_id == before
    world.advance(2)
    assert len(client.texts) == 2
    assert client.texts[1] == "<b id='b'></b>"


def test_refresh_between_a_request_and_its_stream_is_shown(world, site):
    client = viewer(world, before_opening=lambda: world.broadcast.refresh("room"))
    assert client.texts == [site.now]
    assert client.last_id == world.broadcast.cursor()


def test_refresh_between_a_request_and_its_stream_is_not_for_the_tab_that_it_excludes(world, site):
    tab = "tab-number-1"
    client = viewer(
        world,
        query=f'datastar={{"broadcastTab":"{tab}"}}'.encode(),
        before_opening=lambda: world.broadcast.refresh("room", exclude=tab),
    )
    assert client.texts == site.rendered == []
    assert client.last_id == world.broadcast.cursor()


@each_kind
def test_client_that_takes_a_heartbeat_while_it_waits_gets_what_was_rendered(world, site, kind):
    with override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=1):
        site.seconds = 2
        client = viewer(world, kind=kind, query=b"element=stream-1")
        world.broadcast.refresh("room")
        world.settle()
        client.stall()
        world.broadcast("room", "<b id='b'></b>")
        world.loop.advance(3, 1 / 16)
        client.drain()
        world.advance(4)
    assert sorted(client.texts) == ["<b id='b'></b>", site.now]
    assert client.last_id == world.broadcast.cursor()


@each_kind
@pytest.mark.parametrize("is_stalled", [False, True], ids=["takes it", "stalled"])
@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=1, DS_BROADCASTER_HISTORY={"max_events": 5})
def test_log_is_held_also_while_a_client_takes_a_heartbeat(world, site, kind, is_stalled):
    site.seconds = 4
    client = viewer(world, kind=kind, query=b"element=stream-1")
    world.broadcast.refresh("room")
    world.settle()
    if is_stalled:
        world.loop.advance(2.5, 1 / 16)
        client.stall()
    world.loop.advance(1.5 if is_stalled else 3, 1 / 16)
    for number in range(30):
        world.broadcast("room", f"<b id='{number}'></b>")
        world.settle()
    client.drain()
    world.advance(6)
    assert client.end is None
    assert set(client.texts) == {site.now, *(f"<b id='{number}'></b>" for number in range(30))}


def test_snapshot_of_the_opening_is_sent_again_after_an_event_that_changed_the_page(world, site):
    site.now = "<p id='gap'></p>"
    client = viewer(world, cursor="another-1")
    world.broadcast("room", "<p id='gap'>9</p>")
    world.broadcast.refresh("room")
    world.advance(1)
    assert client.texts == [site.now, "<p id='gap'>9</p>", site.now]


@each_kind
def test_transient_event_for_audiences_has_no_id_and_is_for_those_who_are_there(world, site, kind):
    facts = AUDIENCE_EVENT._replace(is_transient=True)
    slow = world.client()
    slow.stall()
    world.broadcast("room", "<b></b>")
    client = world.client(audience=site.audience("a"), kind=kind)
    before = client.last_id
    world.broker.publish("room", b"hello\n", facts)
    world.settle()
    late = world.client(audience=site.audience("a"), kind=kind, cursor=before)
    world.broadcast("room", "<p></p>")
    world.settle()
    assert client.texts == ["<i id='e'>hello a</i>", "<p></p>"]
    assert next(event.id for event in client.events if event.elements) in (None, before)
    assert late.texts == ["<p></p>"]
