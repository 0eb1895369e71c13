"""One stream for each tab: the server closes the older one, and the client is not made to fight itself."""

import asyncio
import re

import pytest

from ds_broadcaster.hub.tabs import NEVER, RESTORE_RETRY_AFTER, RESTORE_RETRY_FOR, RETRY
from tests.fakes import KINDS, FakeClient, virtual_world
from tests.harness import each_client_and, expect
from tests.hub.test_rechecks import nothing_is_left
from tests.live import until
from tests.project import recheck_site

each_kind = pytest.mark.parametrize("kind", KINDS)

TAB = "1234567890-abcdef"


def query(tab=TAB, element="stream"):
    return f'datastar={{"broadcastTab":"{tab}"}}&element={element}'.encode()


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


@each_kind
def test_newer_stream_of_a_tab_closes_the_older_one_which_is_told_to_stay_away(world, kind):
    older = world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    assert older.end == "clean"
    assert older.retries[-1] == NEVER
    assert newer.end is None
    assert world.broadcast.get_users("room") == [1]
    world.broadcast("room", "<p id=a>")
    world.settle()
    assert (older.texts, newer.texts) == ([], ["<p id=a>"])


@each_kind
def test_replacement_is_no_leave_and_no_join(world, kind):
    world.client(user_id=1, kind=kind, query=query())
    world.client(user_id=1, kind=kind, query=query())
    world.advance(5)
    assert [each for each in world.signals if each[0].startswith("user")] == [("user_joined", "room", 1)]


@each_kind
def test_newer_stream_begins_with_the_same_interval_and_gets_its_own_back(world, kind):
    """The client has one interval for both: another in the newer one's first frame could be what the older obeys."""
    world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    assert newer.retries == [NEVER]
    world.advance(2 * RESTORE_RETRY_AFTER)  # A heartbeat at the same moment goes first.
    assert newer.retries == [NEVER, RETRY]


@each_kind
def test_client_that_is_busy_gets_its_interval_back_all_the_same(world, kind):
    world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    newer.stall()
    world.broadcast("room", "<p id=a>")
    world.advance(RESTORE_RETRY_AFTER + 0.5)
    newer.drain()
    world.advance(2 * RESTORE_RETRY_AFTER)
    assert newer.retries[-1] == RETRY


@each_kind
def test_client_that_hears_of_the_other_streams_end_late_gets_its_interval_back(world, kind):
    world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    world.advance(2 * RESTORE_RETRY_FOR)
    count = newer.retries.count(RETRY)
    assert 3 <= count <= 8
    world.advance(100)
    assert newer.retries.count(RETRY) == count


@each_kind
def test_interval_comes_with_an_id_that_passes_over_nothing(world, kind):
    world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    world.broadcast("elsewhere", "<p id=a>")
    world.advance(RESTORE_RETRY_AFTER)
    assert newer.last_id == world.broadcast.cursor()
    newer.vanish()
    world.broadcast("room", "<p id=b>")
    assert world.client(user_id=1, kind=kind, query=query(), cursor=newer.last_id).texts == ["<p id=b>"]


@each_kind
@pytest.mark.parametrize(
    "other",
    [
        {"user_id": 2},
        {"user_id": None},
        {"query": query(tab="another-tab-id")},
        {"query": query(element="another")},
        {"query": query(element="")},
        {"query": query(element="a b")},
        {"query": b"element=stream"},
        {"channels": "hall"},
        {"channels": ["room", "hall"]},
    ],
)
def test_nothing_else_is_closed(world, kind, other):
    first = world.client(**({"channels": "room", "user_id": 1, "kind": kind, "query": query()} | other))
    second = world.client(user_id=1, kind=kind, query=query())
    third = world.client("room", 3, kind=kind, query=query())
    assert first.end is second.end is third.end is None
    assert second.retries != [NEVER]


def test_streams_without_a_tab_or_an_element_are_as_many_as_they_like(world):
    clients = [world.client(user_id=1, query=each) for each in (b"", b"element=stream", query(element="")) * 2]
    assert {client.end for client in clients} == {None}


@each_kind
def test_anonymous_pages_count_too(world, kind):
    older = world.client(kind=kind, query=query())
    newer = world.client(kind=kind, query=query())
    assert (older.end, newer.end) == ("clean", None)


@each_kind
def test_other_channels_in_between_do_not_hide_the_older_one(world, kind):
    older = world.client("room", 1, kind=kind, query=query())
    other = world.client("hall", 1, kind=kind, query=query())
    newer = world.client("room", 1, kind=kind, query=query())
    assert (older.end, other.end, newer.end) == ("clean", None, None)


@each_kind
def test_many_in_a_row_leave_one(world, kind):
    clients = [world.client(user_id=1, kind=kind, query=query()) for _ in range(5)]
    assert [client.end for client in clients] == ["clean"] * 4 + [None]
    assert len(world.connections) == 1


@each_kind
def test_stream_that_does_not_open_replaces_nothing(world, kind):
    stays = world.client(user_id=1, kind=kind, query=query())

    def end_it():
        # Only the newer one was granted before it: the older one's place in the line is later.
        (connection,) = world.connections
        world.disconnect("room", 1)
        connection.granted = world.broker.heard()

    newer = FakeClient(world.loop, world.broadcast, "room", 1, kind=kind, query=query(), before_opening=end_it)
    world.settle()
    assert newer.end == "clean"
    assert stays.end is None
    assert NEVER not in stays.retries


@each_kind
def test_stream_that_ends_while_its_history_is_read_replaces_no_other(world, kind, monkeypatch):
    cursor = world.broadcast.cursor()
    world.broadcast("room", "<p id=a>")
    world.client(user_id=2)  # The log here begins after the event: the broker's history has it.
    read, wait = world.broker.read, asyncio.Event()

    async def read_slowly(*args):
        await wait.wait()
        return await read(*args)

    monkeypatch.setattr(world.broker, "read", read_slowly)
    late = world.client(user_id=1, kind=kind, query=query(), cursor=cursor)
    world.disconnect("room", 1)
    world.settle()
    wait.set()
    world.settle()
    assert late.end == "clean"
    for connection in world.connections:
        connection.abort()
    world.advance(5)
    assert world.hub.is_idle()


@each_kind
def test_stalled_older_stream_is_replaced_too(world, kind):
    older = world.client(user_id=1, kind=kind, query=query())
    older.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    newer = world.client(user_id=1, kind=kind, query=query())
    assert world.broadcast.get_users("room") == [1]
    older.drain()
    world.advance(1)
    assert older.end == "clean"
    assert newer.end is None


@each_kind
def test_nothing_stays_of_tabs_that_are_closed(world, kind):
    clients = [world.client(user_id=number % 3, kind=kind, query=query()) for number in range(6)]
    assert len(world.connections) == 3
    for client in clients:
        client.vanish()
    world.advance(2 * RESTORE_RETRY_FOR)
    for user_id in range(3):
        world.broadcast.opener.close_tab(user_id, TAB)
    world.advance(3)
    nothing_is_left(world)


@each_kind
def test_shutdown_has_the_last_word_about_the_interval(world, kind):
    world.client(user_id=1, kind=kind, query=query())
    newer = world.client(user_id=1, kind=kind, query=query())
    world.hub.shutdown()
    world.advance(2 * RESTORE_RETRY_AFTER)
    assert newer.end == "cut"
    assert 1000 <= newer.retries[-1] <= 5000
    assert newer.retries[-1] != NEVER


# Farewell

CLOSED = {"mode": "replace", "elements": '<div id="stream" hidden data-broadcast="closed"></div>'}


@each_kind
@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_element_is_replaced_by_one_that_says_closed(world, kind, verb):
    client, plain = world.client(user_id=1, kind=kind, query=query()), world.client(user_id=1, kind=kind)
    assert client.signals == ['{"_broadcast":"live"}']
    assert plain.signals == []
    world.broadcast.kill("room") if verb == "kill" else world.disconnect("room", 1)
    world.settle()
    assert client.end == plain.end == "clean"
    assert client.events[-1].args == CLOSED
    assert plain.events == []


@each_kind
def test_stream_that_is_closed_before_it_opens_says_farewell_too(world, kind):
    world.client(user_id=2, kind=kind)
    client = FakeClient(
        world.loop,
        world.broadcast,
        "room",
        1,
        kind=kind,
        query=query(),
        before_opening=lambda: world.disconnect("room", 1),
    )
    world.settle()
    assert client.end == "clean"
    assert client.events[-1].args == CLOSED


@pytest.mark.parametrize(
    "element", ["", "a,body", "a b", "a>b", "*", "1a", "a%0Aevent:%20x", "a%0d", "%C3%A9", "a" * 65, "-a", "a:b", "a.b"]
)
def test_element_that_is_no_plain_id_is_as_none(world, element):
    client = world.client(user_id=1, query=query(element=element))
    world.disconnect("room", 1)
    world.settle()
    assert client.end == "clean"
    assert client.events == []


# In a browser. The client opens a stream when its tab is shown, and another when the wait for its retry is over.


@pytest.fixture
def start(start_server):
    def start(mode):
        settings = {
            "ROOT_URLCONF": recheck_site.__name__,
            "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
            # The page's clock is set forward by more than a page waits for the usual ones.
            "DS_BROADCASTER_HEARTBEAT_INTERVAL": 600,
        }
        return start_server(mode=mode, settings=settings)

    return start


# Keeps what the client reads of its streams.
LISTEN = """
window.decoded = [];
const decode = TextDecoder.prototype.decode;
TextDecoder.prototype.decode = function (...args) {
    const text = decode.apply(this, args);
    window.decoded.push(text);
    return text;
};
"""


def streams(server, channel):
    return server.get(f"/asked/{channel}/").json()["streams"]


@pytest.mark.django_db(transaction=True)
@each_client_and("mode", ["handoff", "plain"])
def test_tab_that_is_hidden_and_shown_while_its_server_is_away_has_one_stream(start, chromium, channel, mode):
    server = start(mode)
    ann = server.login("ann")
    tab = chromium.tab(ann)
    requests = []
    tab.on("request", lambda request: "/members/" in request.url and requests.append(request))
    tab.clock.install()
    tab.add_init_script(LISTEN)
    tab.goto(f"/own-page/{channel}/")
    expect(tab.locator("#online")).to_have_text("1")
    # Stopped before anything waits, and moved by the test alone: the next try has to wait.
    tab.clock.pause_at(tab.evaluate("Date.now()") / 1000 + 60)
    server.kill()
    until(lambda: tab.clock.run_for(100) or tab.texts("#state") == ["lost"], 15)
    server.start()
    tab.hide()
    tab.show()
    until(lambda: streams(server, channel) == 1)
    tab.clock.run_for(10_000)
    until(lambda: streams(server, channel) == 2)
    until(lambda: server.call("get_users", channel) == [ann.user_id])
    server.call("elements", channel, "<li>once</li>", "#log", "append")
    expect(tab.locator("#log li")).to_have_text(["once"])
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    seen = len(requests)
    tab.clock.run_for(60_000)
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    assert len(requests) == seen
    assert streams(server, channel) == 2
    assert server.call("get_users", channel) == [ann.user_id]
    expect(tab.locator("#online")).to_have_text("1")
    expect(tab.locator("#log li")).to_have_text(["once"])
    expect(tab.locator("#state")).to_have_text("live")
    until(lambda: tab.evaluate(f"decoded.lastIndexOf('{RETRY}') > decoded.lastIndexOf('{NEVER}')"))
    tab.clock.resume()
    server.restart()
    until(lambda: server.call("get_users", channel) == [ann.user_id], 8)
    assert streams(server, channel) == 1
    server.call("elements", channel, "<li>again</li>", "#log", "append")
    expect(tab.locator("#log li")).to_have_text(["once", "again"])
    assert not re.findall("Uncaught", " ".join(tab.errors))


def test_never_is_as_long_as_a_browsers_timer_takes():
    assert NEVER == 2**31 - 1
