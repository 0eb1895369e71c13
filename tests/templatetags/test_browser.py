"""What the template tags' elements do in Chromium, with the real client."""

import re
from itertools import product
from urllib.parse import quote, urlencode

import pytest

from ds_broadcaster.conf import DATASTAR_URL
from ds_broadcaster.views.connect_element import client_script
from tests.harness import MODES, Relay, each_client, each_client_and, expect
from tests.harness.loop import loop_thread
from tests.harness.requirements import require_client_bundle
from tests.live import live_server, until
from tests.settings import MIDDLEWARE

SETTINGS = {
    # Not imported here: it binds a model.
    "ROOT_URLCONF": "tests.project.tag_site",
    "MIDDLEWARE": [*MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"],
    "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
}
CONNECT = '{% broadcast_connect "tag-room" channel=channel %}'
ELEMENT = "[id^=broadcast-]"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(django_db_setup):
    with live_server("handoff", settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def debugged(django_db_setup):
    with live_server("handoff", settings=SETTINGS | {"DEBUG": True}) as server:
        yield server


@pytest.fixture
def own_server(start_server):
    """A server that the test ends."""
    return start_server(settings=SETTINGS)


@pytest.fixture
def open_page(chromium):
    """Open a page with this piece of a template in it, as Ann, in a tab that is not there yet or is given."""

    def open_page(server, source, *channels, tab=None):
        tab = tab or chromium.tab(server.login("ann"))
        tab.goto(server.url + page_of(source, *channels))
        return tab

    return open_page


def page_of(source, *channels):
    return f"/tags/?{urlencode({'source': source, 'channels': ','.join(channels)})}"


def hold(tab):
    """Hold back the page's streams; they are in the list that is returned."""
    held = []
    tab.route("**/tag-rooms/**", lambda route: held.append(route))
    return held


def asked(server, channel):
    """Return the requests that reached the channel's view."""
    return server.get(f"/asked/{channel}/").json()["asked"]


def becomes(tab, state, selector=ELEMENT, **options):
    """Wait until both the attribute and the signal say so."""
    expect(tab.locator(selector)).to_have_attribute("data-broadcast", state, **options)
    expect(tab.locator("#state")).to_have_text(state)


def is_alone(server, channel):
    """Tell whether one stream, and no more, is open."""
    return len(server.call("get_users", channel)) == 1


# The client of the CDN


def test_browser_runs_the_pinned_client_and_no_file_that_was_changed_on_the_way(chromium):
    tab, bundle = chromium.tab(), require_client_bundle().read_text()
    # What the CDN answers to a request with crossorigin.
    answer = {"headers": {"Access-Control-Allow-Origin": "*"}, "content_type": "text/javascript"}
    files = [bundle, bundle + " "]

    async def page(route):
        html = f"<!doctype html>{client_script('')}<p id=it data-text=\"'runs'\">waits</p>"
        await route.fulfill(body=html, content_type="text/html")

    async def cdn(route):
        await route.fulfill(body=files.pop(0), **answer)

    tab.route("http://site.example/**", page)
    tab.route(DATASTAR_URL, cdn)
    tab.goto("http://site.example/")
    expect(tab.locator("#it")).to_have_text("runs")
    tab.goto("http://site.example/")
    until(lambda: any("integrity" in each for each in tab.errors))
    assert tab.texts("#it") == ["waits"]


# The stream, and the tab's id


@each_client_and("source", [CONNECT, "{% broadcast_subscribe channel %}", "{% broadcast_subscribe channel user %}"])
def test_page_receives_events(server, open_page, channel, source):
    tab = open_page(server, source, channel)
    server.call("", channel, '<div id="target">hello</div>')
    expect(tab.locator("#target")).to_have_text("hello")
    becomes(tab, "live")
    assert tab.errors == []


def test_first_request_and_every_later_one_carry_the_tabs_id(server, open_page, channel):
    source = (
        CONNECT
        + """<button id="json" data-on:click="@post('/tell/')"></button><form data-on:submit="@post('/tell/',
        {contentType: 'form'})">{% broadcast_tab %}<button id="form"></button></form>"""
    )
    tab = open_page(server, source, channel)
    becomes(tab, "live")
    tab_id = tab.locator("#tab").inner_text()
    assert re.fullmatch(r"[0-9A-Za-z_-]{8,64}", tab_id)
    [first] = asked(server, channel)
    assert first["tab"] == tab_id
    assert first["query"]["element"] == tab.locator(ELEMENT).get_attribute("id")
    for button, kind in (("#json", "application/json"), ("#form", "application/x-www-form-urlencoded")):
        tab.locator(button).click()
        expect(tab.locator("#told")).to_have_text(f'{{"tab":"{tab_id}","type":"{kind}"}}')
    assert tab.errors == []


def test_each_tab_and_each_load_has_an_id_of_its_own(server, open_page, chromium, channel):
    first = open_page(server, CONNECT, channel)
    second = open_page(server, CONNECT, channel, tab=chromium.second_tab(first))
    ids = set()
    for tab in (first, second, first):
        expect(tab.locator("#tab")).not_to_be_empty()
        ids.add(tab.locator("#tab").inner_text())
        first.reload()
    assert len(ids) == 3


def test_page_that_is_not_in_a_secure_context_has_an_id_too(server, open_page, chromium, channel):
    port = server.port
    tab = chromium.tab(server.login("ann"))
    # What a browser calls insecure: plain http, to a name that is not this machine's own.
    tab.route("http://lan.example/**", to(f"http://127.0.0.1:{port}"))
    tab.goto("http://lan.example" + page_of(CONNECT, channel))
    assert tab.evaluate("[isSecureContext, typeof crypto.randomUUID]") == [False, "undefined"]
    expect(tab.locator("#tab")).to_have_text(re.compile(r"^[0-9A-Za-z_-]{8,64}$"))


def to(origin):
    """Answer a page's requests from elsewhere; streams, which never end, are held back."""

    async def answer(route):
        if "/tag-rooms/" in route.request.url:
            return
        response = await route.fetch(url=origin + route.request.url.partition("lan.example")[2])
        await route.fulfill(response=response)

    return answer


def test_elements_of_one_page_share_the_tabs_id(server, open_page, channel):
    other = f"{channel}-b"
    source = '{% for each in channels %}{% broadcast_connect "tag-room" channel=each %}{% endfor %}'
    open_page(server, source, channel, other)
    until(lambda: asked(server, channel) and asked(server, other))
    assert asked(server, channel)[0]["tab"] == asked(server, other)[0]["tab"] is not None


def test_three_channels_come_through_one_connection(server, open_page, channel):
    channels = [f"{channel}-{each}" for each in "abc"]
    tab = open_page(server, "{% broadcast_subscribe channels %}", *channels)
    becomes(tab, "live")
    for each in channels:
        server.call("elements", each, f"<li>{each}</li>", "#log", "append")
    expect(tab.locator("#log li")).to_have_text(channels)
    streams = "performance.getEntriesByType('resource').filter(each => each.name.includes('/subscribe/')).length"
    assert tab.evaluate(streams) <= 1  # Chromium lists a fetch at its end.
    server.call("kill", channels[0])
    until(lambda: not server.call("get_users", channels[1]))


@pytest.mark.parametrize("path", ["a'b", '"><b>x', "$tab @post('x')", "</script>é&☃;", "a?b#c%20d"])
def test_hostile_url_is_requested_unchanged(server, open_page, channel, path):
    source = '{% broadcast_connect "own-stream" channel=channel %}'
    name = f"{channel} {path}".replace("/", " ")
    tab = open_page(server, source, name)
    becomes(tab, "live")
    assert len(asked(server, quote(name, safe=""))) == 1
    assert tab.errors == []


# Nothing is lost between render and connect


def test_events_between_render_and_connect_appear(server, open_page, chromium, channel):
    tab = chromium.tab(server.login("ann"))
    held = hold(tab)
    open_page(server, CONNECT, channel, tab=tab)
    server.call("elements", channel, "<li>sent before the stream</li>", "#log", "append")
    until(lambda: held)
    loop_thread().run(held[0].continue_())
    expect(tab.locator("#log li")).to_have_text(["sent before the stream"])
    becomes(tab, "live")


def test_events_during_the_render_appear(server, open_page, channel):
    tab = open_page(server, "{{ send }}" + CONNECT, channel)
    expect(tab.locator("#target")).to_have_text("sent while rendering")


# The state


def test_page_says_connecting_until_the_server_answers(server, open_page, chromium, channel):
    tab = chromium.tab(server.login("ann"))
    held = hold(tab)
    open_page(server, CONNECT, channel, tab=tab)
    until(lambda: held)
    becomes(tab, "connecting")
    loop_thread().run(held[0].continue_())
    becomes(tab, "live")


@pytest.mark.parametrize(
    "scripts, nonce",
    [("'self' 'unsafe-eval'", ""), ("'nonce-abc' 'strict-dynamic'", "abc"), ("'self' 'nonce-abc'", "abc")],
)
def test_policy_that_knows_the_client_lets_it_live(server, chromium, channel, scripts, nonce):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/policy/{channel}/?{urlencode({'scripts': scripts, 'nonce': nonce})}")
    becomes(tab, "live")
    server.call("", channel, '<div id="target">hello</div>')
    expect(tab.locator("#target")).to_have_text("hello")
    assert tab.errors == []


def test_strict_policy_leaves_the_page_connecting(server, chromium, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/policy/{channel}/?scripts='self'")
    until(lambda: any("EvalError" in each or "unsafe-eval" in each for each in tab.errors))
    expect(tab.locator(ELEMENT)).to_have_attribute("data-broadcast", "connecting")
    assert asked(server, channel) == []


def test_state_can_be_seen_by_css(server, open_page, channel):
    tab = open_page(server, CONNECT, channel)
    becomes(tab, "live")
    assert tab.evaluate("document.body.matches(':has([data-broadcast=live])')")


@each_client_and("end", ["sigterm", "kill"])
def test_server_that_goes_and_returns_is_lost_then_live(own_server, open_page, channel, end):
    tab = open_page(own_server, CONNECT, channel)
    becomes(tab, "live")
    getattr(own_server, end)()
    own_server.kill()
    becomes(tab, "lost")
    own_server.start()
    becomes(tab, "live", timeout=20_000)
    until(lambda: is_alone(own_server, channel))
    last = asked(own_server, channel)[-1]
    assert last["last_event_id"]
    assert last["tab"] == tab.locator("#tab").inner_text()


@each_client
def test_hidden_tab_returns_with_one_stream(server, open_page, channel):
    tab = open_page(server, CONNECT, channel)
    becomes(tab, "live")
    for times in (2, 3):
        tab.hide()
        until(lambda: not server.call("get_users", channel))
        server.call("elements", channel, "<li>meanwhile</li>", "#log", "append")
        tab.show()
        expect(tab.locator("#log li")).to_have_count(times - 1)
        assert is_alone(server, channel)
        assert len(asked(server, channel)) == times
    assert {each["tab"] for each in asked(server, channel)} == {tab.locator("#tab").inner_text()}
    assert asked(server, channel)[-1]["last_event_id"]
    becomes(tab, "live")
    assert tab.errors == []


# A stream that is silent. Heartbeats come each second, so it is lost after two and a half.

BEATING = SETTINGS | {"DS_BROADCASTER_HEARTBEAT_INTERVAL": 1}
# Keeps what the page shows, and which timers run in it.
WATCH = """
window.states = [];
window.timers = new Set();
const {setInterval: set, clearInterval: clear} = window;
window.setInterval = (...args) => { const timer = set(...args); timers.add(timer); return timer; };
window.clearInterval = timer => { timers.delete(timer); clear(timer); };
new MutationObserver(changes => states.push(...changes.map(each => each.target.dataset.broadcast)))
    .observe(document, {subtree: true, attributes: true, attributeFilter: ['data-broadcast']});
window.beats = 0;
document.addEventListener('datastar-fetch', event => beats += event.detail.type === 'datastar');
"""


@pytest.fixture(scope="module")
def beating(django_db_setup):
    with live_server("handoff", settings=BEATING) as server:
        yield server


@pytest.fixture
def relay(beating):
    with Relay(beating) as relay:
        yield relay


@pytest.fixture
def watched(chromium):
    """Open a page of Ann's that keeps what it shows; the test can move its clock."""

    def watched(server, url, source, *channels):
        tab = chromium.tab(server.login("ann"))
        tab.clock.install()
        tab.add_init_script(WATCH)
        tab.goto(url + page_of(source, *channels))
        return tab

    return watched


def calm(tab):
    """Wait until the page has dealt with what its clock brought about."""
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")


@each_client
def test_heartbeats_keep_a_quiet_page_live(beating, relay, watched, channel):
    tab = watched(beating, relay.url, CONNECT, channel)
    tab.wait("beats >= 4")
    assert set(tab.evaluate("states")) == {"live"}
    assert len(asked(beating, channel)) == 1
    assert tab.errors == []


@each_client_and("mode", MODES)
def test_silent_stream_is_lost_and_returns_without_a_loss_or_a_double(start_server, watched, channel, mode):
    server = start_server(mode=mode, settings=BEATING)
    with Relay(server) as relay:
        tab = watched(server, relay.url, CONNECT, channel)
        becomes(tab, "live")
        server.call("elements", channel, "<li>before</li>", "#log", "append")
        expect(tab.locator("#log li")).to_have_text(["before"])
        relay.cut()
        server.call("elements", channel, "<li>meanwhile</li>", "#log", "append")
        relay.mend()
        expect(tab.locator("#log li")).to_have_text(["before", "meanwhile"], timeout=10_000)
        becomes(tab, "live")
        server.call("elements", channel, "<li>after</li>", "#log", "append")
        expect(tab.locator("#log li")).to_have_text(["before", "meanwhile", "after"])
        assert "lost" in tab.evaluate("states")
        assert asked(server, channel)[-1]["last_event_id"]
        until(lambda: is_alone(server, channel))


@each_client
def test_silent_stream_is_opened_again_and_again_while_the_network_is_away(beating, relay, watched, channel):
    tab = watched(beating, relay.url, CONNECT, channel)
    becomes(tab, "live")
    relay.cut()
    becomes(tab, "lost", timeout=10_000)
    # The client asks now, and waits for an answer that does not come.
    tab.clock.run_for(120_000)
    becomes(tab, "lost")
    relay.mend()
    tab.clock.run_for(30_000)
    becomes(tab, "live", timeout=10_000)
    beating.call("elements", channel, "<li>after</li>", "#log", "append")
    expect(tab.locator("#log li")).to_have_text(["after"])
    until(lambda: is_alone(beating, channel))


@each_client
def test_every_element_of_a_page_returns_from_silence(beating, relay, watched, channel):
    channels = [channel, f"{channel}-b"]
    source = '{% for each in channels %}{% broadcast_connect "tag-room" channel=each %}{% endfor %}'
    tab = watched(beating, relay.url, source, *channels)
    expect(tab.locator("[data-broadcast=live]")).to_have_count(2)
    relay.cut()
    for each in channels:
        beating.call("elements", each, f"<li>{each}</li>", "#log", "append")
    relay.mend()
    expect(tab.locator("#log li")).to_have_count(2, timeout=10_000)
    expect(tab.locator("[data-broadcast=live]")).to_have_count(2)
    expect(tab.locator("#state")).to_have_text("live")
    beating.call("elements", channel, "<li>after</li>", "#log", "append")
    expect(tab.locator("#log li")).to_have_count(3)
    assert sorted(tab.texts("#log li")) == sorted([*channels, "after"])


@each_client
def test_no_timer_runs_in_a_hidden_tab(beating, relay, watched, channel):
    tab = watched(beating, relay.url, CONNECT, channel)
    becomes(tab, "live")
    assert tab.evaluate("timers.size") == 1
    tab.hide()
    assert tab.evaluate("timers.size") == 0
    until(lambda: not beating.call("get_users", channel))
    tab.clock.run_for(60_000)
    calm(tab)
    assert len(asked(beating, channel)) == 1
    tab.show()
    # Away while it was hidden: it is watched from the moment at which it is shown.
    assert tab.evaluate("timers.size") == 1
    until(lambda: len(asked(beating, channel)) == 2)
    becomes(tab, "live")
    beats = tab.evaluate("beats")
    tab.wait(f"beats > {beats}")
    assert set(tab.evaluate("states")) == {"live"}
    assert len(asked(beating, channel)) == 2


@each_client
def test_machine_that_slept_gives_its_stream_a_chance(beating, relay, watched, channel):
    tab = watched(beating, relay.url, CONNECT, channel)
    tab.wait("beats >= 1")
    tab.clock.fast_forward(3_600_000)  # As at the end of a sleep: each timer is late, and runs once.
    beats = tab.evaluate("beats")
    tab.wait(f"beats > {beats}")
    assert set(tab.evaluate("states")) == {"live"}
    assert len(asked(beating, channel)) == 1


def test_page_goes_by_the_heartbeats_of_the_server_that_it_returned_to(start_server, watched, channel):
    server = start_server(settings=BEATING)
    tab = watched(server, server.url, CONNECT, channel)
    tab.wait("beats >= 1")
    server.settings = SETTINGS | {"DS_BROADCASTER_HEARTBEAT_INTERVAL": 600}
    server.restart()
    until(lambda: asked(server, channel), 20)
    becomes(tab, "live")
    tab.clock.run_for(1_000_000)
    calm(tab)
    assert len(asked(server, channel)) == 1
    tab.clock.run_for(501_000)
    until(lambda: len(asked(server, channel)) > 1)


def test_page_whose_element_is_taken_away_is_watched_no_more(beating, relay, watched, channel):
    tab = watched(beating, relay.url, CONNECT, channel)
    becomes(tab, "live")
    beating.call("", channel, '<main id="main">gone</main>')
    until(lambda: not beating.call("get_users", channel))
    tab.clock.run_for(1_000)
    tab.wait("timers.size === 0")


# What happens in a page's future is made to happen now: the page's clock is set forward by a minute.


@each_client
def test_console_says_why_a_stream_is_refused(debugged, open_page, chromium, channel):
    source = (
        '{% broadcast_connect "members-room" channel=channel %}{% broadcast_connect "eager-room" channel=channel %}'
        '{% broadcast_connect "answer" channel 404 %}'
    )
    tab = open_page(debugged, source, channel, tab=chromium.tab())
    places = (f"/answer/{channel}/404/", f"/events/eager-rooms/{channel}/", f"/events/members-rooms/{channel}/")
    missing, eager, members = (f"{place} (status {why})" for place, why in zip(places, (404, 500, 403), strict=True))
    until(lambda: "EagerRoom" in reasons(tab).get(eager, "") and {missing, members} <= reasons(tab).keys())
    told = reasons(tab)
    why = "MembersRoom: has_permission() returned False for an anonymous user"
    assert (told[missing], told[members]) == ("(the log of the server may say more)", why)
    assert told[eager].startswith("ImproperlyConfigured at /events/eager-rooms/")
    assert "EagerRoom.has_permission() must return True or False, not <coroutine object" in told[eager]
    tab = open_page(debugged, '{% broadcast_connect "members-room" channel=channel %}', channel)
    becomes(tab, "live")
    assert reasons(tab) == {}
    debugged.get("/switch-off/ann/")
    becomes(tab, "closed")
    assert reasons(tab) == {f"{places[2]} (status 204)": why}


def test_console_says_that_a_stream_is_refused_whose_answer_was_cut_short(debugged, open_page, chromium, channel):
    tab = chromium.tab()
    tab.add_init_script("Response.prototype.clone = () => ({text: () => Promise.reject(new Error('cut short'))})")
    open_page(debugged, '{% broadcast_connect "answer" channel 404 %}', channel, tab=tab)
    until(lambda: reasons(tab) == {f"/answer/{channel}/404/ (status 404)": "(the log of the server may say more)"})


def reasons(tab):
    """Return what the console says of each stream and status; after a 500 the client returns and is told again."""
    told = [each.partition("No stream from ")[2].partition(": ") for each in tab.messages]
    return {place: why for place, _, why in told if place}


@each_client_and("status", [403, 401, 404, 410, 400])
def test_refused_page_shows_closed_and_does_not_return(server, open_page, chromium, channel, status):
    tab = chromium.tab(server.login("ann"))
    tab.clock.install()
    open_page(server, f'{{% broadcast_connect "answer" channel {status} %}}', channel, tab=tab)
    becomes(tab, "closed")
    for _ in range(5):
        tab.clock.run_for(12_000)
        tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    tab.hide()
    tab.show()
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    assert len(asked(server, channel)) == 1
    becomes(tab, "closed")


@each_client_and("status", [503, 500, 429])
def test_page_of_a_server_in_trouble_shows_lost_and_returns(server, open_page, chromium, channel, status):
    tab = chromium.tab(server.login("ann"))
    tab.clock.install()
    open_page(server, f'{{% broadcast_connect "answer" channel {status} %}}', channel, tab=tab)
    becomes(tab, "lost")
    for count in (2, 3):
        tab.clock.run_for(15_000)
        until(lambda count=count: len(asked(server, channel)) >= count)
    becomes(tab, "lost")


def requests_in_a_minute(tab, count):
    """Return how many requests the page makes in a minute of its clock; `count` tells how many it has made."""
    before = count()
    for _ in range(30):
        tab.clock.run_for(2_000)
        calm(tab)
    return count() - before


@each_client_and("status", [503, 500, 429])
def test_server_in_trouble_is_asked_less_and_less_often(server, open_page, chromium, channel, status):
    tab = chromium.tab(server.login("ann"))
    tab.clock.install()
    open_page(server, f'{{% broadcast_connect "answer" channel {status} %}}', channel, tab=tab)
    becomes(tab, "lost")
    # After 1, 2, 4 and 8 s, about, and then each 7.5 to 10.
    assert 4 <= requests_in_a_minute(tab, lambda: len(asked(server, channel))) <= 11
    assert 4 <= requests_in_a_minute(tab, lambda: len(asked(server, channel))) <= 8
    becomes(tab, "lost")


@each_client
def test_page_of_a_proxy_whose_server_is_away_asks_less_and_less_often_and_misses_nothing(server, chromium, channel):
    tab = chromium.tab()
    tab.clock.install()
    answered = []

    async def answer(route):
        answered.append(route)
        await route.fulfill(status=502)

    with Relay(server) as relay:
        tab.goto(relay.url + page_of(CONNECT, channel))
        becomes(tab, "live")
        tab.route("**/tag-rooms/**", answer)
        relay.drop()
        until(lambda: answered, 20)
        assert 4 <= requests_in_a_minute(tab, lambda: len(answered)) <= 11
        becomes(tab, "lost")
        server.call("elements", channel, "<li>meanwhile</li>", "#log", "append")
        tab.unroute("**/tag-rooms/**")
        tab.clock.run_for(12_000)
        expect(tab.locator("#log li")).to_have_text(["meanwhile"])
        becomes(tab, "live")
        assert asked(server, channel)[-1]["last_event_id"]


@each_client
def test_204_is_closed(server, open_page, channel):
    tab = open_page(server, '{% broadcast_connect "answer" channel 204 %}', channel)
    becomes(tab, "closed")
    tab.hide()
    tab.show()
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    assert len(asked(server, channel)) == 1
    assert tab.errors == []


@each_client_and("verb, source", [*product(["disconnect", "kill"], [CONNECT, "{% broadcast_subscribe channel %}"])])
def test_kicked_page_is_closed_and_stays_away(server, open_page, chromium, channel, verb, source):
    ann = server.login("ann")
    tab = chromium.tab(ann)
    tab.clock.install()
    open_page(server, source, channel, tab=tab)
    becomes(tab, "live")
    server.call(verb, channel, *([ann.user_id] if verb == "disconnect" else []))
    expect(tab.locator("#state")).to_have_text("closed")
    tab.clock.run_for(60_000)
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    assert (server.call("get_users", channel), len(asked(server, channel))) == ([], 1 if source == CONNECT else 0)
    expect(tab.locator("#state")).to_have_text("closed")
    assert tab.errors == []


@each_client
def test_element_may_be_replaced_by_a_notice(server, open_page, channel):
    tab = open_page(
        server, CONNECT + '{% broadcast_connect "own-stream" channel=channels.1 %}', channel, f"{channel}-b"
    )
    expect(tab.locator("[data-broadcast=live]")).to_have_count(2)
    element = tab.locator(ELEMENT).first.get_attribute("id")
    closed = f'<div id="{element}" hidden data-broadcast="closed"></div>'
    server.call("elements", channel, closed, None, "replace")
    server.call("signals", channel, {"_broadcast": "closed"})
    expect(tab.locator(f"#{element}")).to_have_attribute("data-broadcast", "closed")
    until(lambda: not server.call("get_users", channel))
    server.call("signals", f"{channel}-b", {"count": 1})
    expect(tab.locator("#count")).to_have_text("1")
    expect(tab.locator("#state")).to_have_text("closed")
    assert tab.errors == []


@each_client
def test_kicked_page_stays_away_though_the_end_came_while_it_was_busy(server, open_page, chromium, channel):
    tab = chromium.tab(server.login("ann"))
    tab.clock.install()
    # The answer has ended when the client, which then sets its timer, has dealt with the last events.
    busy = """<i data-on:datastar-fetch="for (let i = 0; i < 3e8; i++);"></i>"""
    open_page(server, busy + '{% broadcast_connect "kick" channel %}', channel, tab=tab)
    expect(tab.locator("#state")).to_have_text("closed")
    tab.clock.run_for(60_000)
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")
    assert len(asked(server, channel)) == 1


@each_client
def test_signal_is_the_worst_of_all_elements(server, open_page, channel):
    source = CONNECT + '{% broadcast_connect "answer" channel 500 as lost %}{{ lost }}'
    tab = open_page(server, source, channel)
    expect(tab.locator("[data-broadcast=live]")).to_have_count(1)
    expect(tab.locator("[data-broadcast=lost]")).to_have_count(1)
    server.call("signals", channel, {"count": 1})
    expect(tab.locator("#count")).to_have_text("1")
    expect(tab.locator("#state")).to_have_text("lost")
    tab.evaluate("document.querySelector('[data-broadcast=lost]').remove()")
    server.call("signals", channel, {"count": 2})
    expect(tab.locator("#state")).to_have_text("live")


# The element in its page


@each_client
def test_morph_of_the_page_leaves_the_stream_alone(server, open_page, channel):
    tab = open_page(server, CONNECT, channel)
    becomes(tab, "live")
    server.call("signals", channel, {"count": 1})
    expect(tab.locator("#count")).to_have_text("1")
    # The same page, rendered again: another cursor, and `connecting` again.
    later = server.get(page_of(CONNECT + "<b>new</b>", channel)).text
    main = re.search(r"<main.*</main>", later, re.DOTALL)[0]
    assert 'data-broadcast="connecting"' in main
    server.call("", channel, main)
    expect(tab.locator("#main b")).to_have_text("new")
    becomes(tab, "live")
    server.call("signals", channel, {"count": 2})
    expect(tab.locator("#count")).to_have_text("2")
    assert len(asked(server, channel)) == 1
    assert is_alone(server, channel)


@each_client
def test_morph_that_takes_the_element_away_ends_the_stream(server, open_page, channel):
    tab = open_page(server, CONNECT, channel)
    becomes(tab, "live")
    server.call("", channel, '<main id="main">gone</main>')
    until(lambda: not server.call("get_users", channel))
    assert tab.errors == []


@each_client
def test_page_that_goes_on_to_another_channel_is_live_again(server, open_page, channel):
    other = f"{channel}-other"
    tab = open_page(server, CONNECT, channel)
    becomes(tab, "live")
    later = server.get(page_of(CONNECT, other)).text
    server.call("", channel, re.search(r"<main.*</main>", later, re.DOTALL)[0])
    until(lambda: asked(server, other) and not server.call("get_users", channel))
    server.call("", other, '<div id="target">hello</div>')
    expect(tab.locator("#target")).to_have_text("hello")
    becomes(tab, "live")


def test_other_requests_of_the_page_do_not_change_the_state(server, open_page, channel):
    source = CONNECT + """<button data-on:click="@get('/answer/none/403/', {retry: 'never'})"></button>"""
    tab = open_page(server, source, channel)
    becomes(tab, "live")
    tab.locator("button").click()
    until(lambda: asked(server, "none"))
    server.call("signals", channel, {"count": 1})
    expect(tab.locator("#count")).to_have_text("1")
    becomes(tab, "live")


# Who gets it


@pytest.mark.parametrize("how", ["call", "save"])
def test_tab_that_made_the_change_is_left_out_and_its_neighbour_is_not(server, open_page, chromium, channel, how):
    source = CONNECT + f"""<button id="go" data-on:click="@post('/tell/{channel}/{how}/')"></button>"""
    sender = open_page(server, source, channel)
    becomes(sender, "live")
    neighbour = chromium.second_tab(sender)
    open_page(server, source, channel, tab=neighbour)
    becomes(neighbour, "live")
    sender.locator("#go").click()
    expect(neighbour.locator("#target")).to_have_text(f"by {how}")
    # The next event reaches both, after the one that leaves out the sender's tab.
    server.call("signals", channel, {"count": 1})
    expect(sender.locator("#count")).to_have_text("1")
    expect(sender.locator("#target")).to_have_text("")


@each_client
def test_page_stops_receiving_when_its_user_logs_out_in_another_tab(server, open_page, chromium, channel):
    tab = open_page(server, '{% broadcast_connect "members-room" channel=channel %}', channel)
    becomes(tab, "live")
    other = chromium.second_tab(tab)
    other.goto(f"{server.url}/logout/")
    becomes(tab, "closed")
    server.call("", channel, '<div id="target">a secret</div>')
    until(lambda: server.call("get_users", channel) == [])
    expect(tab.locator("#target")).to_have_text("")
    # It returned once, was refused, and returns no more.
    assert [each["last_event_id"] is not None for each in asked(server, channel)] == [False, True]


def test_page_stops_receiving_when_its_user_is_kicked_out_of_the_account(server, open_page, channel):
    tab = open_page(server, '{% broadcast_connect "members-room" channel=channel %}', channel)
    becomes(tab, "live")
    server.get("/switch-off/ann/")
    becomes(tab, "closed")
    server.call("", channel, '<div id="target">a secret</div>')
    expect(tab.locator("#target")).to_have_text("")
