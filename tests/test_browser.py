"""The real Datastar client in Chromium: what a page's visitor sees."""

import time

import pytest

from tests.harness import each_client, each_client_and, each_mode, expect


def items(count, start=0):
    return [str(number) for number in range(start, start + count)]


@each_client
@each_mode
def test_patch_arrives(chromium, server, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/?cursor=1")
    server.call("", channel, '<div id="target">hello</div>')
    expect(tab.locator("#target")).to_have_text("hello")
    assert tab.errors == []


@each_mode
def test_signals_arrive(chromium, server, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/?cursor=1")
    server.call("signals", channel, {"count": 3})
    expect(tab.locator("#count")).to_have_text("3")
    assert tab.errors == []


TEXT = "  two spaces\n\n\ttab and   gaps\nU+2028:\u2028. form feed:\x0c. end  "


@each_mode
def test_pre_and_textarea_keep_their_spaces_and_line_breaks(chromium, server, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/?cursor=1")
    # HTML drops one line break right after these tags, so the text begins after one.
    server.call("", channel, f'<div id="target"><pre>\n{TEXT}</pre><textarea>\n{TEXT}</textarea></div>')
    expect(tab.locator("#target pre")).to_have_count(1)
    assert tab.evaluate("document.querySelector('#target pre').textContent") == TEXT
    assert tab.evaluate("document.querySelector('#target textarea').value") == TEXT


@each_mode
@pytest.mark.django_db(transaction=True)
def test_presence_is_the_same_in_two_windows_and_a_reload_does_not_flicker(chromium, server, channel):
    ann, ben = chromium.tab(server.login("ann")), chromium.tab(server.login("ben"))
    ann.goto(f"/page/{channel}/?presence=html")
    expect(ann.locator("#presence li")).to_have_text(["ann"])
    ben.goto(f"/page/{channel}/?presence=html")
    for tab in (ann, ben):
        expect(tab.locator("#presence li")).to_have_text(["ann", "ben"])
    ann.evaluate("""() => {
        window.seen = [];
        const look = () => window.seen.push(document.querySelector('#presence').innerText);
        new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
    }""")
    ben.reload()
    expect(ben.locator("#presence li")).to_have_text(["ann", "ben"])
    server.call("", channel, '<div id="target">after the reload</div>')
    expect(ann.locator("#target")).to_have_text("after the reload")
    assert {text for text in ann.evaluate("window.seen") if "ben" not in text} == set()


@each_client
@each_mode
def test_hidden_tab_shows_everything_sent_meanwhile_once_and_in_order(chromium, server, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/?cursor=1")
    server.burst(channel, 5)
    expect(tab.locator("#log li")).to_have_text(items(5))
    tab.hide()
    deadline = time.monotonic() + 10
    while server.call("get_users", channel):
        assert time.monotonic() < deadline, "The hidden tab keeps its stream."
    server.burst(channel, 20, start=5)
    tab.show()
    expect(tab.locator("#log li")).to_have_text(items(25))
    server.burst(channel, 5, start=25)
    expect(tab.locator("#log li")).to_have_text(items(30))
    assert tab.errors == []


@each_mode
def test_what_is_sent_between_render_and_connect_appears(chromium, server, channel):
    ann = server.login("ann")
    page = ann.get(f"/page/{channel}/?cursor=1").text
    server.burst(channel, 3)
    tab = chromium.tab(ann)
    # The page as it was rendered, shown only now: it took its time to arrive.
    tab.goto("/ready/")
    tab.set_content(page)
    expect(tab.locator("#log li")).to_have_text(items(3))


@each_mode
def test_kicked_users_page_says_so_and_stays_away(chromium, server, channel):
    ann, ben = server.login("ann"), server.login("ben")
    tab, other = chromium.tab(ann), chromium.tab(ben)
    tab.goto(f"/page/{channel},{channel}-user-{ann.user_id}/?cursor=1")
    other.goto(f"/page/{channel},{channel}-user-{ben.user_id}/?cursor=1")
    server.call("", channel, '<div id="target">welcome</div>')
    for each in (tab, other):
        expect(each.locator("#target")).to_have_text("welcome")
    server.call("", f"{channel}-user-{ann.user_id}", '<div id="target">You were removed.</div>')
    server.call("disconnect", channel, ann.user_id)
    expect(tab.locator("#target")).to_have_text("You were removed.")
    server.call("elements", channel, "<li>still here</li>", "#log", "append")
    expect(other.locator("#log li")).to_have_text(["still here"])
    expect(tab.locator("#log li")).to_have_count(0)
    assert server.call("get_users", channel) == [ben.user_id]


@each_client_and("mode, retry", [("handoff", "always"), ("plain", "auto"), ("handoff", "auto")])
def test_server_restart_is_survived(chromium, start_server, channel, mode, retry):
    server = start_server(mode=mode)
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/?cursor=1&snapshot=fresh&retry={retry}")
    server.call("", channel, '<div id="target">before</div>')
    expect(tab.locator("#target")).to_have_text("before")
    server.restart()
    # The memory broker's history went with the old process: a gap, and so the snapshot.
    expect(tab.locator("#snapshot")).to_have_text("fresh", timeout=10_000)
    server.call("", channel, '<div id="target">after</div>')
    expect(tab.locator("#target")).to_have_text("after")
