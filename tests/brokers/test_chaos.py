"""Everything at once: workers that are killed, a broker that restarts and loses its connections, tabs that come and go.

`make chaos` runs it at length: 200 tabs and 20,000 events over each broker.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.brokers.test_cluster import OverPostgres, OverRedis
from tests.harness.programs import wait_until
from tests.harness.server import ROOT, Server
from tests.live import begun, numbers, told_of_a_gap, until
from tests.project.publisher import CHANNELS

FULL = bool(os.environ.get("FULL_CHAOS"))
TABS, EVENTS, RATE = (200, 20_000, 250) if FULL else (60, 1500, 150)
# A second's worth: some of those who were hidden come too late.
HISTORY = RATE // CHANNELS

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


class Publisher:
    """The separate process that sends, and what it says about each number."""

    def __init__(self, channel, settings):
        env = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_SETTINGS": json.dumps(settings)}
        command = [sys.executable, "-m", "tests.project.publisher", channel, str(EVENTS), str(RATE)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        self.said = {"sent": [], "unsure": []}
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self):
        for line in self.process.stdout:
            word, number = line.split()
            self.said[word].append(int(number))

    @property
    def progress(self):
        """The share of the events that are out."""
        return sum(map(len, self.said.values())) / EVENTS

    def comes_to(self, share):
        wait_until(lambda: self.progress >= share, f"{share:.0%} of the events", 180)

    def close(self):
        self.process.kill()
        self._reading.join()
        self.process.stdout.close()
        self.process.wait()


class Tab:
    """A page of two channels that comes back whenever its stream ends, as Datastar's client does."""

    def __init__(self, visitor, channels):
        self.visitor, self.channels = visitor, channels
        self.got = []
        # From which number on it should have everything, for each of its channels; None while that is not known.
        self.begins = {int(name.rpartition("-")[2]): 0 for name in channels}
        self.gaps = 0
        self.returns = 0
        self._last_id = None
        self._due = 0.0
        self.stream = self._connect()

    def _connect(self):
        with contextlib.suppress(OSError):
            return self.visitor.connect(
                *self.channels, last_event_id=self._last_id, snapshot="the state", wait=False, view="connect"
            )
        return None

    def look(self):
        """Take in a stream that has ended, and open the next one when it is time."""
        if self.stream is not None and self.stream.end is not None:
            self._take_in()
            self._due = time.monotonic() + random.uniform(0.1, 0.4)
        if self.stream is None and time.monotonic() > self._due:
            self.returns += 1
            self.stream = self._connect()

    def hide(self):
        """Close the stream, and come back a moment later."""
        if self.stream is not None:
            self.stream.close()
            self._take_in()
            self._due = time.monotonic() + random.uniform(0.05, 1.5)

    def _take_in(self):
        stream, self.stream = self.stream, None
        if stream.status == 200:
            if told_of_a_gap(stream):
                self.gaps += 1
                # What was before on these channels is in the snapshot.
                snapshots = [event.data for event in stream.events if "the state" in event.data]
                for part in {part for part in self.begins if any(f'-{part}"' in each for each in snapshots)}:
                    self.begins[part] = None
                    self.got = [number for number in self.got if number % CHANNELS != part]
            for number in numbers(stream):
                self.got.append(number)
                if self.begins[number % CHANNELS] is None:
                    self.begins[number % CHANNELS] = number
            self._last_id = stream.last_event_id or self._last_id

    def is_back(self):
        stream = self.stream
        return stream is not None and stream.end is None and bool(stream.frames)

    def has(self, number):
        stream = self.stream
        return number in self.got or (stream is not None and number in numbers(stream))

    def close(self):
        if self.stream is not None:
            self.stream.close()
            self._take_in()


class Crowd:
    """All tabs, looked after by a thread that hides and shows some of them all the time."""

    def __init__(self, workers, channel):
        visitor = workers.login("ann")
        self.tabs = []
        for number in range(TABS):
            pair = [f"{channel}-{number % CHANNELS}", f"{channel}-{(number * 7 + 3) % CHANNELS}"]
            self.tabs.append(Tab(visitor, list(dict.fromkeys(pair))))
        begun(*(tab.stream for tab in self.tabs), timeout=30)
        self.restless = True
        self._done = threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._look_after)
        self._thread.start()

    def _look_after(self):
        dice = random.Random(4)
        try:
            while not self._done.wait(0.02):
                for tab in self.tabs:
                    # Each of them about once in ten seconds.
                    if self.restless and dice.random() < 0.002:
                        tab.hide()
                    tab.look()
        except BaseException as error:
            self._error = error

    def close(self):
        self._done.set()
        self._thread.join()
        for tab in self.tabs:
            tab.close()
        if self._error is not None:
            raise self._error


@pytest.fixture(scope="module", params=[OverRedis, OverPostgres])
def broker(request):
    with request.param().running() as broker:
        yield broker


@pytest.fixture
def workers(django_db_setup, broker):
    # All tabs are one user's.
    limits = {"DS_BROADCASTER_HISTORY": {"max_events": HISTORY}, "DS_BROADCASTER_MAX_CONNECTIONS_PER_USER": None}
    with Server(settings=broker.settings | limits, args=["--workers=2"]) as server:
        until(lambda: len(pids(server)) == 2, 20)
        yield server


def pids(server):
    return {server.facts()["pid"] for _ in range(10)}


def kill_a_worker(server):
    os.kill(server.facts()["pid"], signal.SIGKILL)


def test_every_tab_ends_with_what_it_should_have(workers, broker, channel):
    crowd = Crowd(workers, channel)
    publisher = Publisher(channel, workers.settings)
    try:
        for share, trouble in [
            (0.1, lambda: kill_a_worker(workers)),
            (0.25, broker.server.cut),
            (0.4, lambda: (broker.server.stop(), broker.server.start())),
            (0.55, broker.server.cut),
            (0.7, lambda: kill_a_worker(workers)),
            (0.8, lambda: (broker.server.freeze(), time.sleep(1), broker.server.thaw())),
        ]:
            publisher.comes_to(share)
            trouble()
        publisher.comes_to(1)
        crowd.restless = False
        for tab in crowd.tabs:
            wait_until(tab.is_back, "a tab to be back", 30)
        for number in range(EVENTS, EVENTS + CHANNELS):
            workers.burst(f"{channel}-{number % CHANNELS}", 1, start=number)
            publisher.said["sent"].append(number)
        for tab in crowd.tabs:
            for name in tab.channels:
                newest = EVENTS + int(name.rpartition("-")[2])
                wait_until(lambda tab=tab, newest=newest: tab.has(newest), f"{newest} to come to a tab", 30)
    finally:
        publisher.close()
        crowd.close()
    sent, unsure = set(publisher.said["sent"]), set(publisher.said["unsure"])
    assert len(sent) > 0.75 * EVENTS  # After a call that waited in vain, those of the next second fail at once.
    for tab in crowd.tabs:
        assert tab.got == sorted(set(tab.got)), "in order, and nothing twice"
        # After its last gap, a tab has everything that was sent, and nothing else.
        own = {number for number in sent | unsure if number % CHANNELS in tab.begins}
        due = {number for number in own & sent if number >= tab.begins[number % CHANNELS]}
        maybe = own & unsure
        assert due <= set(tab.got) <= due | maybe
    gaps = sum(tab.gaps for tab in crowd.tabs)
    returns = sum(tab.returns for tab in crowd.tabs)
    print(f"{TABS} tabs returned {returns} times, {gaps} times to a gap; {len(unsure)} events were unsure.")
    # Some come too late for a second's worth of history, more of them where the machine is busy, and never all.
    assert 0 < gaps < returns
