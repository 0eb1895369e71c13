"""What a process has told a presence store, for a store that loses its memory."""

from collections.abc import Sequence
from typing import Any

from .base import GONE, PresenceChange, PresenceDiff

Users = dict[str, set[Any]]


class Ledger:
    """The users that the store knows of this process, and those of them whose join the cluster was told.

    The two differ while joins and leaves wait: see PresenceDiff.is_settled.
    """

    def __init__(self) -> None:
        # True when the store lacks what it was told before: everything() is to be told next.
        self.is_behind = False
        # The store's memory that this process heard of last.
        self.memory: str | None = None
        # The users by channel; None among them stands for all connections together.
        self._held: Users = {}
        # Whose join the cluster was told, and no leave since; None while they are those held.
        self._told: Users | None = None

    def note(self, changes: Sequence[PresenceChange], diff: PresenceDiff) -> None:
        """Note the store's answer to these changes."""
        was_behind, self.is_behind = self.is_behind, False
        if diff.memory != self.memory:
            if self._told is None:
                self._told = self._held
            self._forget()
            self.memory = diff.memory
        elif diff.is_forgotten:
            # Another process took this one for dead, and told of leaves.
            self._forget()
            if not was_behind:
                self._told = {}
        for each in changes:
            held = self._held.setdefault(each.channel, set())
            if each.connections == GONE:
                held.discard(each.user)
            else:
                held.add(each.user)
            if not held:
                del self._held[each.channel]
        if diff.is_settled and not self.is_behind:
            self._told = None

    def _forget(self) -> None:
        self.is_behind = bool(self._held or self._told)
        self._held = {}

    def known(self) -> set[tuple[str, Any]]:
        """Return the users, each with a channel, whose join the cluster was told."""
        told = self._held if self._told is None else self._told
        return {(channel, user) for channel, users in told.items() for user in users if user is not None}

    def everything(self, here: Sequence[PresenceChange]) -> list[PresenceChange]:
        """Return `here`, all that this process holds, and its users who left untold, with what the cluster was told."""
        known = self.known()
        mentioned = {(each.channel, each.user) for each in here}
        changes = list(here)
        for channel, user in known - mentioned:
            if (channel, None) not in mentioned:
                mentioned.add((channel, None))
                changes.append(PresenceChange(channel, None, GONE))
            changes.append(PresenceChange(channel, user, GONE))
        return [each._replace(is_known=(each.channel, each.user) in known) for each in changes]
