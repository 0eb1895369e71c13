"""How requests for streams are answered: in turns, and in threads that are used again."""

import asyncio
import contextlib
import gc
import threading
import weakref
from contextvars import ContextVar

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings

from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link
from ds_broadcaster.streams import answering
from ds_broadcaster.streams.answering import PARALLEL, Threads, Turns
from tests.fakes import make_scope

viewer = ContextVar("viewer", default="nobody")


async def settle():
    """Let all tasks go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Result:
    """What a call returns."""


class Requests:
    """Requests that take turns: `begun` has the numbers of those whose turn came, and each ends when it is told to."""

    def __init__(self, count):
        self.turns, self.begun, self.all_begun = Turns(), [], asyncio.Event()
        self.ends = [asyncio.Event() for _ in range(count)]
        self.tasks = [asyncio.get_running_loop().create_task(self._run(number)) for number in range(count)]

    async def _run(self, number):
        turn = await self.turns.take()
        self.begun.append(number)
        if len(self.begun) == len(self.ends):
            self.all_begun.set()
        try:
            await self.ends[number].wait()
        finally:
            turn.end()
            turn.end()  # No turn of another.

    async def finish(self):
        for each in self.ends:
            each.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_requests_take_turns_in_the_order_in_which_they_came():
    async def run():
        requests = Requests(PARALLEL + 5)
        await settle()
        assert requests.begun == list(range(PARALLEL))
        requests.ends[3].set()
        requests.ends[7].set()
        await settle()
        assert requests.begun == list(range(PARALLEL + 2))
        await requests.finish()
        assert requests.begun == list(range(PARALLEL + 5))

    asyncio.run(run())


def test_request_that_takes_long_does_not_keep_the_others_waiting(monkeypatch):
    monkeypatch.setattr(answering, "PATIENCE", 0.01)

    async def run():
        requests = Requests(3 * PARALLEL)
        await requests.all_begun.wait()
        await requests.finish()
        # Those that end late give nothing back twice.
        requests = Requests(PARALLEL + 1)
        await settle()
        assert len(requests.begun) == PARALLEL
        await requests.finish()

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("is_told", [False, True], ids=["waiting", "told of its turn"])
def test_client_that_leaves_before_its_turn_passes_it_on(is_told):
    async def run():
        requests = Requests(PARALLEL + 2)
        await settle()
        if is_told:
            requests.ends[0].set()
            await asyncio.sleep(0)  # Its turn is given; its task has not run.
        requests.tasks[PARALLEL].cancel()
        requests.ends[0].set()
        await settle()
        assert requests.begun[PARALLEL:] == [PARALLEL + 1]
        await requests.finish()

    asyncio.run(run())


async def thread_of(threads, *, leave=None):
    """Return the thread in which a request's plain code runs; it leaves a call of `leave` running."""
    found = []

    async def answer():
        found.append(await sync_to_async(threading.current_thread)())
        viewer.set("ann")
        if leave is not None:
            task = asyncio.create_task(sync_to_async(leave)())
            await settle()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    await asyncio.create_task(threads.run(answer))
    return found[0]


def test_thread_of_a_request_is_used_for_the_next():
    async def run():
        threads = Threads()
        first = await thread_of(threads)
        assert await thread_of(threads) is first
        assert first is not threading.current_thread()
        assert viewer.get() == "nobody"

    asyncio.run(run())


def test_requests_at_the_same_time_have_threads_of_their_own():
    async def run():
        threads, barrier = Threads(), threading.Barrier(3, timeout=10)

        async def answer():
            await sync_to_async(barrier.wait)()

        await asyncio.gather(*(threads.run(answer) for _ in range(3)))

    asyncio.run(run())


def test_thread_is_not_used_again_while_a_request_has_left_something_running():
    release = threading.Event()

    async def run():
        threads = Threads()
        first = asyncio.create_task(thread_of(threads, leave=lambda: release.wait(10)))
        await settle()
        second = await thread_of(threads)
        release.set()
        assert await first is not second

    asyncio.run(run())


def test_request_that_calls_again_and_again_holds_no_call_that_has_ended():
    async def run():
        async def answer():
            for _ in range(9):
                found.append(await sync_to_async(Result)())
                found.append(weakref.ref(found.pop()))
            gc.collect()
            assert [each() for each in found[:-1]] == [None] * 8

        found = []
        await asyncio.create_task(Threads().run(answer))

    asyncio.run(run())


def test_no_thread_is_kept_where_its_database_connection_would_stay_open(monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "CONN_MAX_AGE", 60)

    async def run():
        threads = Threads()
        first = await thread_of(threads)
        assert not first.is_alive()

    asyncio.run(run())


def test_threads_end_that_no_request_has_needed_for_a_while(monkeypatch):
    monkeypatch.setattr(answering, "KEPT", 0.01)

    async def run():
        thread = await thread_of(Threads())
        await asyncio.to_thread(thread.join)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_streams_of_the_projects_own_hold_no_turn():
    """They last, and so does the request."""
    streaming, end = [], asyncio.Event()

    async def django(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        streaming.append(scope)
        await end.wait()

    async def send(message):
        pass

    async def run():
        application = HandoffApplication(django, find_link=lambda send: Link())
        scope = make_scope()
        scope["headers"].append((b"accept", b"text/event-stream"))
        many = PARALLEL + 3
        tasks = [asyncio.create_task(application(scope, None, send)) for _ in range(many)]
        await settle()
        assert len(streaming) == many
        end.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
