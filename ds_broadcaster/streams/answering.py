"""How requests for streams are answered: a few at a time, in threads that are used again.

When a server has restarted, a thousand pages return at once. Django would begin to answer all of them, each in a thread
of its own, and what goes on beside, events and pages, would have its share among a thousand threads. So requests take
turns, and one that takes long gives up its turn, not its thread.

Django gives each request a thread of its own, and another to wait for its end: the two cost a third of a request. Here
the thread of one request is kept a moment for the next, as those of WSGI servers are. What a request has in context
variables goes with it, and its database connections are closed when it is answered.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.conf import settings

T = TypeVar("T")

# How many requests have a turn at a time on a loop, and how many threads are kept there.
PARALLEL = 16
# Seconds after which a request no longer keeps the next from its turn.
PATIENCE = 0.1
# Seconds for which threads are kept that no request has needed.
KEPT = 1.0

# Where asgiref looks for the thread of a context.
_threads_of_contexts: Any = getattr(SyncToAsync, "context_to_thread_executor", None)


class Turn:
    """One request's turn."""

    __slots__ = ("_turns",)

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns

    def end(self) -> None:
        """Let the next request have its turn. Once it has ended, nothing happens."""
        self._turns.end(self)


class Turns:
    """The requests of a loop: those that have a turn, since when, and those that wait for one."""

    def __init__(self) -> None:
        self._running: dict[Turn, float] = {}
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> Turn:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        if len(self._running) < PARALLEL:
            return self._begin(loop)
        waiter: asyncio.Future[Turn] = loop.create_future()
        self._waiting.append(waiter)
        self._watch(loop)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                waiter.result().end()
            raise

    def end(self, turn: Turn) -> None:
        """See Turn.end()."""
        if self._running.pop(turn, None) is not None:
            self._pass_on(asyncio.get_running_loop())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Turn:
        turn = Turn(self)
        self._running[turn] = loop.time()
        return turn

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting and len(self._running) < PARALLEL:
            waiter = self._waiting.popleft()
            if not waiter.done():  # Otherwise it was cancelled.
                waiter.set_result(self._begin(loop))

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when the oldest turn has taken long, while there are requests that wait."""
        if self._timer is None and self._waiting:
            oldest = next(iter(self._running.values()))
            self._timer = loop.call_at(oldest + PATIENCE, self._end_overdue, loop, context=Context())

    def _end_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for turn, since in list(self._running.items()):
            if now - since < PATIENCE:
                break
            del self._running[turn]
        self._pass_on(loop)
        self._watch(loop)


class _Thread(ThreadPoolExecutor):
    """One thread, and the calls of the request that has it which have not ended."""

    def __init__(self) -> None:
        super().__init__(1, "ds_broadcaster-request")
        self.calls: set[Future[Any]] = set()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        call = super().submit(function, *args, **kwargs)
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return call


class Threads:
    """The threads of a loop that no request has now."""

    def __init__(self) -> None:
        self._free: list[_Thread] = []
        self._given_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, answer: Callable[[], Awaitable[None]]) -> None:
        """Let a request be answered, with a thread for its plain code."""
        async with ThreadSensitiveContext() as context:
            # Without a token the context of a caller is used, as in tests.
            if context.token is None or _threads_of_contexts is None or _keeps_connections():
                await answer()
                return
            thread = _threads_of_contexts[context] = self._free.pop() if self._free else _Thread()
            try:
                await answer()
            finally:
                # Otherwise the context ends it, and waits for what the request left running.
                if not thread.calls:
                    _threads_of_contexts.pop(context, None)
                    self._give(thread)

    def _give(self, thread: _Thread) -> None:
        if len(self._free) >= PARALLEL:
            thread.shutdown(wait=False)
            return
        loop = asyncio.get_running_loop()
        self._free.append(thread)
        self._given_at = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(KEPT, self._drop, loop, context=Context())

    def _drop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if loop.time() < self._given_at + KEPT:
            self._timer = loop.call_at(self._given_at + KEPT, self._drop, loop, context=Context())
            return
        for thread in self._free:
            thread.shutdown(wait=False)
        self._free.clear()


class Answering:
    """The turns and the threads of each loop."""

    def __init__(self) -> None:
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Turns, Threads]] = WeakKeyDictionary()

    def here(self) -> tuple[Turns, Threads]:
        """Return those of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is None:
            found = self._of_loops[loop] = Turns(), Threads()
        return found


def _keeps_connections() -> bool:
    """Tell whether a database connection outlives its request: it would stay open in a thread that is kept."""
    return any(database.get("CONN_MAX_AGE", 0) != 0 for database in settings.DATABASES.values())
