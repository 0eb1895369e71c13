"""One stream for each tab: a Datastar client can leave two open, and every event would arrive twice.

A tab that is hidden and shown while the client waits to reconnect opens a stream at once, and another when the wait is
over (seen in 1.0.1 to 1.0.4).
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ..sse import NEVER, id_frame, retry_frame
from .channel import Chunk
from .connections import Connection, Head

# Milliseconds. Both streams of a tab share one retry interval; the one that stays gets this interval back.
RETRY = 1500
# Seconds after which it does, doubled each time up to RESTORE_RETRY_FOR: a client may reach the end of the other stream
# only after the first.
RESTORE_RETRY_AFTER = 1.0
RESTORE_RETRY_FOR = 16.0


class TabStreams:
    """The newest stream of each tab and element, where the page tells them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, head: Head, close: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._head = head
        self._close = close
        self._newest: dict[Any, Connection] = {}

    def replace(self, connection: Connection) -> int | None:
        """Close the older stream of the same element, tab and user.

        Return the retry interval with which the new stream must begin then. Call it when nothing can keep the new
        stream from opening: a tab must not lose one stream for another that does not come.
        """
        if connection.tab is None or connection.element is None:
            return None
        if not connection.is_open or connection.closing is not None:
            return None
        key = _key(connection)
        older = self._newest.get(key)
        self._newest[key] = connection
        if older is None:
            return None
        # Its client would return and replace this stream in turn, and so on.
        older.end("a newer stream of the same element took its place", retry_frame(NEVER))
        self._close(older)
        self._loop.call_later(RESTORE_RETRY_AFTER, self._restore_retry, connection, RESTORE_RETRY_AFTER)
        return NEVER

    def forget(self, connection: Connection) -> None:
        """Let go of a closed connection."""
        if connection.tab is not None and self._newest.get(key := _key(connection)) is connection:
            del self._newest[key]

    def is_idle(self) -> bool:
        """Tell whether no tab has a stream."""
        return not self._newest

    def _restore_retry(self, connection: Connection, waited: float) -> None:
        if not connection.is_open:
            return
        if connection.busy:  # A heartbeat would be left out.
            self._loop.call_later(RESTORE_RETRY_AFTER, self._restore_retry, connection, waited)
            return
        connection.beat(Chunk(retry_frame(RETRY) + id_frame(self._head.id), self._head.sequence))
        if waited < RESTORE_RETRY_FOR:
            self._loop.call_later(2 * waited, self._restore_retry, connection, 2 * waited)


def _key(connection: Connection) -> tuple[Any, ...]:
    return connection.user_id, connection.tab, connection.element, connection.channels
