"""Threads of our own, for presence callbacks and the receivers of our signals.

They belong to no request. Database connections that the project's code opens there are closed after each call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import connections
from django.dispatch import Signal

from ..ids import RESERVED

logger = logging.getLogger("ds_broadcaster")

# A slow presence callback delays its own channel; more of them than this delay other channels too.
RENDER_THREADS = 3

Result = TypeVar("Result")


def call_soon(loop: asyncio.AbstractEventLoop, *call: Any) -> None:
    """Call a function on a loop, from any thread; a closed loop has nothing more to do."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(*call)


def close_connections() -> None:
    """Close the database connections that the project's code opened in this thread."""
    connections.close_all()


class Threads:
    """Two small pools: `renderers`, and one thread, `ordered`, that sends signals in their order.

    `sender` is that of the signals. `release` is called in the thread after each call.
    """

    def __init__(
        self,
        sender: type,
        *,
        renderers: Executor | None = None,
        ordered: Executor | None = None,
        release: Callable[[], None] = close_connections,
    ) -> None:
        self._signal_sender = sender
        self._renderers = renderers or ThreadPoolExecutor(RENDER_THREADS, "ds_broadcaster-presence")
        self._ordered = ordered or ThreadPoolExecutor(1, "ds_broadcaster-signals")
        self._release = release

    def render(self, function: Callable[..., Result], *args: Any) -> "Future[Result]":
        """Run the function in a thread."""
        return self._renderers.submit(self._run, function, *args)

    def send(self, signal: Signal, channel: str, user_id: Any) -> None:
        """Send a signal after those sent before it, unless the channel is the inspector's; log what receivers raise."""
        if not channel.startswith(RESERVED) and signal.has_listeners(self._signal_sender):
            named = {"sender": self._signal_sender, "channel": channel, "user_id": user_id}
            self._ordered.submit(self._run, _send, signal, named)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call the function after the signals sent before; log what it raises."""
        self._ordered.submit(self._run, _call, function, args)

    def close(self) -> None:
        """Render nothing more. Signals about the last streams to close are still sent."""
        self._renderers.shutdown(wait=False, cancel_futures=True)

    def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        try:
            return function(*args)
        finally:
            self._release()


def _send(signal: Signal, named: dict[str, Any]) -> None:
    for receiver, result in signal.send_robust(**named):
        if isinstance(result, Exception):
            logger.error("%r failed on a signal about channel %r.", receiver, named["channel"], exc_info=result)


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%r failed on channel %r.", function, args[0])
