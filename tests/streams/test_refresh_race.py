"""Threads that commit and tell while clients read, return and stall: no page shows what was true before."""

import random
import re
import threading

import pytest

from tests.harness import MODES, Server
from tests.live import BARE, begun

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = BARE | {"ROOT_URLCONF": "tests.project.race_site", "DS_BROADCASTER_REFRESH_INTERVAL": 0.05}
PART = re.compile(r'<p id="(\w+)" title="(\w+)">(\d+) ')
# What a client does while it reads.
HABITS = ("reads", "returns", "stalls", "reads")


class Page:
    """What a client shows, over all of its streams."""

    def __init__(self, server, path, habit):
        self.server, self.path, self.habit = server, path, habit
        self.shown = {}
        self.count = 0
        self.faults = []
        self.client = None
        self.open()

    def open(self):
        last = self.client.last_event_id if self.client is not None else None
        self.client = self.server.connect(path=self.path, last_event_id=last, receive_buffer=4096)
        self.count = 0

    def look(self):
        events = self.client.events
        for event in events[self.count :]:
            for key, kind, value in PART.findall(event.elements or ""):
                if kind == "snapshot" and int(value) < self.shown.get(key, 0):
                    self.faults.append(f"{key}: a snapshot shows {value} over {self.shown[key]}")
                self.shown[key] = int(value)
        self.count = len(events)

    def live(self):
        """Do once what this client does."""
        self.look()
        if self.client.end or (self.habit == "returns" and random.random() < 0.3):
            self.client.close()
            self.look()
            self.open()
        elif self.habit == "stalls":
            random.choice((self.client.stall, self.client.resume))()


@pytest.fixture(scope="module", params=MODES)
def server(request, django_db_setup):
    with Server("uvicorn-httptools", request.param, settings=SETTINGS) as server:
        yield server


def test_each_page_shows_in_the_end_what_the_database_says(server, channel):
    paths = [f"/events/{kind}/{channel}/" for kind in ("race", "shared-race")]
    pages = [Page(server, path, habit) for path in paths for habit in HABITS]
    begun(*(page.client for page in pages))
    answer = {}

    def race():
        answer.update(server.get(f"/race/{channel}/?threads=4&count=100").json())

    racing = threading.Thread(target=race)
    racing.start()
    while racing.is_alive():
        for page in pages:
            page.live()
        racing.join(0.03)
    for page in pages:
        page.client.resume()
        page.look()
        if page.client.end:
            page.open()

    def is_right(page):
        page.look()
        return page.shown == answer

    for page in pages:
        page.client.wait_for(lambda page=page: is_right(page), 10, f"{answer} of {page.path} that {page.habit}")
        assert not page.faults
