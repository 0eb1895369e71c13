"""Who is online, in Redis: each process writes its own keys, which hold for its lease."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..base import PresenceChange, PresenceDiff, PresenceStore, ProcessHoldings, Receiver
from ..packing import decoded, encoded, pack_user, unpack_user
from . import scripts
from .session import Session, milliseconds


class RedisPresence(PresenceStore):
    """Presence over a Redis session."""

    def __init__(self, session: Session, lease: float) -> None:
        super().__init__(lease)
        self._session = session
        self._keys = [session.key_of(name) for name in ("processes", "presence", "owed")]
        self._holdings, self._users = session.key_of("r:"), session.key_of("u:")

    async def sync(
        self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float, memory: str | None
    ) -> PresenceDiff:
        return await asyncio.to_thread(self._sync, receiver.process, changes, lease, memory)

    def _sync(self, process: str, changes: Sequence[PresenceChange], lease: float, memory: str | None) -> PresenceDiff:
        users: dict[str, list[Any]] = {}
        for each in changes:
            if each.user is not None:
                users.setdefault(each.channel, []).extend((pack_user(each.user), each.connections, int(each.is_known)))
        topics = self._session.topic_of(b"")
        arguments: list[Any] = [process, milliseconds(lease), topics, self._holdings, self._users, memory or ""]
        for each in changes:
            if each.user is None:
                theirs = users.get(each.channel, [])
                arguments += [encoded(each.channel), each.connections, len(theirs) // 3, *theirs]
        answer = self._session.run(scripts.SHARE, self._keys, arguments)
        epoch, is_settled, was_known, next_end, joined, left = answer
        return PresenceDiff(
            _pairs(joined), _pairs(left), not was_known, next_end / 1000, epoch.decode(), bool(is_settled)
        )

    def online(self, channel: str, *, excluding: Collection[str] = ()) -> Iterator[tuple[Any, int]]:
        for users in self._ask(self._users, b":" + encoded(channel), "all", excluding).values():
            for user, connections in zip(users[::2], users[1::2], strict=True):
                yield unpack_user(user), int(connections)

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        found = self._ask(self._users, b":" + encoded(channel), "keys", [receiver.process])
        return [unpack_user(user) for users in found.values() for user in users]

    def holdings(self, *, excluding: Collection[str] = ()) -> list[ProcessHoldings]:
        found = []
        for process, holdings in self._ask(self._holdings, b"", "all", excluding).items():
            pairs = zip(holdings[::2], holdings[1::2], strict=True)
            # Without a name: the epoch in which the process told this.
            found.append(
                ProcessHoldings(process, {decoded(name): int(count) for name, count in pairs if name and int(count)})
            )
        return found

    def _ask(self, prefix: str, suffix: bytes, what: str, excluding: Collection[str]) -> dict[str, list[bytes]]:
        """Return what each process has under its key."""
        answer = self._session.run(scripts.ROSTER, self._keys[:1], [prefix, suffix, what, *excluding])[1:]
        return {process.decode(): found for process, found in zip(answer[::2], answer[1::2], strict=True)}


def _pairs(found: list[bytes]) -> list[tuple[str, Any]]:
    return [(decoded(name), unpack_user(user)) for name, user in zip(found[::2], found[1::2], strict=True)]
