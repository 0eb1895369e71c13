"""The demo in a browser, started by its own command; its own tests, without one, are in its folder."""

import os
import re
import socket
import subprocess
import sys
from itertools import groupby
from queue import SimpleQueue

import pytest

from tests.harness import Server, expect
from tests.harness.browser import Waiting
from tests.harness.server import ROOT, free_port
from tests.live import until

RECORD_STREAMS = """
window.streams = [];
window.answers = [];
const send = window.fetch;
window.fetch = (url, options) => {
    const stream = String(url).includes('/events/rooms/');
    if (stream) streams.push(options.signal);
    const answer = send(url, stream && window.deaf ? {...options, signal: null} : options);
    if (stream) answers.push(answer);
    return answer;
};
"""

PEOPLE = {"Ada": "Ada Okafor", "Mio": "Mio Tanaka", "Luis": "Luis Ferrer"}


class Demo(Server):
    """`manage.py demo`, with its database in a folder of its own."""

    def __init__(self, folder):
        super().__init__("demo")
        self.folder = folder
        self.sessions = {}  # the cookies of those who logged in once

    def _launch(self):
        env = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "HOST")}
        paths = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "cookbook" / "room" / "manage.py", "demo"],
            cwd=self.folder,
            env=env
            | {
                "PORT": str(self.port),
                "ROOM_DB": str(self.folder / "room.sqlite3"),
                "PYTHONPATH": paths,
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def __enter__(self):
        """Start it, and wait only for the line that says so."""
        self.port = self.port or free_port()
        self._launch()
        self.wait_for_log("The room is open at", 30)
        return self


@pytest.fixture(scope="module")
def _demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield demo
    finally:
        demo.stop()


@pytest.fixture
def demo(_demo):
    """The demo that all tests share; each makes a room of its own in it."""
    if not _demo.alive:
        _demo.kill()
        _demo.start()
    return _demo


@pytest.fixture
def window(chromium, demo):
    """Open a window of this person's: `window("Ada", room)`, with `clock=True` on a clock that can run ahead.

    No page may violate the demo's Content-Security-Policy, whatever is done in it.
    """
    tabs = []

    def open_window(name, path="/", clock=False, **options):
        tab = chromium.tab(site=demo.url, cookies=demo.sessions.get(name), **options)
        tabs.append(tab)
        if name not in demo.sessions:
            tab.goto("/")
            log_in(tab, name)
            demo.sessions[name] = tab.cookies()
        tab.add_init_script(RECORD_STREAMS)
        if clock:
            tab.clock.install()
        tab.goto(path)
        return tab

    yield open_window
    assert [error for tab in tabs for error in tab.errors if "Content Security Policy" in error] == []


def log_in(tab, name):
    tab.get_by_role("button", name=PEOPLE[name]).click()
    expect(tab.locator(".me")).to_contain_text(name)


def make_room(tab, name, topic=""):
    """Create a room on the list of rooms, which leads into it, and return its address."""
    tab.get_by_label("Name").fill(name)
    tab.get_by_label("What it is for").fill(topic)
    tab.get_by_role("button", name="Create room").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text(name)
    return tab.wrapped.url


def message_field(tab):
    """Return the field for a message, once the page's client heeds its keys."""
    expect(tab.locator("[data-broadcast=live]").first).to_be_attached()
    return tab.get_by_label("Message", exact=True)


def write(tab, text):
    field = message_field(tab)
    field.fill(text)
    field.press("Enter")
    expect(field).to_have_value("")  # the server's answer empties it


def texts(tab):
    return tab.locator("#messages .text")


def member(tab, name):
    return tab.locator(".member", has_text=name)


def streams(tab):
    """Each request for a stream that this page has made: whether it was given up."""
    return tab.evaluate("streams.map(signal => signal.aborted)")


def hours_later(tab):
    """Let all happen that the page does within some hours; it needs a clock."""
    for _ in range(3):
        tab.clock.run_for("01:00:00")
        tab.evaluate("Promise.allSettled(answers).then(() => null)")


@pytest.mark.servers
def test_demo_answers_when_it_says_that_it_is_open(tmp_path):
    with Demo(tmp_path) as demo:
        assert demo.get("/").status == 200
        assert demo.log().count("\n") == 1


@pytest.mark.servers
def test_port_that_is_in_use_is_one_clear_line(tmp_path):
    demo = Demo(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        demo.port = taken.getsockname()[1]
        demo._launch()
        assert demo.process.wait(30) == 1
    log = demo.log()
    demo.stop()
    problem = "cannot be used: Address already in use. Set PORT to another one."
    assert log == f"CommandError: Port {demo.port} of 127.0.0.1 {problem}\n"


def test_one_click_logs_in_as_each_of_the_three(chromium, demo):
    tab = chromium.tab(site=demo.url)
    tab.goto("/")
    for name in PEOPLE:
        log_in(tab, name)
        expect(tab.locator(".card")).not_to_have_count(0)
        # A stream that is asked for after the logout is refused, and the browser calls that an error.
        expect(tab.locator("[id^=broadcast-]")).to_have_attribute("data-broadcast", "live")
        tab.get_by_role("button", name="Log out").click()
    # The page's other address has cookies of its own: two people in one browser.
    log_in(tab, "Ada")
    second = chromium.second_tab(tab)
    second.goto(tab.locator(".hint a").get_attribute("href"))
    log_in(second, "Mio")
    tab.reload()
    expect(tab.locator(".me")).to_contain_text("Ada")
    assert tab.errors == second.errors == []


def test_a_message_appears_in_both_windows_as_it_was_written(window):
    mio, ada = window("Mio"), window("Ada")
    room = make_room(mio, "As written")
    ada.get_by_role("link", name="As written").click()
    expect(ada.get_by_role("heading", level=1)).to_have_text("As written")
    field = message_field(ada)
    field.fill("  two  spaces & <b>bold</b> {{ 7|add:7 }}\n\n")
    field.press("Shift+Enter")
    ada.keyboard.insert_text("\tlast <img src=x onerror=\"document.title = 'forged'\">")
    field.press("Enter")
    text = "  two  spaces & <b>bold</b> {{ 7|add:7 }}\n\n\n\tlast <img src=x onerror=\"document.title = 'forged'\">"
    for tab in (mio, ada):
        expect(texts(tab)).to_have_count(1)
        assert texts(tab).text_content() == text
        assert texts(tab).inner_text() == text
    write(mio, "the second")
    # A page that is rendered with the messages is not sent them again.
    ada.goto(room)
    write(mio, "the third")
    for tab in (mio, ada):
        expect(texts(tab)).to_have_text([text, "the second", "the third"])
        expect(tab).to_have_title("As written")
        assert tab.errors == []


def test_presence_shows_everybody_and_a_reload_does_not_flicker(window):
    mio = window("Mio")
    room = make_room(mio, "Presence")
    ada, luis = window("Ada", room), window("Luis", room)
    for tab in (mio, ada, luis):
        for name in PEOPLE:
            expect(member(tab, name).locator(".state")).to_contain_text("Here now")
    mio.evaluate(
        """() => {
            window.seen = [];
            const look = () => window.seen.push(Object.fromEntries(['Ada', 'Luis'].map(name => [name,
                [...document.querySelectorAll('.member.here')].some(each => each.innerText.includes(name))])));
            new MutationObserver(look).observe(document.body,
                {childList: true, subtree: true, characterData: true, attributes: true});
        }"""
    )
    ada.reload()
    write(ada, "back")
    luis.goto("/")  # As a tab that is closed, it says so.
    expect(member(mio, "Luis").locator(".state")).to_have_text("Not here")
    expect(texts(mio)).to_have_text("back")
    seen = mio.evaluate("window.seen")
    assert {each["Ada"] for each in seen} == {True}
    # The same wait that shows Luis as gone has passed for Ada's first stream too.
    assert [here for here, _ in groupby(each["Luis"] for each in seen)] == [True, False]


def test_typing_and_pointers_are_seen_by_the_others_alone(window):
    mio = window("Mio")
    ada = window("Ada", make_room(mio, "At once"))
    # Everybody is sent the same; one's own is hidden.
    message_field(ada).press_sequentially("Hm")
    expect(mio.locator(".typist")).to_have_text("Ada is typing")
    expect(ada.locator(".typist")).to_have_count(1)
    expect(ada.locator(".typist")).to_be_hidden()
    ada.keyboard.press("Enter")
    expect(texts(mio)).to_have_text("Hm")
    expect(mio.locator(".typist")).to_have_count(0)

    stage = ada.locator(".stage").bounding_box()
    seen, own = (tab.locator(".pointer", has_text="Ada") for tab in (mio, ada))
    for part in (0.25, 0.75):
        x, y = round(stage["x"] + stage["width"] * part), round(stage["y"] + stage["height"] * part)
        ada.mouse.move(x, y)
        across, down = (x - stage["x"]) / stage["width"], (y - stage["y"]) / stage["height"]
        place = re.compile(re.escape(f"translate: {across:.2%} {down:.2%}"))
        expect(seen).to_have_attribute("style", place)
        expect(seen).to_have_css("opacity", "1")
        expect(own).to_have_attribute("style", place)
        expect(own).to_be_hidden()
    ada.mouse.move(1, 1)
    expect(seen).to_have_css("opacity", "0")


def test_removed_user_is_told_and_asks_for_no_more_until_let_back_in(window):
    mio = window("Mio")
    room = make_room(mio, "Removal")
    ada, luis = window("Ada", room), window("Luis", room, clock=True)
    expect(member(mio, "Luis").locator(".state")).to_have_text("Here now")
    expect(ada.get_by_role("button", name="Remove Luis")).to_be_hidden()
    mio.get_by_role("button", name="Remove Luis").click()
    expect(luis.get_by_role("alert")).to_contain_text("You are out of “Removal” Mio removed you.")
    for tab in (mio, ada):
        expect(member(tab, "Luis").locator(".state")).to_have_text("Removed")
    hours_later(luis)
    assert streams(luis) == [True]
    expect(luis.get_by_role("alert")).to_contain_text("Mio removed you.")
    write(mio, "among us")
    expect(texts(ada)).to_have_text("among us")

    luis.get_by_role("link", name="See the other rooms").click()
    card = luis.locator(".card", has_text="Removal")
    expect(card).to_contain_text("Mio removed you.")
    mio.get_by_role("button", name="Let back in Luis").click()
    card.get_by_role("link").click()
    expect(texts(luis)).to_have_text("among us")
    expect(member(mio, "Luis").locator(".state")).to_have_text("Here now")


def test_everybody_is_told_that_the_room_is_deleted(window):
    mio, ada = window("Mio"), window("Ada")
    room = make_room(mio, "Deletion")
    ada.get_by_role("link", name="Deletion").click()
    luis = window("Luis", clock=True)
    luis.add_init_script("window.deaf = true")
    luis.goto(room)
    for name in ("Ada", "Luis"):
        expect(member(mio, name).locator(".state")).to_have_text("Here now")
    ada.hide()
    assert streams(ada) == [True]
    mio.get_by_role("button", name="Delete room").click()
    mio.get_by_role("dialog").get_by_role("button", name="Delete room").click()
    expect(mio.get_by_role("heading", level=1)).to_have_text("Rooms")
    expect(mio.locator(".card", has_text="Deletion")).to_have_count(0)
    notice = luis.get_by_role("alert")
    expect(notice).to_contain_text("“Deletion” is gone Mio deleted this room.")
    # A page that did not give its stream up in time asks no more either, and keeps what it was told.
    hours_later(luis)
    assert streams(luis) == [True]
    expect(notice).to_contain_text("“Deletion” is gone Mio deleted this room.")
    # Who was not looking is told later.
    ada.show()
    expect(ada.get_by_role("alert")).to_contain_text("This room is not open to you")


def test_pages_recover_when_the_demo_is_restarted(window, demo):
    mio = window("Mio")
    ada = window("Ada", make_room(mio, "Restart"))
    write(mio, "before")
    expect(texts(ada)).to_have_text(["before"])
    held = SimpleQueue()
    ada.route("**/events/rooms/**", lambda route: held.put(route))
    demo.restart()
    request = Waiting(held.get(timeout=20))
    expect(ada.locator(".connection")).to_have_text("Reconnecting…")
    write(mio, "meanwhile")
    expect(texts(ada)).to_have_text(["before"])
    request.continue_()
    expect(texts(ada)).to_have_text(["before", "meanwhile"])
    write(mio, "after")
    for tab in (mio, ada):
        expect(texts(tab)).to_have_text(["before", "meanwhile", "after"], timeout=20_000)
        expect(tab.locator(".connection")).to_have_text("")
        expect(tab.locator(".member.here")).to_have_count(2)


def test_no_page_needs_unsafe_eval_or_inline_scripts(chromium, demo, window):
    ada = window("Ada")
    room = make_room(ada, "Strict")
    door = chromium.tab(site=demo.url)
    watch = "document.addEventListener('securitypolicyviolation', event => console.error(event.violatedDirective))"
    door.add_init_script(watch)
    assert door.goto("/").status == 200
    expect(door.get_by_role("button", name=PEOPLE["Mio"])).to_be_visible()
    ada.add_init_script(watch)
    for path, status, shown in (
        ("/", 200, "[data-broadcast=live]"),
        (room, 200, "[data-broadcast=live]"),
        ("/events/inspector/", 200, "text=Live"),
        ("/rooms/999999/", 403, "a:focus"),  # by its data-init
    ):
        page = ada.goto(path)
        assert page.status == status
        policy = dict(each.split(" ", 1) for each in page.all_headers()["content-security-policy"].split("; "))
        assert re.fullmatch(r"'nonce-[\w-]{16,}' 'strict-dynamic'", policy["script-src"])
        expect(ada.locator(shown).first).to_be_attached()
        assert not any("Content Security" in each or "-src" in each for each in ada.errors), ada.errors
    assert door.errors == []
    # What the policy stops is told in this way.
    ada.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')")
    until(lambda: "script-src-attr" in ada.errors)
    ada.errors.clear()


LONG = "W" * 40  # no line break is possible in it


def test_nothing_is_wider_than_a_small_phone(chromium, demo, window):
    phone = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True}

    def width(tab):
        return tab.evaluate("Math.max(document.documentElement.scrollWidth, innerWidth)")

    door = chromium.tab(site=demo.url, **phone)
    door.goto("/")
    expect(door.get_by_role("button", name=PEOPLE["Luis"])).to_be_in_viewport()
    assert width(door) == 360
    mio, ada = window("Mio", **phone), window("Ada", **phone)
    ada.goto(make_room(mio, LONG, LONG * 2))
    write(ada, LONG * 5)
    expect(texts(mio)).to_have_count(1)
    for name in ("Message", "Send", "All rooms", "Delete room"):
        expect(mio.get_by_label(name, exact=True).or_(mio.get_by_role("button", name=name)).first).to_be_in_viewport(
            ratio=1
        )
    assert width(mio) == 360
    mio.get_by_role("button", name="Delete room").click()
    for button in ("Keep it", "Delete room"):
        expect(mio.get_by_role("dialog").get_by_role("button", name=button)).to_be_in_viewport(ratio=1)
    assert width(mio) == 360
    luis = window("Luis", **phone)
    expect(luis.locator(".card", has_text=LONG)).to_have_count(1)
    assert width(luis) == 360
    mio.get_by_role("dialog").get_by_role("button", name="Delete room").click()
    expect(ada.get_by_role("alert")).to_contain_text("is gone")
    assert width(ada) == 360


def test_ctrl_c_ends_the_command_while_people_are_in_a_room(window, demo):
    mio = window("Mio")
    ada = window("Ada", make_room(mio, "The end"))
    write(mio, "here")
    expect(texts(ada)).to_have_text("here")
    assert demo.sigint() < 5
    assert demo.process.returncode == 0
    assert demo.log().endswith("Closed.\n")
    # Nothing that people did in any test was an error to it.
    assert "Traceback" not in demo.log()
    for tab in (mio, ada):
        expect(tab.locator(".connection")).to_have_text("Reconnecting…")
