"""Rosters: the users on a channel. State only: no I/O, no clock of its own."""

from collections import OrderedDict
from enum import Enum
from typing import Any

from ..present import Meta

# There may be very many users, so each is one integer: the lower bits are the number of connections, one bit tells that
# the user is away, the upper bits are the time of the join in milliseconds since 1970.
_AWAY = 1 << 18
_COUNT = _AWAY - 1
_SINCE = 19


class Status(Enum):
    """How a user is on a channel."""

    GONE = "gone"
    HERE = "here"
    AWAY = "away"


class Roster:
    """One process's part of a channel's presence: the number of connections of each user, in the order of arrival.

    A user whose last connection dropped may be kept for a grace: still here, in the same place, but not counted by
    users(). After it, a user may be away: still on the channel, with no page in sight.
    """

    __slots__ = ("_grace", "_metas", "_users")

    def __init__(self) -> None:
        self._users: dict[Any, int] = {}
        # When each grace ends. All graces are equally long, so the order of arrival is the order of expiry.
        self._grace: OrderedDict[Any, float] = OrderedDict()
        # What the last connection of a user said about itself, for those who have none.
        self._metas: dict[Any, Meta] | None = None

    def join(self, user: Any, now: float) -> None:
        """Count a connection; `now` is in seconds since 1970."""
        before = self._users.get(user, int(now * 1000) << _SINCE)
        self._users[user] = (before & ~_AWAY) + 1
        self._grace.pop(user, None)
        self._forget_meta(user)

    def leave(self, user: Any, until: float | None = None, *, is_away: bool = False) -> None:
        """Discount a connection. See settle()."""
        self._users[user] -= 1
        self.settle(user, until, is_away=is_away)

    def settle(self, user: Any, until: float | None = None, *, is_away: bool = False) -> None:
        """Decide about a user without a connection and without a grace: kept until then, or else away, or else gone."""
        if self.connections(user) != 0 or user in self._grace:
            return
        if until is not None:
            self._grace[user] = until
        elif is_away:
            self._users[user] |= _AWAY
        else:
            del self._users[user]
            self._forget_meta(user)

    def keep_meta(self, user: Any, meta: Meta) -> None:
        """Keep what the last connection of a user said about itself, until the user comes back or is gone."""
        if self.connections(user) == 0:
            if self._metas is None:
                self._metas = {}
            self._metas[user] = meta

    def kept_meta(self, user: Any) -> Meta | None:
        """Return what keep_meta() kept."""
        return None if self._metas is None else self._metas.get(user)

    def _forget_meta(self, user: Any) -> None:
        if self._metas is not None:
            self._metas.pop(user, None)
            if not self._metas:
                self._metas = None

    def dismiss(self, user: Any) -> bool:
        """Forget a user without a connection; False if there is no such user."""
        if self.connections(user) != 0:
            return False
        del self._users[user]
        self._grace.pop(user, None)
        self._forget_meta(user)
        return True

    def expire(self, now: float) -> list[Any]:
        """End the graces that are over; return their users, for settle()."""
        ended = []
        while self._grace and next(iter(self._grace.values())) <= now:
            ended.append(self._grace.popitem(last=False)[0])
        return ended

    def next_expiry(self) -> float | None:
        """Return when the next grace ends."""
        return next(iter(self._grace.values()), None)

    def is_empty(self) -> bool:
        """Tell whether there is no user, by grace or away either."""
        return not self._users

    def online(self) -> list[Any]:
        """Return each user on the channel, those in their grace and those away too."""
        return list(self._users)

    def status(self, user: Any) -> Status:
        """Return how a user is on the channel. A user in the grace is here."""
        entry = self._users.get(user)
        if entry is None:
            return Status.GONE
        return Status.AWAY if entry & _AWAY else Status.HERE

    def connections(self, user: Any) -> int | None:
        """Return the number of a user's connections: 0 for a user in the grace or away, None for one who is gone."""
        entry = self._users.get(user)
        return None if entry is None else entry & _COUNT

    def since(self, user: Any) -> float | None:
        """Return when a user joined, in seconds since 1970; None for one who is gone."""
        entry = self._users.get(user)
        return None if entry is None else (entry >> _SINCE) / 1000

    def note_since(self, user: Any, since: float) -> None:
        """Note that a user has been on the channel for longer, in another process."""
        entry = self._users.get(user)
        if entry is not None:
            earlier = min(round(since * 1000), entry >> _SINCE)
            self._users[user] = earlier << _SINCE | entry & (_AWAY | _COUNT)

    def users(self) -> list[Any]:
        """Return the user of each open connection: a user with two tabs twice."""
        # Any thread may ask: list() copies the items in one step.
        return [user for user, entry in list(self._users.items()) for _ in range(entry & _COUNT)]
