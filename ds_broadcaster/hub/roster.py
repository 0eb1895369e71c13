"""Rosters: the users on a channel. State only: no I/O, no clock of its own."""

from collections import OrderedDict
from typing import Any


class Roster:
    """One process's part of a channel's presence: the number of connections of each user, in the order of arrival.

    A user whose last connection dropped may be kept for a grace: still online for presence, in the same place, but not
    counted by users().
    """

    __slots__ = ("_counts", "_grace")

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}
        # When each grace ends. All graces are equally long, so the order of arrival is the order of expiry.
        self._grace: OrderedDict[Any, float] = OrderedDict()

    def join(self, user: Any) -> bool:
        """Count a connection; True if the user was not online before."""
        before = self._counts.get(user)
        self._counts[user] = (before or 0) + 1
        self._grace.pop(user, None)
        return before is None

    def leave(self, user: Any, until: float | None = None) -> bool:
        """Discount a connection; True if the user is gone now.

        With `until`, a user without further connections stays online until then. See expire().
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
        """Forget a user who is online by grace alone; False if the user is not."""
        if self._counts.get(user) == 0:
            del self._counts[user], self._grace[user]
            return True
        return False

    def expire(self, now: float) -> list[Any]:
        """End the graces that are over; return their users, who are gone now."""
        gone = []
        while self._grace and next(iter(self._grace.values())) <= now:
            user, _ = self._grace.popitem(last=False)
            del self._counts[user]
            gone.append(user)
        return gone

    def next_expiry(self) -> float | None:
        """Return when the next grace ends."""
        return next(iter(self._grace.values()), None)

    def online(self) -> list[Any]:
        """Return each user who is online, by grace too."""
        return list(self._counts)

    def connections(self, user: Any) -> int | None:
        """Return the number of a user's connections: 0 for a user online by grace alone, None for one not online."""
        return self._counts.get(user)

    def users(self) -> list[Any]:
        """Return the user of each open connection: a user with two tabs twice."""
        # Any thread may ask: list() copies the items in one step.
        return [user for user, count in list(self._counts.items()) for _ in range(count)]
