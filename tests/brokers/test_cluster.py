"""Several processes that share a broker: clients get everything once and in order, whatever happens in between."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from django.conf import settings

from tests.harness.postgres import PostgresServer
from tests.harness.redis import RedisServer
from tests.harness.server import ROOT, Server
from tests.live import begun, numbers, open_many, told_of_a_gap, until

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds: what a dead process said about who is there holds for so long.
LEASE = 3


class OverRedis:
    """What the tests do to Redis."""

    # Whether it proves after a restart that nothing is lost.
    is_sure = False

    def __init__(self):
        self.server = RedisServer(persistent=True)

    @contextlib.contextmanager
    def running(self):
        with self.server:
            yield self

    @property
    def settings(self):
        found = self.server.settings
        found["DS_BROADCASTER_BROKER"]["OPTIONS"] = {"lease": LEASE}
        return found

    def forget(self):
        self.server.call("flushall")


class OverPostgres:
    """What the tests do to PostgreSQL, which is the project's only database too."""

    is_sure = True

    def __init__(self):
        self.server = PostgresServer()

    @contextlib.contextmanager
    def running(self):
        apps = [*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
        with self.server:
            self.database = self.server.database().migrate(INSTALLED_APPS=apps)
            broker = {"BACKEND": "ds_broadcaster.brokers.postgres.PostgresBroker", "OPTIONS": {"lease": LEASE}}
            self.settings = self.database.settings | {"INSTALLED_APPS": apps, "DS_BROADCASTER_BROKER": broker}
            yield self

    def forget(self):
        tables = ("event", "floor", "state", "process", "holding")
        self.database.call("truncate " + ", ".join(f"ds_broadcaster_{name}" for name in tables))


@pytest.fixture(scope="module", params=[OverRedis, OverPostgres])
def broker(request):
    with request.param().running() as broker:
        yield broker


@contextlib.contextmanager
def two_workers(settings):
    """Two worker processes behind one port."""
    settings = {"ROOT_URLCONF": "tests.project.cluster_site", "DS_BROADCASTER_PRESENCE_GRACE": 0.2} | settings
    with Server(settings=settings, args=["--workers=2"]) as server:
        until(lambda: len({server.facts()["pid"] for _ in range(10)}) == 2, 20)
        yield server


@pytest.fixture(scope="module")
def workers(django_db_setup, broker):
    with two_workers(broker.settings) as server:
        yield server


@pytest.fixture
def people(workers, channel):
    """Some users who are there."""
    return [workers.login(f"user{number}") for number in range(6)]


def shown(client):
    """Return how many people the newest presence shows."""
    lists = [event for event in client.events if 'id="presence"' in event.data]
    return lists[-1].data.count("<li>") if lists else None


def shows(clients, count, timeout=5):
    for client in clients:
        client.wait_for(lambda client=client: shown(client) == count, timeout, f"{count} people")


def all_have(clients, count, timeout=15):
    for client in clients:
        client.wait_for(lambda client=client: count - 1 in numbers(client), timeout, f"item {count - 1}")
        assert numbers(client) == list(range(count))


@contextlib.contextmanager
def away(workers, broker, channel):
    """Stop the broker for the block, and return when all workers hear it again, as the next test expects."""
    broker.server.stop()
    try:
        yield
    finally:
        broker.server.start()
        witnesses = until(lambda: opened(workers, f"{channel}-again", 12), 10)
        workers.burst(f"{channel}-again", 1)
        all_have(witnesses, 1)
        for witness in witnesses:
            witness.close()


def opened(workers, channel, count):
    """Return this many streams, some of each worker's, or nothing where one of them is refused or cut at once."""
    clients = [workers.connect(channel) for _ in range(count)]
    begun(*clients)
    return clients if all(client.status == 200 and client.end is None for client in clients) else []


def test_clients_of_all_workers_get_everything_once_and_in_order(workers, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(20)]
    begun(*clients)
    for start in range(0, 200, 10):
        workers.burst(channel, 10, start=start)
    all_have(clients, 200)
    until(lambda: workers.call("get_users", channel) == [ann.user_id] * 20)
    assert channel in workers.call("get_channels")


def test_crowd_that_comes_at_once_is_let_in(workers, channel):
    crowd = open_many(200, lambda number: workers.connect(f"{channel}-{number}", wait=False), at_once=100)
    assert {client.status for client in crowd} == {200}
    for number, client in enumerate(crowd[::20]):
        workers.burst(f"{channel}-{20 * number}", 1)
        client.wait_for(lambda client=client: numbers(client) == [0], 10, "an event")


def test_command_reaches_the_streams_of_all_workers(workers, channel):
    ann, bob = workers.login("ann"), workers.login("bob")
    theirs = [ann.connect(channel) for _ in range(6)]
    others = [bob.connect(channel) for _ in range(6)]
    begun(*theirs, *others)
    workers.call("disconnect", channel, ann.user_id)
    assert {client.wait_end() for client in theirs} == {"clean"}
    workers.call("kill", channel)
    assert {client.wait_end() for client in others} == {"clean"}


def test_presence_is_that_of_all_workers(workers, people, channel):
    clients = [person.connect(channel, presence="html") for person in people]
    begun(*clients)
    shows(clients, 6)
    clients.pop().close()
    shows(clients, 5)


def test_users_join_and_leave_once_in_the_cluster(workers, channel):
    ann = workers.login("ann")
    for times in (1, 2):
        clients = [ann.connect(channel) for _ in range(8)]
        begun(*clients)
        until(lambda times=times: len(attendance(workers, channel)) >= 2 * times - 1)
        for client in clients:
            client.close()
        until(lambda: workers.call("get_users", channel) == [])
        until(lambda times=times: len(attendance(workers, channel)) >= 2 * times)
        assert attendance(workers, channel) == ["joined", "left"] * times


def test_new_broker_tells_of_a_join_at_once(broker, channel):
    """Not after a lease, of which the default is fifteen seconds."""
    with type(broker)().running() as new:
        options = {"DS_BROADCASTER_BROKER": new.settings["DS_BROADCASTER_BROKER"] | {"OPTIONS": {}}}
        with two_workers(new.settings | options) as workers:
            clients = [workers.login("ann").connect(channel) for _ in range(8)]
            begun(*clients)
            until(lambda: attendance(workers, channel) == ["joined"])


def test_broker_that_loses_its_memory_tells_nobody_of_joins_and_leaves_that_were_told(workers, broker, channel):
    ann, bob = workers.login("ann"), workers.login("bob")
    clients = [ann.connect(channel) for _ in range(8)]
    begun(*clients)
    until(lambda: attendance(workers, channel) == ["joined"])
    broker.forget()
    workers.burst("another", 1)
    for client in clients:  # To return, as they do within a lease.
        client.wait_end(10)
    people = (ann, bob)
    clients = [person.connect(channel) for person in people]

    def told():
        lines = (line.split() for line in workers.log().splitlines() if line.startswith("attendance"))
        return [(verb, user) for _, verb, name, user in lines if name == channel]

    def both_are_there():
        begun(*clients)
        for number, client in enumerate(clients):
            if client.end:  # Of a worker that only now hears of it.
                clients[number] = people[number].connect(channel)
        return len(told()) == 2

    until(both_are_there, 2 * LEASE + 5)
    for client in clients:
        client.close()
    until(lambda: len(told()) == 4, LEASE + 5)
    assert [verb for verb, _ in told()] == ["joined", "joined", "left", "left"]


def attendance(workers, channel):
    """Return what the signals of all processes told about a channel."""
    lines = (line.split() for line in workers.log().splitlines() if line.startswith("attendance"))
    return [verb for _, verb, name, _ in lines if name == channel]


def test_killed_worker_leaves_no_ghosts(workers, people, channel):
    clients = [person.connect(channel, presence="html") for person in people]
    begun(*clients)
    shows(clients, 6)
    pid = workers.facts()["pid"]
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    survivors = [client for client in clients if not ended(client)]
    shows(survivors, len(survivors), LEASE + 2)
    # Even where no client is left to show it to.
    until(lambda: len(workers.call("get_users", channel)) == len(survivors), LEASE + 2)
    assert time.monotonic() - begin < LEASE + 1.5


def ended(client):
    try:
        client.wait_end(0.5)
    except AssertionError:
        return False
    return True


def test_cut_connections_to_the_broker_lose_and_double_nothing(workers, broker, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(6)]
    begun(*clients)
    for start in range(0, 60, 10):
        workers.burst(channel, 10, start=start)
        broker.server.cut()
    all_have(clients, 60)


def test_broker_that_restarts_loses_nothing_or_has_every_client_start_anew(workers, broker, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(6)]
    begun(*clients)
    workers.burst(channel, 10)
    broker.server.stop()
    broker.server.start()
    workers.burst(channel, 10, start=10)
    if broker.is_sure:
        all_have(clients, 20)
    else:
        starts_anew(ann, clients, channel)


def test_command_is_obeyed_by_workers_that_did_not_hear_it(workers, broker, channel):
    ann, bob = workers.login("ann"), workers.login("bob")
    theirs = [ann.connect(channel) for _ in range(6)]
    others = [bob.connect(channel) for _ in range(6)]
    begun(*theirs, *others)
    broker.server.cut()
    workers.call("disconnect", channel, ann.user_id)
    assert {client.wait_end() for client in theirs} == {"clean"}
    workers.burst(channel, 1)
    all_have(others, 1)


def test_client_that_returns_to_another_worker_reads_on_where_it_was(workers, channel):
    ann = workers.login("ann")
    first = ann.connect(channel)
    begun(first)
    workers.burst(channel, 10)
    all_have([first], 10)
    last = [event.id for event in first.events][-1]
    first.close()
    workers.burst(channel, 10, start=10)
    for _ in range(6):
        again = ann.connect(channel, last_event_id=last)
        again.wait_for(lambda again=again: 19 in numbers(again), 5, "what was missed")
        assert numbers(again) == list(range(10, 20))


@pytest.mark.slow
def test_deploy_is_no_leave_and_leaves_no_ghosts(workers, broker, people, channel):
    watching = people[0].connect(channel, presence="html")
    with Server(settings=workers.settings) as leaving:
        visitor = leaving.login("ann")
        client = visitor.connect(channel)
        begun(watching, client)
        shows([watching], 2)
        leaving.sigterm()
    # Shown for as long as it takes to come back, and not counted.
    assert workers.call("get_users", channel) == [people[0].user_id]
    shows([watching], 1, 10)


def test_broker_that_forgot_everything_has_every_client_start_anew(workers, broker, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(6)]
    begun(*clients)
    workers.burst(channel, 10)
    all_have(clients, 10)
    broker.forget()
    workers.burst(channel, 10, start=10)
    starts_anew(ann, clients, channel)


def starts_anew(visitor, clients, channel):
    """Check that all these clients are sent away, to a gap, and that those who return miss nothing more."""
    for client in clients:
        client.wait_end(15)
    returned = visitor.connect(channel, last_event_id=clients[0].frames[-1].id, snapshot="now")
    begun(returned)
    assert told_of_a_gap(returned)
    visitor.server.burst(channel, 10, start=20)
    returned.wait_for(lambda: numbers(returned) == list(range(20, 30)), 5, "what comes next")


def test_nothing_can_be_sent_without_the_broker_and_that_is_said_in_time(workers, broker, channel):
    client = workers.login("ann").connect(channel)
    begun(client)
    with away(workers, broker, channel):
        begin = time.monotonic()
        with pytest.raises(Exception, match="BrokerUnavailable"):
            workers.call("signals", channel, {"a": 1})
        assert time.monotonic() - begin < 2.5
        assert client.end is None


def test_inspector_shows_which_process_holds_what(workers, channel):
    staff = workers.login("staff", staff=True)
    clients = [staff.connect(channel) for _ in range(12)]
    begun(*clients)

    def where():
        page = staff.get("/events/inspector/").text
        row = page.partition(f'value="{channel}"')[2].partition(f">{channel} ")[2].partition("</tr>")[0]
        found = re.findall(r"([\w.-]+:\d+) .(\d+)", row)
        return page, {process for process, _ in found}, sum(int(count) for _, count in found)

    # Each process tells the others a moment later.
    until(lambda: where()[2] == 12)
    page, holders, _ = where()
    with staff.connect(path="/events/inspector/stream/") as stream:
        stream.expect(f">{channel} ")
    processes = re.findall(r'<th scope="row">(\S+:\d+)</th>', page)
    assert holders <= set(processes)
    assert len(processes) == len(set(processes)) >= 2


def test_process_that_serves_nothing_sends_in_every_way(workers, channel):
    client = workers.login("ann").connect(channel)
    begun(client)
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_SETTINGS": json.dumps(workers.settings)}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-m", "tests.project.ways", channel]
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=30)
    client.expect("id=end")
    words = [event.data.partition("id=")[2].partition(">")[0] for event in client.events if "<p id=" in event.data]
    threads, forks = [f"thread-{number}" for number in range(4)], [f"fork-{number}" for number in range(2)]
    assert [words[0], *words[7:]] == ["plain", "after-forks", "loop-0", "loop-1", "end"]
    assert (sorted(words[1:5]), sorted(words[5:7])) == (threads, forks)


def test_new_streams_are_told_to_come_back_while_the_broker_is_away(workers, broker, channel):
    client = workers.login("ann").connect(channel)
    begun(client)
    with away(workers, broker, channel):
        for view in ("connect", "aconnect"):
            assert workers.connect(channel, view=view).status == 503
    if not broker.is_sure:
        client.wait_end(10)
        [client] = until(lambda: opened(workers, channel, 1))
    workers.burst(channel, 1)
    client.wait_for(lambda: numbers(client) == [0], 10, "the next event")
