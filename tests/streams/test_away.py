"""What others are shown of a user: the table of the guide, row by row, in Chromium and over two processes."""

import re
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.harness import each_client
from tests.harness.browser import Chromium
from tests.harness.redis import RedisServer
from tests.harness.relay import Relay
from tests.harness.server import Server
from tests.live import until

pytestmark = pytest.mark.django_db(transaction=True)

GUIDE = Path(__file__).parents[2] / "cookbook" / "guide" / "presence.md"
# Seconds. A reload must be over within the grace, on a busy machine too.
GRACE, AWAY, LEASE = 1.0, 3.0, 5.0


def rows_of_the_guide():
    """Return what others are shown at once, after the grace and after the time away, by what happens."""
    table = GUIDE.read_text().partition("| what happens |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {what: states for what, *states in rows}


TELLS = {("here", "away"): "away", ("here", "gone"): "left", ("away", "gone"): "left", ("away", "here"): "back"}
# Seconds after which each column of the table has begun, and after which it is over.
TIMES = [(0, GRACE), (GRACE - 0.1, GRACE + AWAY - 0.1), (GRACE + AWAY - 0.1, 60)]


def told_by(before, states):
    """Return what is told of a user who is shown like this, and the columns of the table where it is told."""
    steps = enumerate(pairwise([before, *states]))
    return [(TELLS[pair], column) for column, pair in steps if pair[0] != pair[1]]


def leave(tab):
    """Close a page: by another one in its place, because a busy Chromium gives a window that closes half a second."""
    tab.goto("about:blank")


class Stage:
    """Two processes on one broker, of which one is to die."""

    def __init__(self, stack, chromium):
        self.chromium = chromium
        redis = stack.enter_context(RedisServer())
        broker = redis.settings["DS_BROADCASTER_BROKER"] | {"OPTIONS": {"lease": LEASE}}
        settings = redis.settings | {
            "ROOT_URLCONF": "tests.project.away_site",
            "DS_BROADCASTER_BROKER": broker,
            "DS_BROADCASTER_PRESENCE_GRACE": GRACE,
            "DS_BROADCASTER_PRESENCE_AWAY": AWAY,
        }
        self.stays, self.dies = [stack.enter_context(Server(settings=settings)) for _ in range(2)]
        self.ann, self.eve = self.stays.login("ann"), self.stays.login("eve")
        self.channels = {}

    def told(self, what):
        """Return what was told of the user in a row, in order, and when."""
        channel = self.channels[what]
        log = self.stays.log() + self.dies.log()
        found = re.findall(rf"^told {channel} (\w+) ([\d.]+)$", log, re.MULTILINE)
        return sorted([(float(at), verb) for verb, at in found])

    def wait_told(self, what, *verbs):
        until(lambda: [verb for _, verb in self.told(what)] == [*verbs], 15)

    def open(self, what, *, visitor=None, url="", browser=None):
        """Open a page on a channel of its own, and wait until its user has joined."""
        channel = self.channels[what] = f"row-{len(self.channels)}"
        tab = (browser or self.chromium).tab(visitor or self.ann)
        tab.goto(f"{url}/pages/{channel}/")
        self.wait_told(what, "joined")
        return tab


# What happens, in three steps that all rows take together: a page is open, it is hidden, and it happens.


def closes(stage, what):
    tab = stage.open(what)
    yield
    yield
    leave(tab)


def reloads(stage, what):
    tab = stage.open(what)
    yield
    yield
    tab.reload()


def hides(stage, what):
    tab = stage.open(what)
    yield
    yield
    tab.hide()


def hides_and_shows(stage, what):
    tab = stage.open(what)
    yield
    tab.hide()
    yield "away"
    tab.show()
    stage.wait_told(what, "joined", "away", "back")


def closes_while_hidden(stage, what):
    tab = stage.open(what)
    yield
    tab.hide()
    yield "away"
    leave(tab)


def kills_the_browser(stage, what):
    browser = Chromium()
    browser.bundle = stage.chromium.bundle
    try:
        stage.open(what, browser=browser)
        yield
        yield
    finally:
        browser.kill()


def pulls_the_cable(stage, what):
    """The relay ends the server's side, as the kernel does some seconds later: see test_dead_peers."""
    with Relay(stage.stays) as relay:
        stage.open(what, url=relay.url)
        yield
        yield
        relay.cut()
        relay.drop()
        yield


def kills_the_worker(stage, what):
    with Relay(stage.dies) as relay:
        stage.open(what, url=relay.url)
        yield
        yield
        relay.lead_to(stage.stays)
        stage.dies.kill()
        yield


def kills_the_worker_of_a_hidden_tab(stage, what):
    """The row before kills it."""
    tab = stage.open(what, url=stage.dies.url)
    yield
    tab.hide()
    yield "away"


def logs_out(stage, what):
    stage.open(what, visitor=stage.eve)
    yield
    yield
    stage.eve.get("/logout/")


HAPPENS = {
    "the page is closed": closes,
    "the page is reloaded": reloads,
    "the tab is hidden": hides,
    "the tab is hidden for a minute, and shown": hides_and_shows,
    "the page is closed while the tab is hidden": closes_while_hidden,
    "the browser is killed": kills_the_browser,
    "the cable is pulled": pulls_the_cable,
    "the worker is killed while the tab is open": kills_the_worker,
    "the worker is killed while the tab is hidden": kills_the_worker_of_a_hidden_tab,
    "the user logs out": logs_out,
}


def test_table_of_the_guide_is_true(chromium):
    """All rows at once: each has a channel of its own."""
    rows = rows_of_the_guide()
    assert rows.keys() == HAPPENS.keys()
    with ExitStack() as stack:
        stage = Stage(stack, chromium)
        happening = {what: happens(stage, what) for what, happens in HAPPENS.items()}
        for each in happening.values():
            stack.callback(each.close)
            next(each)
        before = {what: next(each) or "here" for what, each in happening.items()}
        earlier = {what: ["joined", "away"][: 2 if state == "away" else 1] for what, state in before.items()}
        for what, verbs in earlier.items():
            stage.wait_told(what, *verbs)
        began = {}
        for what, each in happening.items():
            began[what] = time.monotonic()
            next(each, None)
        expected = {what: told_by(before[what], states) for what, states in rows.items()}
        for what, steps in expected.items():
            stage.wait_told(what, *earlier[what], *[verb for verb, _ in steps])
        # Nothing more follows.
        time.sleep(max(0, max(began.values()) + GRACE + AWAY + 0.5 - time.monotonic()))
        for what, steps in expected.items():
            told = stage.told(what)[len(earlier[what]) :]
            assert [verb for _, verb in told] == [verb for verb, _ in steps], what
            for (at, _), (_, column) in zip(told, steps, strict=True):
                earliest, latest = TIMES[column]
                # What a dead process said of its users holds for the lease.
                assert "worker" in what or earliest < at - began[what] < latest, what


@pytest.fixture
def server(start_server):
    settings = {
        "ROOT_URLCONF": "tests.project.away_site",
        "DS_BROADCASTER_PRESENCE_GRACE": 0.3,
        "DS_BROADCASTER_PRESENCE_AWAY": 60,
    }
    return start_server(settings=settings)


@each_client
def test_page_that_closes_says_so(server, chromium, channel):
    ann = server.login("ann")
    tabs = [chromium.tab(ann), chromium.tab(ann)]
    for tab in tabs:
        tab.goto(f"/pages/{channel}/")
    until(lambda: [tabs for _, _, tabs, *_ in server.call("get_presence", channel)] == [2])
    for tab in tabs:
        tab.hide()
    server.wait_for_log(f"told {channel} away")
    tabs[0].show()
    server.wait_for_log(f"told {channel} back")
    for tab in tabs:
        leave(tab)
    server.wait_for_log(f"told {channel} left")
    assert not any(tab.errors for tab in tabs)
