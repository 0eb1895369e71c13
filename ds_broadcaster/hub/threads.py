"""Threads of ds_broadcaster's own: for presence callbacks and the receivers of its signals.

They belong to no request. What the project's code opens there is closed behind it: no idle thread keeps a
database connection.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import connections
from django.dispatch import Signal

logger = logging.getLogger("ds_broadcaster")

# A slow presence callback holds up its own channel; with more threads than this, the channels of others too.
RENDER_THREADS = 3

Result = TypeVar("Result")


class Threads:
    """Two small pools: one that renders, and one thread that sends signals in their order."""

    def __init__(self) -> None:
        self._renderers = ThreadPoolExecutor(RENDER_THREADS, "ds_broadcaster-presence")
        self._sender = ThreadPoolExecutor(1, "ds_broadcaster-signals")

    def render(self, function: Callable[..., Result], *args: Any) -> "Future[Result]":
        """Run the function in a thread."""
        return self._renderers.submit(_closing_connections, function, *args)

    def send(self, signal: Signal, **named: Any) -> None:
        """Send a signal behind those sent before it; what its receivers raise is logged."""
        if signal.has_listeners(named["sender"]):
            self._sender.submit(_closing_connections, _send, signal, named)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call the function behind the signals sent before; what it raises is logged."""
        self._sender.submit(_closing_connections, _call, function, args)

    def close(self) -> None:
        """Render nothing more. Signals about the last streams to close are still sent."""
        self._renderers.shutdown(wait=False, cancel_futures=True)


def _send(signal: Signal, named: dict[str, Any]) -> None:
    for receiver, result in signal.send_robust(**named):
        if isinstance(result, Exception):
            logger.error("%r failed on a signal about channel %r.", receiver, named["channel"], exc_info=result)


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%r failed on channel %r.", function, args[0])


def _closing_connections(function: Callable[..., Result], *args: Any) -> Result:
    try:
        return function(*args)
    finally:
        connections.close_all()
