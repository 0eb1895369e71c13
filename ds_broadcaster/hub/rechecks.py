"""Re-checks: when a stream that was granted once is asked about again.

What is asked, and how, is not known here: see streams/replayed_requests.py.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from .connections import Connection

# How many are asked about at a time: each takes a thread of Django's, and the pages of the site come first.
PARALLEL = 4
# The interval is shortened by up to this share, so that streams which opened together are not asked about together.
JITTER = 0.2
# Seconds. A view with an interval of 0 must not keep a processor busy.
SHORTEST = 0.1
# Seconds. The reason for a re-check may still be on its way: Django tells of a logout before it ends the session.
SECOND_LOOK = 1.0


class Rechecks:
    """A timer for each connection, and a queue of those that are due.

    `still_allowed` asks about one connection, `end` ends a refused one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        still_allowed: Callable[[Connection], Awaitable[bool]],
        end: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._still_allowed = still_allowed
        self._end = end
        self._due: dict[Connection, None] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._intervals: dict[Connection, float] = {}
        self._of_user: dict[Any, list[Connection]] = {}
        self._is_stopped = False
        # Run timers in an empty context: the caller's would keep its request alive and leak its language into the
        # re-check.
        self._context = Context()
        # Bound once: every connection's timer would keep a bound method of its own.
        self._on_timer = self._turn

    def watch(self, connection: Connection, interval: float | None) -> None:
        """Ask about a connection every `interval` seconds (None: as the settings say)."""
        if interval is not None:
            self._intervals[connection] = max(interval, SHORTEST)
        if connection.user_id is not None:
            self._of_user.setdefault(connection.user_id, []).append(connection)
        self._wait(connection)

    def connections_of(self, user_id: Any) -> list[Connection]:
        """Return a user's connections. A job that saves every user must not look at every stream for each."""
        return list(self._of_user.get(user_id, ()))

    def forget(self, connection: Connection) -> None:
        """Stop asking about a closed connection."""
        if connection.recheck is not None:
            connection.recheck.cancel()
            connection.recheck = None
        self._due.pop(connection, None)
        self._intervals.pop(connection, None)
        theirs = self._of_user.get(connection.user_id, [])
        if connection in theirs:
            theirs.remove(connection)
            if not theirs:
                del self._of_user[connection.user_id]

    def ask(self, connection: Connection) -> None:
        """Ask about a connection now, and if it may stay, once more a moment later."""
        if not connection.is_open:  # Closed by the command before this one.
            return
        self._later(connection, SECOND_LOOK)
        self._queue(connection)

    def stop(self) -> None:
        """Ask about nothing more: every stream ends."""
        self._is_stopped = True

    def is_idle(self) -> bool:
        """Tell whether no connection is watched, due or asked about."""
        return not (self._due or self._asking or self._intervals or self._of_user)

    def _later(self, connection: Connection, seconds: float) -> None:
        if connection.recheck is not None:
            connection.recheck.cancel()
        connection.recheck = self._loop.call_later(seconds, self._on_timer, connection, context=self._context)

    def _wait(self, connection: Connection) -> None:
        seconds = self._intervals.get(connection, self._interval)
        self._later(connection, seconds * random.uniform(1 - JITTER, 1))

    def _turn(self, connection: Connection) -> None:
        self._wait(connection)
        self._queue(connection)

    def _queue(self, connection: Connection) -> None:
        self._due[connection] = None
        if len(self._asking) < PARALLEL:
            self._asking.add(self._loop.create_task(self._work(), context=Context()))

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._due and not self._is_stopped:
                connection = next(iter(self._due))
                del self._due[connection]
                if not await self._still_allowed(connection) and connection.is_open:
                    self._end(connection)
        finally:
            self._asking.discard(task)  # Not in a callback: connections that are due until that runs would wait.
