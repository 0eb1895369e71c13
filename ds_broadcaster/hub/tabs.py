"""One stream for each tab: the client can leave two open, and everything would arrive twice.

A tab that is hidden and shown while the client waits to reconnect opens a stream at once and another when the wait is
over (seen in 1.0.1 to 1.0.4).
"""

from typing import TYPE_CHECKING, Any

from ..ids import format_id
from ..sse import NEVER, id_frame, retry_frame
from .connections import Connection

if TYPE_CHECKING:
    from .hub import Hub

# The retry interval is one for both of a tab's streams: milliseconds that the one that stays gets back, seconds after
# which it does, and again after twice that, and so on until CALM_AT_LAST: a client may come to the other stream's end
# only after that.
RETRY = 1500
CALM = 1.0
CALM_AT_LAST = 16.0


class TabStreams:
    """The part of a hub that knows which tab each stream is for, where the page tells."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._newest: dict[Any, Connection] = {}

    def replace(self, connection: Connection) -> int | None:
        """Close the stream that the same element of the same tab, and the same user, has open already.

        Returns the retry interval with which the connection has to begin then. Called when nothing can keep it from
        opening: a tab must not lose the one stream for another that does not come.
        """
        if connection.tab is None or connection.element is None:
            return None
        if connection.slot is None or connection.ending is not None:
            return None
        key = _key(connection)
        older = self._newest.get(key)
        self._newest[key] = connection
        if older is None:
            return None
        # Its client would come back and replace this one in turn, and so on.
        older.end(retry_frame(NEVER))
        self._hub.close(older, grace=False)
        self._hub.loop.call_later(CALM, self._calm, connection, CALM)
        return NEVER

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed."""
        if connection.tab is not None and self._newest.get(key := _key(connection)) is connection:
            del self._newest[key]

    def _calm(self, connection: Connection, waited: float) -> None:
        if connection.slot is None:
            return
        if connection.busy:  # It would be passed over.
            self._hub.loop.call_later(CALM, self._calm, connection, waited)
            return
        head = self._hub.head
        body = retry_frame(RETRY) + id_frame(format_id(self._hub.epoch, head))
        connection.beat({"type": "http.response.body", "body": body, "more_body": True}, head)
        if waited < CALM_AT_LAST:
            self._hub.loop.call_later(2 * waited, self._calm, connection, 2 * waited)


def _key(connection: Connection) -> tuple[Any, ...]:
    return connection.user_id, connection.tab, connection.element, connection.channels
