"""The kept connections to one Redis server."""

import os
import threading
from functools import partial

import pytest
import redis

from ds_broadcaster.brokers.redis.connections import Connections
from ds_broadcaster.exceptions import BrokerUnavailable
from tests.harness.programs import wait_until
from tests.harness.redis import RedisServer

pytestmark = pytest.mark.brokers


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def connections(server):
    pool = redis.ConnectionPool.from_url(server.url)
    connections = Connections(partial(pool.connection_class, **pool.connection_kwargs), 2, 0.2)
    yield connections
    connections.close()


def identity(connections):
    return connections.execute_command("CLIENT", "ID")


def test_connection_is_kept_and_one_that_the_server_has_ended_is_not_used(connections, server):
    first = identity(connections)
    assert identity(connections) == first
    server.call("client", "kill", "id", first)
    assert identity(connections) != first


def test_answer_that_is_an_error_leaves_the_connection_as_it_was(connections):
    first = identity(connections)
    with pytest.raises(redis.ResponseError):
        connections.execute_command("HGET", "x")
    assert identity(connections) == first


def test_no_command_is_sent_twice(connections, server):
    """The server ends the connection while the command is on its way."""
    first = identity(connections)
    thread = threading.Timer(0.1, lambda: server.call("client", "kill", "id", first))
    thread.start()
    with pytest.raises(redis.ConnectionError):
        connections.execute_command("BLPOP", "nothing", 5)
    thread.join()
    assert identity(connections) != first


def test_one_who_finds_all_in_use_gets_the_next_free_one_or_gives_up_in_time(connections, server):
    threads = [threading.Thread(target=connections.execute_command, args=("BLPOP", "key", 10)) for _ in range(2)]
    for each in threads:
        each.start()
    wait_until(lambda: connections._count == 2 and not connections._free, "both connections in use")
    with pytest.raises(BrokerUnavailable, match="all 2 connections are in use"):
        identity(connections)
    connections._timeout = 10
    found = []
    waiting = threading.Thread(target=lambda: found.append(identity(connections)))
    waiting.start()
    wait_until(lambda: connections._waiting, "one who waits")
    server.call("rpush", "key", "1", "2")
    for each in (waiting, *threads):
        each.join(10)
    assert len(found) == 1
    assert connections._count == 2


def test_child_of_a_fork_opens_its_own(connections):
    first = identity(connections)
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writes, str(identity(connections)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reads, 100)) != first
    assert identity(connections) == first
    os.close(reads)
    os.close(writes)
