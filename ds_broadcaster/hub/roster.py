"""Rosters: who is on a channel. State only: no I/O, no clock of its own."""

from collections import OrderedDict
from typing import Any


class Roster:
    """One process's share of a channel: for each user how many connections, in the order in which they came.

    A user whose last connection dropped may be kept for a grace: still online for presence, in the same place,
    but no longer counted by users().
    """

    __slots__ = ("_counts", "_grace")

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}
        # When each grace ends. The grace is the same for all, so the order of arrival is the order of expiry.
        self._grace: OrderedDict[Any, float] = OrderedDict()

    def join(self, user: Any) -> bool:
        """Count a connection; True if the user was not online before."""
        before = self._counts.get(user)
        self._counts[user] = (before or 0) + 1
        self._grace.pop(user, None)
        return before is None

    def leave(self, user: Any, until: float | None = None) -> bool:
        """Discount a connection; True if the user is gone now.

        With `until` a user whose last connection this was stays online until then, see expire().
        """
        left = self._counts[user] - 1
        if left or until is not None:
            self._counts[user] = left
            if not left and until is not None:
                self._grace[user] = until
            return False
        del self._counts[user]
        return True

    def dismiss(self, user: Any) -> bool:
        """Forget a user who is online by grace alone; True if there was one."""
        if self._counts.get(user) == 0:
            del self._counts[user], self._grace[user]
            return True
        return False

    def expire(self, now: float) -> list[Any]:
        """End the graces that are over; return the users who are gone by that."""
        gone = []
        while self._grace and next(iter(self._grace.values())) <= now:
            user, _ = self._grace.popitem(last=False)
            del self._counts[user]
            gone.append(user)
        return gone

    def next_expiry(self) -> float | None:
        """Return when expire() has something to do again."""
        return next(iter(self._grace.values()), None)

    def online(self) -> list[Any]:
        """Return each user who is online, the grace included."""
        return list(self._counts)

    def connections(self, user: Any) -> int | None:
        """Return how many connections a user has, 0 by grace alone, None for somebody who is not online."""
        return self._counts.get(user)

    def users(self) -> list[Any]:
        """Return the user of each open connection: somebody with two tabs twice."""
        # list() of the items takes no other thread's turn, so any thread may ask.
        return [user for user, count in list(self._counts.items()) for _ in range(count)]
