"""The kept connections to one Redis server."""

import asyncio
import contextlib
import os
import threading
from functools import partial

import pytest
import redis

from ds_broadcaster.brokers.redis.connections import AT_ONCE, Connections
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


# On an event loop


async def aidentity(connections):
    return await connections.aexecute_command("CLIENT", "ID")


def test_loop_uses_one_connection_that_threads_get_back_when_the_loop_is_closed(connections):
    async def ask():
        return [await aidentity(connections) for _ in range(3)]

    first = identity(connections)
    assert asyncio.run(ask()) == [first] * 3
    assert identity(connections) == first


def test_loop_opens_its_connection_in_a_thread(connections, monkeypatch):
    threads = []
    open_one = connections._open
    monkeypatch.setattr(connections, "_open", lambda: threads.append(threading.current_thread()) or open_one())
    first, second = asyncio.run(both_of(connections))
    assert first == second
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def both_of(connections):
    return await aidentity(connections), await aidentity(connections)


def test_coroutines_that_ask_at_once_each_get_their_own_answer(connections):
    async def ask():
        return await asyncio.gather(*[connections.aexecute_command("ECHO", str(number)) for number in range(20)])

    connections._timeout = 10
    identity(connections)
    assert asyncio.run(ask()) == [str(number).encode() for number in range(20)]


def test_loop_gives_back_a_connection_that_it_does_not_use(connections):
    async def test():
        await both_of(connections)
        assert not connections._free
        await asyncio.to_thread(wait_until, lambda: connections._free, "a free connection")
        assert not connections._lent
        assert await aidentity(connections) == first

    first = identity(connections)
    connections._timeout = 0.1
    connections._free[0].connection.socket_timeout = None
    asyncio.run(asyncio.wait_for(test(), 10))


def test_loop_does_not_use_a_connection_that_the_server_has_ended(connections, server):
    async def test():
        first = await aidentity(connections)
        server.call("client", "kill", "id", first)
        await asyncio.to_thread(wait_until, lambda: not connections._lent, "the end of the connection")
        assert await aidentity(connections) != first

    identity(connections)
    asyncio.run(asyncio.wait_for(test(), 10))
    assert connections._count == 1


def test_loop_keeps_a_connection_whose_answer_was_an_error(connections):
    async def test():
        first = await aidentity(connections)
        with pytest.raises(redis.ResponseError):
            await connections.aexecute_command("HGET", "x")
        assert await aidentity(connections) == first

    identity(connections)
    asyncio.run(test())


def test_loop_drops_a_connection_whose_answer_nobody_waits_for(connections):
    async def test(timeout):
        first = await aidentity(connections)
        with pytest.raises((TimeoutError, redis.TimeoutError)):
            await asyncio.wait_for(connections.aexecute_command("BLPOP", "nothing", 5), timeout)
        assert not connections._lent
        assert await aidentity(connections) != first

    for socket_timeout, timeout in ((None, 0.05), (0.05, None)):  # It is cancelled, and the server does not answer.
        identity(connections)
        connections._free[0].connection.socket_timeout = socket_timeout
        asyncio.run(test(timeout))
        assert connections._count == 1


def test_answer_that_comes_while_the_loop_is_busy_is_not_too_late(connections):
    async def test():
        question = asyncio.ensure_future(connections.aexecute_command("ECHO", "here"))
        await asyncio.sleep(0)
        lent = connections._lent[asyncio.get_running_loop()]
        wait_until(lambda: lent.kept.is_stale(0), "the answer")
        lent._until = 0.0
        lent._look()  # Some loops look at their timers first.
        assert await question == b"here"

    identity(connections)
    asyncio.run(test())
    assert connections._count == 1


def test_what_a_loop_was_lent_is_closed_with_the_others(connections):
    async def test():
        await both_of(connections)
        connections.close()
        await asyncio.sleep(0)
        assert (connections._count, connections._lent) == (0, {})

    asyncio.run(test())


def test_coroutine_that_outlives_its_loop_frees_one_connection(connections):
    identity(connections)
    loop = asyncio.new_event_loop()
    question = loop.create_task(connections.aexecute_command("BLPOP", "nothing", 5))
    loop.run_until_complete(asyncio.sleep(0))
    assert connections._lent
    loop.close()
    identity(connections)
    assert connections._count == 1
    with contextlib.suppress(asyncio.CancelledError):
        question.get_coro().throw(asyncio.CancelledError())
    assert connections._count == 1
    question._log_destroy_pending = False


def test_long_command_does_not_block_the_loop(connections):
    async def test():
        assert await connections.aexecute_command("ECHO", "x" * AT_ONCE) == b"x" * AT_ONCE
        assert await aidentity(connections) in mine

    mine = [identity(connections)]
    asyncio.run(test())
