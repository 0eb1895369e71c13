"""Scripts, redirects and events in Chromium: what they hold stays data, and they run under a page's policy."""

import json
from urllib.parse import urlencode

import pytest

from tests.harness import each_client, expect
from tests.live import live_server, until
from tests.settings import MIDDLEWARE

SETTINGS = {
    # Not imported here: it binds a model.
    "ROOT_URLCONF": "tests.project.tag_site",
    "MIDDLEWARE": [*MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"],
    "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
}
OPEN = "'self' 'unsafe-inline' 'unsafe-eval'"
EVAL = "'self' 'unsafe-eval'"
STRICT = "'nonce-abc' 'strict-dynamic'"
# All that could end an element, a line, a string or an event, or be an expression of the client's.
HOSTILE = (
    "</script><script>forged = 1</script><!--<script> '\"` </body></html> \\u2028 \u2028\u2029\x85 &lt; $count "
    "@get('/x') ${forged} data: x"
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(django_db_setup):
    with live_server("handoff", settings=SETTINGS) as server:
        yield server


@pytest.fixture
def open_page(server, chromium, channel):
    """Open a page whose policy lets these scripts run, and wait for its stream."""

    def open_page(scripts, **query):
        tab = chromium.tab(server.login("ann"))
        tab.goto(f"/policy/{channel}/?{urlencode({'scripts': scripts, **query})}")
        expect(tab.locator("#state")).to_have_text("live")
        return tab

    return open_page


def hears(tab, name, target="document"):
    """Note each event of this name: its detail, and whether it bubbles."""
    tab.evaluate(
        """([name, target]) => {
            window.heard = [];
            const each = target == 'document' ? [document] : document.querySelectorAll(target);
            const note = event => heard.push([event.detail, event.bubbles, event.target === event.currentTarget]);
            for (const one of each) one.addEventListener(name, note);
        }""",
        [name, target],
    )


@each_client
def test_script_runs_once_and_its_text_stays_text(server, open_page, channel):
    tab = open_page(OPEN)
    scripts = tab.locator("script").count()
    line_by_line = "  first\r\n</SCRIPT >\n\tlast\n"
    server.call("script", channel, f"heard = [{json.dumps(HOSTILE, ensure_ascii=False)}]")
    server.call("script", channel, f"heard.push(`{line_by_line}`, '<'.replace(/</g, 'replaced'), 1 < 2)")
    until(lambda: len(tab.evaluate("window.heard || []")) == 4)
    assert tab.evaluate("heard") == [HOSTILE, "  first\n</SCRIPT >\n\tlast\n", "replaced", True]
    assert tab.evaluate("typeof forged") == "undefined"
    assert tab.locator("script").count() == scripts
    assert tab.errors == []


def test_script_keeps_its_element_and_attributes_on_demand(server, open_page, channel):
    tab = open_page(OPEN)
    attributes = {"id": "kept", "type": "module", "data-note": HOSTILE}
    server.call("script", channel, "window.isModule = this === undefined", auto_remove=False, attributes=attributes)
    until(lambda: tab.evaluate("window.isModule") is True)
    assert tab.locator("#kept").get_attribute("data-note") == HOSTILE
    assert tab.errors == []


@each_client
def test_event_reaches_the_document_or_elements_and_its_detail_stays_data(server, open_page, channel):
    tab = open_page(OPEN)
    detail = {HOSTILE: [HOSTILE, None, 1.5, {"line": "a\r\nb\0"}]}
    hears(tab, HOSTILE)
    server.call("dispatch", channel, HOSTILE, detail)
    until(lambda: tab.evaluate("heard") == [[detail, True, True]])
    # On elements that came just before, by handlers of their own.
    handler = "el.textContent = JSON.stringify(evt.detail)"
    server.call("", channel, f'<div id="target"><p data-on:note="{handler}"></p><p data-on:note="{handler}"></p></div>')
    server.call("dispatch", channel, "note", {"a": [1]}, "#target p, [title='</script>']")
    expect(tab.locator("#target p")).to_have_text(['{"a":[1]}', '{"a":[1]}'])
    assert tab.evaluate("typeof forged") == "undefined"
    assert tab.locator("script").count() == 1
    assert tab.errors == []


@each_client
def test_redirect_goes_to_the_url_and_leaves_the_page_in_the_history(server, open_page, channel):
    tab = open_page(OPEN)
    before = tab.evaluate("history.length")
    server.call("redirect", channel, f"/tags/?source=&q={HOSTILE}")
    tab.wait_for_url("**/tags/**")
    query = "decodeURIComponent(location.search + location.hash)"
    assert tab.evaluate(query) == f"?source=&q={HOSTILE}"
    assert tab.evaluate("history.length") == before + 1
    assert tab.errors == []


def test_all_of_them_work_under_a_nonce_without_unsafe_eval(server, open_page, channel):
    tab = open_page(STRICT, nonce="abc")
    hears(tab, "note")
    server.call("dispatch", channel, "note", {"a": 1})
    server.call("script", channel, "heard.push('by script')")
    until(lambda: len(tab.evaluate("heard")) == 2)
    heard = tab.evaluate("heard")
    assert "by script" in heard
    assert [{"a": 1}, True, True] in heard
    server.call("redirect", channel, "/ready/")
    tab.wait_for_url("**/ready/")
    assert tab.errors == []


@each_client
def test_without_a_nonce_events_work_and_scripts_are_blocked(server, open_page, channel):
    tab = open_page(EVAL)
    hears(tab, "note")
    server.call("script", channel, "heard.push('by script')")
    server.call("dispatch", channel, "note", {"a": 1})
    until(lambda: tab.evaluate("heard") == [[{"a": 1}, True, True]])
    assert any("inline script" in each for each in tab.errors)


@each_client
def test_transition_animates_the_element_that_is_named(server, open_page, chromium, channel):
    tab = open_page(OPEN)
    tab.evaluate(
        """() => {
            window.animated = [];
            const note = function (patch) { animated.push(this.id ?? 'document'); patch(); };
            document.startViewTransition = Element.prototype.startViewTransition = note;
        }"""
    )
    options = {"use_view_transition": True}
    server.call("", channel, '<div id="target">1</div>', **options)
    server.call("", channel, '<div id="target">2</div>', **options, view_transition_selector="#target")
    expect(tab.locator("#target")).to_have_text("2")
    named = "document" if chromium.client == "1.0.1" else "target"
    assert tab.evaluate("animated") == ["document", named]
    assert tab.errors == []
