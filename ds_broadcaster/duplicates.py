"""One stream for each tab: the client can leave two open, and everything would arrive twice.

A tab that is hidden and shown while the client waits to reconnect opens a stream at once and another when the wait is
over (seen in 1.0.1 to 1.0.4).
"""

from typing import TYPE_CHECKING, Any

from .connection import Connection
from .ids import format_id
from .sse import id_frame, retry_frame

if TYPE_CHECKING:
    from .hub import Hub

# Milliseconds. The client of a stream that was replaced would come back and replace the other in turn, and so on; it
# waits for this long first (the longest that setTimeout() takes, 24 days).
NEVER = 2**31 - 1
# The retry interval is one for both of a tab's streams: seconds after which the one that stays gets its own back.
CALM = 1.0
RETRY = 1500


class Duplicates:
    """The part of a hub that knows which tab each stream is for, where the page tells."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._newest: dict[Any, Connection] = {}

    def replace(self, connection: Connection) -> None:
        """Close the stream that the same element of the same tab, and the same user, has open already."""
        if connection.tab is None or connection.element is None:
            return
        key = _key(connection)
        older = self._newest.get(key)
        self._newest[key] = connection
        if older is not None and older.channels == connection.channels:
            older.end(retry_frame(NEVER))
            self._hub.close(older, grace=False)
            self._hub.loop.call_later(CALM, self._calm, connection)

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed."""
        if connection.tab is not None and self._newest.get(key := _key(connection)) is connection:
            del self._newest[key]

    def _calm(self, connection: Connection) -> None:
        if connection.slot is not None:
            head = self._hub.head
            body = retry_frame(RETRY) + id_frame(format_id(self._hub.broker.epoch, head))
            connection.beat({"type": "http.response.body", "body": body, "more_body": True}, head)


def _key(connection: Connection) -> tuple[Any, str | None, str | None]:
    return connection.user_id, connection.tab, connection.element
