"""An event loop of a test: it stands still while the test runs, and only the test moves its clock.

The loop has a thread of its own, as in a server. Everything that runs in threads there, such as plain views and hooks,
runs on the test's own thread instead, with its database connection, while the test waits for the loop.
"""

import asyncio
import logging
import queue
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, Generic, TypeVar
from unittest import mock

from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import AsyncToSync, SyncToAsync

T = TypeVar("T")

logger = logging.getLogger("ds_broadcaster")

# Seconds of real time after which what does not come to rest is given up.
PATIENCE = 30.0
# Seconds of real time that another server, which an async view asks, may take.
OTHERS_TAKE = 5.0


class TestThread(Executor):
    """Runs what the loop has for threads on the thread that waits for the loop.

    `wake` is called from that thread when something is done.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.unfinished = 0
        self.is_closed = False
        self._wake = wake
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Have the function called; after the end of the test, nothing is."""
        future: Future[T] = Future()

        def call() -> None:
            if self.is_closed or not future.set_running_or_notify_cancel():
                future.cancel()
                return
            try:
                with as_outermost():
                    result = function(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            self.unfinished += 1
        self._calls.put(call)
        return future

    def work_until(self, done: "Future[Any]") -> None:
        """Call what there is to call, on this thread, until a future is done.

        Raises queue.Empty when neither happens for PATIENCE.
        """
        done.add_done_callback(lambda _: self._calls.put(None))
        while (call := self._calls.get(timeout=PATIENCE)) is not None:
            try:
                call()
            finally:
                with self._lock:
                    self.unfinished -= 1
                self._wake()

    def has_calls(self) -> bool:
        """Tell whether calls wait for their turn."""
        return not self._calls.empty()

    def forget(self) -> None:
        """Call nothing of what waits."""
        with suppress(queue.Empty):
            while True:
                if self._calls.get_nowait() is not None:
                    self.unfinished -= 1


@contextmanager
def as_outermost() -> Iterator[None]:
    """Be in a thread without an event loop, as plain code of a server is, also within an async test.

    What async_to_sync() notes of the loop is gone afterwards: the test's own calls must not wait for it.
    """
    running = asyncio._get_running_loop()
    noted = vars(SyncToAsync.threadlocal)
    before = dict(noted)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)
        noted.clear()
        noted.update(before)


@contextmanager
def plain_code_at_home() -> Iterator[None]:
    """Run the plain code of an async test on its own thread, for the time of a block.

    asgiref has a thread for it, in which the ORM has another connection: it does not see what the test's transaction
    holds, and waits for its locks.
    """
    executor = _HomeExecutor(SyncToAsync.single_thread_executor)
    with mock.patch.object(SyncToAsync, "single_thread_executor", executor):
        yield


class _HomeExecutor(Executor):
    """Calls at once what its own thread submits, and leaves that of other threads to another executor."""

    def __init__(self, elsewhere: Executor) -> None:
        self._home = threading.get_ident()
        self._elsewhere = elsewhere

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        if threading.get_ident() != self._home:
            return self._elsewhere.submit(function, *args, **kwargs)
        future: Future[T] = Future()
        try:
            with as_outermost(), mock.patch.object(SyncToAsync, "threadlocal", _Unnoted()):
                future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Unnoted(threading.local):
    """What async_to_sync() would wait for is not noted here: the loop stands still until the plain code is done."""

    main_event_loop = property(lambda self: None, lambda self, loop: None)


class _Selector(selectors.DefaultSelector):
    """Tells the loop when nothing is ready: `on_idle` gets the seconds until the next timer, None without one."""

    on_idle: Callable[[float | None], list[tuple[selectors.SelectorKey, int]]]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return self.on_idle(timeout) if timeout is None or timeout > 0 else super().select(0)

    def wait(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for seconds of real time."""
        return super().select(timeout)


class StillLoop(asyncio.SelectorEventLoop):
    """Runs in rest(), until nothing is ready; `now` is its clock, in seconds. `home` is the thread that made it."""

    def __init__(self) -> None:
        self.home = threading.get_ident()
        self.now = 1000.0
        self._io = _Selector()
        self._io.on_idle = self._be_idle
        super().__init__(self._io)
        self.test_thread = TestThread(self._wake)
        self._until: Callable[[], float] = self.time
        self._awaited: Running[Any] | None = None
        self._is_lost = False

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        # Plain code that waits for the loop, such as sync middleware, has an executor that runs what is for its thread.
        waiting = getattr(AsyncToSync.executors, "current", None)
        for each in (executor, waiting):
            if isinstance(each, CurrentThreadExecutor):
                with suppress(RuntimeError):  # It waits no longer.
                    return super().run_in_executor(each, func, *args)
        return super().run_in_executor(self.test_thread, func, *args)

    def rest(self, until: Callable[[], float] | None = None, awaited: "Running[Any] | None" = None) -> None:
        """Run until nothing is left to do but to wait for a timer after `until()`, by default for any timer.

        The clock moves to the timers before. For what is `awaited`, a rest is also to wait for connections that a view
        has to other servers.
        """
        if self._is_lost:
            raise AssertionError("What did not come to rest before still runs.")
        self._until, self._awaited = until or self.time, awaited
        done: Future[None] = Future()

        def run() -> None:
            try:
                self.run_forever()
            finally:
                done.set_result(None)

        threading.Thread(target=run, name="ds_broadcaster-test-loop", daemon=True).start()
        try:
            self.test_thread.work_until(done)
        except queue.Empty:
            self.call_soon_threadsafe(self.stop)
            with suppress(TimeoutError):
                done.result(timeout=1)
            self._is_lost = not done.done()
            self.test_thread.forget()
            raise AssertionError(
                f"A view or a stream has not come to rest in {PATIENCE:g} s. Does it loop without a pause, or wait for "
                "a thread that does not end?"
            ) from None

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> "Running[T]":
        """Have a coroutine run with the loop."""
        running = Running(self, coroutine)
        self.call_soon_threadsafe(running.begin)
        return running

    def end(self) -> None:
        """Cancel what is left, and close."""
        self.test_thread.is_closed = True

        async def finish() -> None:
            mine = asyncio.current_task()
            tasks = [each for each in asyncio.all_tasks() if each is not mine]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.shutdown_asyncgens()

        self.begin(finish())
        try:
            self.rest()
            self.close()
        except AssertionError as error:
            logger.error("%s It is left behind.", error)

    def _wake(self) -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(lambda: None)

    def _be_idle(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        is_busy = self.test_thread.unfinished > 0  # Looked at first: what is done later has woken the loop.
        is_awaited = self._awaited is not None and not self._awaited.outcome.done()
        # The first connection is how threads wake the loop.
        asks_others = is_awaited and len(self._io.get_map()) > 1
        found = self._io.wait(PATIENCE if is_busy else OTHERS_TAKE if asks_others else 0)
        if not found and is_busy and self.test_thread.has_calls():
            # The thread waits for the loop, and the loop for the thread.
            for task in asyncio.all_tasks(self):
                task.cancel("The test's thread and its loop wait for each other.")
        elif not found and not is_busy:
            if timeout is not None and self.now + timeout <= self._until():
                self.now += timeout
            else:
                self.stop()
        return found


class Running(Generic[T]):
    """A coroutine on the loop, in an empty context as a request of a server. Any thread may look at its `outcome`."""

    def __init__(self, loop: StillLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.outcome: Future[T] = Future()
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin; called on the loop."""
        self._task = self._loop.create_task(self._run(), context=Context())

    def cancel(self) -> None:
        """Cancel it, when the loop runs next."""
        self._loop.call_soon_threadsafe(lambda: self._task is not None and self._task.cancel())

    async def _run(self) -> None:
        try:
            self.outcome.set_result(await self._coroutine)
        except BaseException as error:
            self.outcome.set_exception(error)
