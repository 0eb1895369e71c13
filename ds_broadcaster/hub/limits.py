"""Limits: how many connections a process carries, and how many one user has there."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from ..conf import Settings
from ..tally import Tally
from .connections import Connection, Connections

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
        self._lock = threading.Lock()
        self._tally = Tally(LOG_INTERVAL, clock)

    def refuse(self, user_id: Any, tab: str | None, element: str | None) -> str | None:
        """Return PROCESS or USER where one more stream is over that limit; count and log it then.

        A stream that would take the place of one, by the same element of the same tab, is none more for its user.
        """
        # Some were told to end, and wait for a client that does not read.
        ending = [each for each in list(self._connections.blocked) if not each.is_open]
        if self._most is not None and self._connections.count + len(ending) >= self._most:
            self._count(f"{self._most} are open (DS_BROADCASTER_MAX_CONNECTIONS)")
            return PROCESS
        if self._most_of_user is None or user_id is None:
            return None
        theirs = self._connections_of(user_id)
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
