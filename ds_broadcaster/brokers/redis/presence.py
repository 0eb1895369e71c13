"""Who is online, in Redis: each process writes its own keys, which hold for its lease."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ...present import UserPart
from ..base import GONE, PresenceChange, PresenceDiff, PresenceStore, ProcessHoldings, Receiver
from ..packing import decoded, encoded, pack_tab, pack_tabs, pack_user, unpack_part, unpack_user
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
        parts = [receiver.part(each.channel, each.user) for each in changes]
        return await asyncio.to_thread(self._sync, receiver.process, changes, parts, lease, memory)

    def _sync(
        self,
        process: str,
        changes: Sequence[PresenceChange],
        parts: Sequence[UserPart | None],
        lease: float,
        memory: str | None,
    ) -> PresenceDiff:
        users: dict[str, list[Any]] = {}
        for each, part in zip(changes, parts, strict=True):
            if each.user is not None:
                told = pack_user(each.user), _entry(each.connections, part), int(each.is_known)
                users.setdefault(each.channel, []).extend(told)
        topics = self._session.topic_of(b"")
        arguments: list[Any] = [process, milliseconds(lease), topics, self._holdings, self._users, memory or ""]
        for each in changes:
            if each.user is None:
                theirs = users.get(each.channel, [])
                arguments += [encoded(each.channel), each.connections, len(theirs) // 3, *theirs]
        answer = self._session.run(scripts.SHARE, self._keys, arguments)
        epoch, is_settled, was_known, next_end, joined, left, away, back, since = answer
        return PresenceDiff(
            _pairs(joined),
            _pairs(left),
            not was_known,
            next_end / 1000,
            epoch.decode(),
            bool(is_settled),
            _pairs(away),
            _pairs(back),
            [
                (decoded(name), unpack_user(user), int(time) / 1000)
                for name, user, time in zip(since[::3], since[1::3], since[2::3], strict=True)
            ],
        )

    def online(self, channel: str, *, excluding: Collection[str] = ()) -> Iterator[tuple[Any, int]]:
        for users in self._ask(self._users, b":" + encoded(channel), "all", excluding).values():
            for user, entry in zip(users[::2], users[1::2], strict=True):
                yield unpack_user(user), int(entry.partition(b" ")[0])

    def parts(self, channel: str, *, excluding: Collection[str] = ()) -> Iterator[UserPart]:
        for users in self._ask(self._users, b":" + encoded(channel), "all", excluding).values():
            for user, entry in zip(users[::2], users[1::2], strict=True):
                with self._session.malformed.skipping(channel):
                    _, since, is_away, tabs = entry.split(b" ", 3)
                    part = unpack_part(user, int(since) / 1000, is_away == b"1", tabs)
                    yield part

    def tell_closed(self, user: Any, tab: str) -> None:
        self._session.run(scripts.TAB, [], [self._session.topic_of(b""), pack_tab(user, tab)])

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


def _entry(connections: int, part: UserPart | None) -> str:
    """Return what is kept of a user: see scripts.py."""
    if connections == GONE:
        return str(GONE)
    part = part or UserPart(None, others=max(connections, 0))
    return f"{connections} {round(part.since * 1000)} {int(part.is_away)} {pack_tabs(part)}"


def _pairs(found: list[bytes]) -> list[tuple[str, Any]]:
    return [(decoded(name), unpack_user(user)) for name, user in zip(found[::2], found[1::2], strict=True)]
