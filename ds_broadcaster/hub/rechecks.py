"""Re-checks: whether a stream that was granted once would be granted now.

The only way to know, whatever the project's authentication is made of, is to ask: the request that opened the stream
runs through Django once more, middleware and all, and its view decides again. Nobody sees the answer.
"""

import asyncio
import contextlib
import logging
import random
import sys
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.utils import InterfaceError, OperationalError

from .connections import Connection, Message, Origin
from .grant import HANDOFF_HEADER, RECHECK_KEY, SCOPE_KEY, StreamGrant

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("ds_broadcaster")

# How many are asked at a time: each takes a thread of Django's, and the pages of the site come first.
PARALLEL = 4
# Seconds after which people are told that an answer is late. It is waited for all the same: its thread cannot be
# stopped, and one more for each that hangs would be threads without end.
PATIENCE = 30
# The interval is shortened by up to this share, so that those who came together are not asked together.
JITTER = 0.2
# Seconds. A view that says 0 must not keep a processor busy.
SHORTEST = 0.1
# Seconds. What a recheck is about may be on its way still: Django tells of a logout before it ends the session.
SECOND_LOOK = 1.0

# What says nothing about permission: a database or a broker that is away.
TROUBLE = (OperationalError, InterfaceError, OSError, TimeoutError, MemoryError)

UNKNOWN = object()


class Failure(NamedTuple):
    """What a view raised in a re-check, and for whom (UNKNOWN where even that could not be found out)."""

    error: BaseException | None
    user_id: Any


_MARK = HANDOFF_HEADER.lower().encode()


class Rechecks:
    """The part of a hub that asks again. A timer for each connection, and a queue of those whose turn it is."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._due: dict[Connection, None] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._intervals: dict[Connection, float] = {}
        self._of_user: dict[Any, list[Connection]] = {}
        # Not that of whoever makes the hub's loop turn: a request would stay in memory for as long as the stream, and
        # its user's language, and in plain mode its thread, be those of the re-check.
        self._context = Context()

    def watch(self, connection: Connection, interval: float | None) -> None:
        """Ask about a connection every `interval` seconds (None: as the settings say)."""
        if interval is not None:
            self._intervals[connection] = max(interval, SHORTEST)
        if connection.user_id is not None:
            self._of_user.setdefault(connection.user_id, []).append(connection)
        self._wait(connection)

    def connections_of(self, user_id: Any) -> list[Connection]:
        """Return a user's connections; a job that saves every user must not look at every stream for each."""
        return list(self._of_user.get(user_id, ()))

    def forget(self, connection: Connection) -> None:
        """Stop asking about a connection that is closed."""
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
        if connection.slot is None:  # Closed by another command, just before this one.
            return
        self._later(connection, SECOND_LOOK)
        self._queue(connection)

    def _later(self, connection: Connection, seconds: float) -> None:
        if connection.recheck is not None:
            connection.recheck.cancel()
        connection.recheck = self._hub.loop.call_later(seconds, self._turn, connection, context=self._context)

    def _wait(self, connection: Connection) -> None:
        seconds = self._intervals.get(connection, self._hub.settings.recheck_interval)
        self._later(connection, seconds * random.uniform(1 - JITTER, 1))

    def _turn(self, connection: Connection) -> None:
        self._wait(connection)
        self._queue(connection)

    def _queue(self, connection: Connection) -> None:
        self._due[connection] = None
        if len(self._asking) < PARALLEL:
            self._asking.add(self._hub.loop.create_task(self._work(), context=Context()))

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._due and not self._hub.closing:
                connection = next(iter(self._due))
                del self._due[connection]
                if not await self._may_stay(connection) and connection.slot is not None:
                    # The client is to come back and ask for itself, with the cookies it has by now. Those of our own
                    # element always do; of others some only after an end that is not clean.
                    connection.end(clean=connection.element is not None)
                    self._hub.close(connection, grace=False)
        finally:
            self._asking.discard(task)  # Here, and not in a callback: who is due until that runs would wait.

    async def _may_stay(self, connection: Connection) -> bool:
        origin = connection.origin
        if origin is None:
            return True
        if origin.scope["method"] != "GET":
            return False  # Asking would do again what the request did.
        try:
            asking = self._hub.loop.create_task(_ask(origin))
            late = not (await asyncio.wait({asking}, timeout=PATIENCE))[0]
            if late:
                logger.warning("The re-check of %s takes more than %d s.", origin.scope["path"], PATIENCE)
            status, opening, failure = await asking
        except Exception as error:
            if connection.slot is not None:
                logger.warning("The re-check of %s failed: the stream stays.", origin.scope["path"], exc_info=error)
            return True
        if opening is None:
            return self._is_in_trouble(connection, origin, status, failure)
        channels = tuple(channel.name for channel in connection.channels)
        return opening.user_id == connection.user_id and set(opening.channels) == set(channels)

    def _is_in_trouble(self, connection: Connection, origin: Origin, status: int, failure: Failure | None) -> bool:
        """Tell whether an answer that grants nothing is no refusal either."""
        if status < 500 and status != 429:
            return False
        if failure is not None:
            # A view that stumbles over somebody who is no longer logged in, or over a room that is gone, would not
            # grant the stream to anybody who asked now. A database that is away says nothing about that.
            if failure.user_id is not UNKNOWN and failure.user_id != connection.user_id:
                return False
            if not isinstance(failure.error, TROUBLE):
                logger.warning(
                    "The re-check of %s failed, so the stream ends.", origin.scope["path"], exc_info=failure.error
                )
                return False
        logger.warning("The re-check of %s was answered with %d: the stream stays.", origin.scope["path"], status)
        return True


def note_failure(sender: Any = None, request: Any = None, **kwargs: Any) -> None:
    """Remember what went wrong in a re-check, and for whom; receives Django's got_request_exception."""
    note = getattr(request, "scope", {}).get(RECHECK_KEY)
    if note is not None:
        user_id: Any = UNKNOWN
        with contextlib.suppress(Exception):
            user = getattr(request, "user", None)
            user_id = user.pk if user is not None and user.is_authenticated else None
        note.append(Failure(sys.exception(), user_id))


async def _ask(origin: Origin) -> tuple[int, StreamGrant | None, Failure | None]:
    """Run a request again; return the status of its answer, the stream that it grants, and what went wrong."""
    granted: dict[str, Any] = {}
    failures: list[Failure] = []
    status = 500
    mark: str | None = None
    is_asked = False
    enough = asyncio.Event()

    async def receive() -> Message:
        nonlocal is_asked
        if is_asked:
            await enough.wait()  # Django waits for the client to leave.
            return {"type": "http.disconnect"}
        is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, mark
        if message["type"] == "http.response.start":
            status = message["status"]
            mark = find_mark(message)
        elif message.get("more_body"):
            enough.set()  # Some other answer, which may be without end, and without a pause.
            await asyncio.sleep(0)

    await origin.application({**origin.scope, SCOPE_KEY: granted, RECHECK_KEY: failures}, receive, send)
    stream = granted.get(mark) if mark is not None else None
    opening = stream.opening if stream is not None else None
    return status, opening, failures[0] if failures else None


def find_mark(message: Mapping[str, Any]) -> str | None:
    """Return which of a request's streams a response hands off; None when it is another response."""
    for name, value in message["headers"]:
        if name.lower() == _MARK:
            return str(value.decode("latin-1"))
    return None
