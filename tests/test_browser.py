"""The real Datastar client in Chromium."""

from tests.harness import each_mode, expect


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
