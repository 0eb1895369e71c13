"""Limits: how many connections a process carries, and how many one user has there."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from ..conf import Settings
from ..tally import Tally
from .connections import Connection, Connections
from .grant import StreamGrant

logger = logging.getLogger("ds_broadcaster")

# Seconds between two lines in the log about refused streams.
LOG_INTERVAL = 10.0

# What a limit is about.
PROCESS = "process"
USER = "user"


class Limits:
    """The limits of a hub, and how many streams they have refused so far. Any thread may ask.

    `connections_of` returns a user's open connections.
    """

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        connections_of: Callable[[Any], list[Connection]],
        clock: Callable[[], float],
    ) -> None:
        self.refused = 0
        self._most = settings.max_connections
        self._most_of_user = settings.max_connections_per_user
        self._connections = connections
        self._connections_of = connections_of
        # Streams whose answer has begun, and which will open in a moment.
        self._held: dict[int, StreamGrant] = {}
        self._lock = threading.Lock()
        self._tally = Tally(LOG_INTERVAL, clock)

    def hold(self, grant: StreamGrant) -> str | None:
        """Hold a place for a stream until let_go(): call that, and open it without an await between.

        Return what refuse() returns where there is no place.
        """
        limit = self.refuse(grant.user_id, grant.tab, grant.element)
        if limit is None:
            self._held[id(grant)] = grant
        return limit

    def let_go(self, grant: StreamGrant) -> None:
        """Hold the place of a stream no longer, if it has one."""
        self._held.pop(id(grant), None)

    def refuse(self, user_id: Any, tab: str | None, element: str | None) -> str | None:
        """Return PROCESS or USER where one more stream is over that limit; count and log it then.

        A stream that would take the place of one, by the same element of the same tab, is none more for its user.
        """
        # Some were told to end, and wait for a client that does not read.
        ending = [each for each in list(self._connections.blocked) if not each.is_open]
        held = list(self._held.values())
        if self._most is not None and self._connections.count + len(ending) + len(held) >= self._most:
            self._count(f"{self._most} are open (DS_BROADCASTER_MAX_CONNECTIONS)")
            return PROCESS
        if self._most_of_user is None or user_id is None:
            return None
        theirs: list[Connection | StreamGrant] = [*self._connections_of(user_id)]
        places = {(each.tab, each.element) for each in theirs if each.tab is not None}
        # One that is held may be about to take the place of another.
        theirs += [each for each in held if each.user_id == user_id and (each.tab, each.element) not in places]
        # One at most: a client may say the same of all its streams.
        replaces_one = tab is not None and any((each.tab, each.element) == (tab, element) for each in theirs)
        count = len(theirs) + sum(each.user_id == user_id for each in ending)
        if count < self._most_of_user + replaces_one:
            return None
        self._count(f"user {user_id!r} has {count} open (DS_BROADCASTER_MAX_CONNECTIONS_PER_USER)")
        return USER

    def _count(self, reason: str) -> None:
        with self._lock:
            self.refused += 1
        if count := self._tally.add():
            logger.warning("Refused %d %s: %s.", count, "stream" if count == 1 else "streams", reason)
