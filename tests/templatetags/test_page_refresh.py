"""Pages that fetch themselves after a refresh, in Chromium."""

from urllib.parse import quote

import pytest

from tests.harness import each_client, expect
from tests.harness.browser import Waiting
from tests.live import live_server, until
from tests.settings import MIDDLEWARE

SETTINGS = {
    "ROOT_URLCONF": "tests.project.refresh_site",
    "MIDDLEWARE": [*MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"],
    "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
    "DS_BROADCASTER_REFRESH_INTERVAL": 0.01,
    "DS_BROADCASTER_REFRESH_SPREAD": 0.02,
}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(django_db_setup):
    with live_server("handoff", settings=SETTINGS) as server:
        yield server


@pytest.fixture
def open_page(chromium, server, channel):
    """Open the page of the test's channel, and wait until it is live."""

    def open_page(query="", channels=channel, tab=None):
        tab = tab or chromium.tab(server.login("ann"))
        tab.goto(f"{server.url}/page/{channels}/{query}")
        expect(tab.locator("#state")).to_have_text("live")
        return tab

    return open_page


def refresh(server, channel):
    server.call("refresh", channel)


def asked(server, channel):
    return server.get(f"/page/{channel}/asked/").json()["asked"]


def shows(tab, number):
    expect(tab.locator("#number")).to_have_text(str(number))


@each_client
def test_page_is_new_and_its_user_is_left_in_peace(server, open_page, channel):
    tab = open_page()
    tab.locator("#text").fill("typed")
    tab.locator("#kept").fill("mine")
    tab.locator("#field").fill("half a sent")
    tab.locator("#row-1 input").fill("in a row")
    tab.locator("#more summary").click()
    tab.evaluate("dialog.show(); scrollTo(0, 700); box.scrollTop = 120; field.focus({preventScroll: true})")
    tab.evaluate("field.setSelectionRange(2, 4); window.first = document.querySelector('[data-broadcast]')")
    for number in (2, 3):
        refresh(server, channel)
        shows(tab, number)
    assert tab.title() == "3"
    assert tab.texts("#log li") == ["3", "2", "1"]
    assert tab.evaluate("[field, text, kept].map(each => each.value)") == ["half a sent", "typed", "mine"]
    assert tab.locator("#row-1 input").input_value() == "in a row"
    expect(tab.locator("#field")).to_be_focused()
    assert tab.evaluate("[field.selectionStart, field.selectionEnd, scrollY, box.scrollTop]") == [2, 4, 700, 120]
    assert tab.evaluate("[more.open, dialog.open, ignored.innerText, more.lastChild.data]") == [True, True, "1", "3"]
    # Nothing ran twice, and the stream is the one of before.
    assert tab.evaluate("[runs, inits, first.isConnected, first.dataset.broadcast]") == [1, 1, True, "live"]
    assert len(server.call("get_users", channel)) == 1
    assert tab.errors == []


def test_what_scripts_set_on_the_root_element_stays(server, open_page, channel):
    tab = open_page()
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    refresh(server, channel)
    shows(tab, 2)
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_selector_says_what_is_new(server, open_page, channel):
    tab = open_page("?refresh=" + quote("#number, details"))
    for number in (2, 3):
        refresh(server, channel)
        shows(tab, number)
    assert tab.title() == "1"
    assert tab.evaluate("[box.innerText, more.lastChild.data, runs]") == ["1", "3", 1]
    assert tab.errors == []


def test_request_of_a_refresh_is_the_pages_own(server, open_page, channel):
    tab = open_page("?q=a%20b&q=2#part")
    refresh(server, channel)
    shows(tab, 2)
    first, second = asked(server, channel)
    assert second["path"] == first["path"] == f"/page/{channel}/?q=a%20b&q=2"
    assert second["headers"]["Broadcast-Refresh"] == "true"
    assert "Datastar-Request" not in second["headers"]
    assert "text/html" in second["headers"]["Accept"]
    assert tab.url.endswith("?q=a%20b&q=2#part")


def test_page_may_be_refreshed_by_hand(server, open_page, channel):
    tab = open_page("?q=a%20b#part")
    tab.get_by_role("button").click()
    shows(tab, 2)
    assert asked(server, channel)[1]["query"] == {"q": "a b"}
    assert tab.errors == []


def calm(tab):
    """Wait until the page has dealt with what its clock brought about."""
    tab.evaluate("fetch('/ready/').then(answer => answer.text())")


def held(tab, channel):
    """Hold back the page's requests for itself; they are in the list that is returned."""
    requests = []
    tab.route(f"**/page/{channel}/**", lambda route: requests.append(route))
    return requests


def go_on(tab, channel, request):
    Waiting(request).continue_()
    tab.unroute(f"**/page/{channel}/**")


def test_any_number_of_refreshes_are_at_most_two_fetches(server, open_page, channel):
    tab = open_page()
    requests = held(tab, channel)
    for _ in range(5):
        refresh(server, channel)
    until(lambda: requests)
    for _ in range(5):
        refresh(server, channel)
    tab.evaluate("new Promise(go => setTimeout(go, 50))")
    assert len(requests) == 1
    go_on(tab, channel, requests[0])
    shows(tab, 3)
    refresh(server, channel)
    shows(tab, 4)
    assert len(asked(server, channel)) == 4
    assert tab.errors == []


def test_several_elements_are_one_fetch(server, open_page, channel):
    tab = open_page(channels=f"{channel},{channel}-b")
    refresh(server, channel)
    shows(tab, 2)
    tab.locator("[data-broadcast]").first.evaluate("element => element.remove()")
    refresh(server, f"{channel}-b")
    shows(tab, 3)
    assert len(asked(server, f"{channel},{channel}-b")) == 3


@pytest.mark.parametrize("answer", ["redirect", 403, 500, "offline"])
def test_page_stays_as_it_is_when_it_cannot_be_fetched(server, open_page, channel, answer):
    tab = open_page()
    tab.locator("#field").fill("typed")
    tab.clock.install()
    requests = held(tab, channel)
    refresh(server, channel)
    tab.clock.run_for(100)
    until(lambda: requests)
    request = Waiting(requests[0])
    if answer == "offline":
        request.abort()
    elif answer == "redirect":
        request.fulfill(status=302, headers={"Location": f"{server.url}/tags/?source=login"})
    else:
        request.fulfill(status=answer, content_type="text/html", body="<html><body>Error</body></html>")
    tab.unroute(f"**/page/{channel}/**")
    if answer in (500, "offline"):
        # It is asked again after a while.
        until(lambda: tab.clock.run_for(2000) or len(asked(server, channel)) == 2)
        shows(tab, 2)
    else:
        tab.clock.run_for(5000)
        shows(tab, 1)
        refresh(server, channel)
        until(lambda: tab.clock.run_for(100) or len(asked(server, channel)) == 2)
        shows(tab, 2)
    assert tab.locator("#field").input_value() == "typed"
    expect(tab.locator("#state")).to_have_text("live")
    assert len(asked(server, channel)) == 2


def test_server_in_trouble_is_asked_less_and_less_often(server, open_page, channel):
    tab = open_page()
    tab.clock.install()
    requests = []

    async def answer(route):
        requests.append(route)
        await route.fulfill(status=503)

    tab.route(f"**/page/{channel}/**", answer)
    refresh(server, channel)
    until(lambda: tab.clock.run_for(100) or requests)
    for _ in range(30):
        tab.clock.run_for(4000)
        calm(tab)
    assert 4 <= len(requests) <= 9


def test_answer_for_a_page_that_went_on_is_not_shown(server, open_page, channel):
    tab = open_page()
    requests = held(tab, channel)
    refresh(server, channel)
    until(lambda: requests)
    tab.evaluate("history.pushState(null, '', '?page=2')")
    go_on(tab, channel, requests[0])
    shows(tab, 3)
    assert asked(server, channel)[-1]["query"] == {"page": "2"}


def test_refresh_comes_at_a_random_moment_within_the_spread(server, open_page, channel):
    tab = open_page()
    tab.clock.install()
    # Of the 20 ms that the settings say.
    tab.evaluate("Math.random = () => 3000")
    refresh(server, channel)
    tab.wait("document.querySelector('[data-broadcast-refresh]').step === 'waits'")
    tab.clock.run_for(59_000)
    calm(tab)
    assert len(asked(server, channel)) == 1
    tab.clock.run_for(2000)
    shows(tab, 2)


@pytest.mark.parametrize("query", ["?nonce=abc", "?bare=1"])
def test_page_may_have_a_policy_or_no_end_tags(server, open_page, channel, query):
    tab = open_page(query)
    for number in (2, 3):
        refresh(server, channel)
        shows(tab, number)
    assert tab.evaluate("[runs, inits]") == [1, 1]
    assert tab.errors == []


def test_other_fetches_of_the_page_are_its_own(server, open_page, channel):
    tab = open_page()
    tab.evaluate("""document.addEventListener('datastar-fetch', event =>
        event.detail.type === 'started' && fetch('/tell/').then(() => window.told = true))""")
    refresh(server, channel)
    shows(tab, 2)
    tab.wait("window.told")
    assert len(asked(server, channel)) == 2


def test_hidden_page_that_missed_refreshes_fetches_itself_once(server, open_page, channel):
    tab = open_page()
    tab.hide()
    until(lambda: not server.call("get_users", channel))
    for _ in range(5):
        refresh(server, channel)
    tab.show()
    shows(tab, 2)
    # What comes later finds it ready.
    refresh(server, channel)
    shows(tab, 3)
    assert len(asked(server, channel)) == 3


def test_page_that_was_rendered_before_a_refresh_fetches_itself(server, open_page, chromium, channel):
    tab = chromium.tab(server.login("ann"))
    streams = []
    tab.route("**/subscribe/**", lambda route: streams.append(route))
    tab.goto(f"{server.url}/page/{channel}/")
    until(lambda: streams)
    refresh(server, channel)
    Waiting(streams[0]).continue_()
    shows(tab, 2)


def test_page_that_is_left_during_a_fetch_leaves_nothing(server, open_page, channel):
    tab = open_page()
    requests = held(tab, channel)
    refresh(server, channel)
    until(lambda: requests)
    tab.goto(f"{server.url}/page/{channel}-b/")
    expect(tab.locator("#state")).to_have_text("live")
    shows(tab, 1)
    assert tab.errors == []
