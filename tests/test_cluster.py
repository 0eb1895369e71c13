"""Several processes that share Redis: every client gets everything once and in order, whatever happens in between."""

import os
import signal
import time

import pytest

from tests.harness.redis import RedisServer
from tests.harness.server import Server
from tests.live import SITE, begun, numbers, told_of_a_gap

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds: what a dead process said about who is there holds for so long.
LEASE = 15


@pytest.fixture
def broker():
    with RedisServer(persistent=True) as server:
        yield server


@pytest.fixture
def workers(django_db_setup, broker):
    """Two worker processes behind one port."""
    settings = {"ROOT_URLCONF": SITE, "DS_BROADCASTER_PRESENCE_GRACE": 0.2} | broker.settings
    with Server(settings=settings, args=["--workers=2"]) as server:
        yield server


def shown(client):
    """Return how many people the newest presence shows."""
    lists = [event for event in client.events if 'id="presence"' in event.data]
    return lists[-1].data.count("<li>") if lists else None


def all_have(clients, count, timeout=15):
    for client in clients:
        client.wait_for(lambda client=client: count - 1 in numbers(client), timeout, f"item {count - 1}")
        assert numbers(client) == list(range(count))


def test_clients_of_all_workers_get_everything_once_and_in_order(workers):
    ann = workers.login("ann")
    clients = [ann.connect("room") for _ in range(20)]
    begun(*clients)
    assert len({workers.facts()["pid"] for _ in range(30)}) == 2
    for start in range(0, 200, 10):
        workers.burst("room", 10, start=start)
    all_have(clients, 200)
    assert workers.call("get_users", "room") == [ann.user_id] * 20
    assert workers.call("get_channels") == ["room"]


def test_command_reaches_the_streams_of_all_workers(workers):
    ann, bob = workers.login("ann"), workers.login("bob")
    theirs = [ann.connect("room") for _ in range(6)]
    others = [bob.connect("room") for _ in range(6)]
    begun(*theirs, *others)
    workers.call("disconnect", "room", ann.user_id)
    assert {client.wait_end() for client in theirs} == {"clean"}
    workers.call("kill", "room")
    assert {client.wait_end() for client in others} == {"clean"}


def test_presence_is_that_of_all_workers_and_of_no_dead_one(workers):
    people = [workers.login(f"user{number}") for number in range(8)]
    clients = [person.connect("room", presence="html") for person in people]
    begun(*clients)
    for client in clients:
        client.wait_for(lambda client=client: shown(client) == 8, 5, "everybody")
    clients.pop().close()
    for client in clients:
        client.wait_for(lambda client=client: shown(client) == 7, 5, "one less")
    os.kill(workers.pids()[-1], signal.SIGKILL)
    begin = time.monotonic()
    survivors = []
    for client in clients:
        try:
            client.wait_end(0.5)
        except AssertionError:
            survivors.append(client)
    assert 0 < len(survivors) < len(clients)
    for client in survivors:
        client.wait_for(lambda client=client: shown(client) == len(survivors), LEASE + 5, "no ghosts")
    assert time.monotonic() - begin < LEASE + 1


def test_cut_connections_to_the_broker_lose_and_double_nothing(workers, broker):
    clients = [workers.login("ann").connect("room") for _ in range(6)]
    begun(*clients)
    for start in range(0, 60, 10):
        workers.burst("room", 10, start=start)
        broker.cut()
    all_have(clients, 60)


def test_broker_that_restarts_with_its_memory_loses_nothing(workers, broker):
    clients = [workers.login("ann").connect("room") for _ in range(6)]
    begun(*clients)
    workers.burst("room", 10)
    broker.stop()
    broker.start()
    workers.burst("room", 10, start=10)
    all_have(clients, 20)


def test_broker_that_forgot_everything_has_every_client_start_anew(workers, broker):
    clients = [workers.login("ann").connect("room") for _ in range(6)]
    begun(*clients)
    workers.burst("room", 10)
    all_have(clients, 10)
    broker.call("flushall")
    workers.burst("room", 10, start=10)
    for client in clients:
        client.wait_end(15)
    returned = workers.login("ann").connect("room", last_event_id=clients[0].frames[-1].id, snapshot="now")
    begun(returned)
    assert told_of_a_gap(returned)


def test_client_that_returns_to_another_worker_reads_on_where_it_was(workers):
    ann = workers.login("ann")
    first = ann.connect("room")
    begun(first)
    workers.burst("room", 10)
    all_have([first], 10)
    last = [event.id for event in first.events][-1]
    first.close()
    workers.burst("room", 10, start=10)
    for _ in range(6):
        again = ann.connect("room", last_event_id=last)
        again.wait_for(lambda again=again: 19 in numbers(again), 5, "what was missed")
        assert numbers(again) == list(range(10, 20))


def test_publishing_without_a_broker_fails_in_time(workers, broker):
    broker.stop()
    begin = time.monotonic()
    with pytest.raises(Exception, match="BrokerUnavailable"):
        workers.call("signals", "room", {"a": 1})
    assert time.monotonic() - begin < 2.5
