"""One event loop in a thread of its own, for everything that the tests wait on.

Raw streams and the browser live here, so the tests themselves stay plain functions: they may use the ORM
(which refuses to work in a thread with a running loop), and a thousand streams cost one thread.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any


class LoopThread:
    """An event loop that runs until the process ends."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self.loop.run_forever, name="harness-loop", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float = 30) -> Any:
        """Run a coroutine on the loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a plain function on the loop and return its result."""
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        return future.result(30)


@cache
def loop_thread() -> LoopThread:
    """Return the one loop of this process."""
    return LoopThread()
