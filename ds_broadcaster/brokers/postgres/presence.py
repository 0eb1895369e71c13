"""Who is online, in PostgreSQL: each sync is one transaction, in which no other process writes."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg

from ...present import UserPart
from ..base import GONE, PresenceChange, PresenceDiff, PresenceStore, ProcessHoldings, Receiver
from ..network import MalformedLog
from ..packing import decoded, encoded, pack_tab, pack_tabs, pack_user, unpack_part, unpack_user
from . import statements
from .session import Sessions, ask

# The key of a channel, and a user as text.
Pair = tuple[bytes, str]

# In place of a user: all connections of a channel together.
_ALL = ""
# In place of a process: the store itself. See statements.py.
_STORE = ""


class PostgresPresence(PresenceStore):
    """Presence in a database: hubs write on their sessions, threads read on Django's connection to `alias`."""

    def __init__(self, alias: str, sessions: Sessions, lease: float, malformed: MalformedLog) -> None:
        super().__init__(lease)
        self._malformed = malformed
        self._alias = alias
        self._sessions = sessions

    async def sync(
        self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float, memory: str | None
    ) -> PresenceDiff:
        async def write() -> PresenceDiff:
            async with session.transaction() as connection:
                return await _sync(connection, receiver, changes, lease, memory, self._malformed)

        async with self._sessions.current() as session:
            return await session.ask(write)

    def online(self, channel: str, *, excluding: Collection[str] = ()) -> list[tuple[Any, int]]:
        rows = ask(self._alias, statements.USERS, (statements.key_of(channel), list(excluding)))
        return list(self._users(channel, rows))

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        # On the hub's session: a presence callback without queries must not open a connection.
        parameters = (statements.key_of(channel), [receiver.process])
        rows = self._sessions.fetch_from_thread(receiver, statements.USERS, parameters)
        return [user for user, _ in self._users(channel, rows)]

    def parts(self, channel: str, *, excluding: Collection[str] = ()) -> Iterator[UserPart]:
        return self._parts(channel, ask(self._alias, statements.PARTS, (statements.key_of(channel), list(excluding))))

    def remote_parts(self, receiver: Receiver, channel: str) -> Iterator[UserPart]:
        parameters = (statements.key_of(channel), [receiver.process])
        return self._parts(channel, self._sessions.fetch_from_thread(receiver, statements.PARTS, parameters))

    def tell_closed(self, user: Any, tab: str) -> None:
        ask(self._alias, statements.NOTIFY, (statements.TOPIC, f"t{pack_tab(user, tab)}"))

    def _parts(self, channel: str, rows: list[Any]) -> Iterator[UserPart]:
        for row in rows:
            with self._malformed.skipping(channel):
                part = unpack_part(*row)
                yield part

    def _users(self, channel: str, rows: list[Any]) -> Iterator[tuple[Any, int]]:
        for who, connections in rows:
            with self._malformed.skipping(channel):
                user = unpack_user(who)
                yield user, connections

    def holdings(self, *, excluding: Collection[str] = ()) -> list[ProcessHoldings]:
        found: dict[str, dict[str, int]] = {}
        for process, channel, count in ask(self._alias, statements.SHARES, (list(excluding),)):
            held = found.setdefault(process, {})
            if channel is not None:
                with self._malformed.skipping(""):
                    held[decoded(channel)] = count
        return [ProcessHoldings(process, held) for process, held in found.items()]


async def _sync(
    connection: psycopg.AsyncConnection[Any],
    receiver: Receiver,
    changes: Sequence[PresenceChange],
    lease: float,
    known: str | None,
    malformed: MalformedLog,
) -> PresenceDiff:
    """See PresenceStore.sync(); within a transaction of this connection."""
    process = receiver.process

    async def rows(statement: str, *values: Any) -> list[Any]:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description is not None else []

    async def held(pairs: Collection[Pair]) -> dict[Pair, bool]:
        """Return which of these users are there, and whether they are away."""
        found = await rows(statements.ONLINE, *_columns(pairs, 2)) if pairs else []
        return {(key, who): is_away for key, who, is_away in found}

    await rows("SELECT pg_advisory_xact_lock(%s)", statements.SHARE_LOCK)
    await rows(statements.REMEMBER)
    await rows(statements.SETTLE, lease, known)
    [(memory, is_settled)] = await rows(statements.MEMORY)
    dead = [name for (name,) in await rows(statements.BURY, process)]
    [(was_known,)] = await rows(statements.LIVE, process, lease)
    buried = await rows(statements.HELD_BY, dead) if dead else []
    owed = await rows(statements.HELD_BY, [_STORE])

    told = [_row(each, receiver) for each in changes]
    # The channels of the users whom this call may change.
    channels = {(key, who): channel for key, channel, who, *_ in [*told, *buried, *owed] if who != _ALL}
    were_owed = {(key, who) for key, _, who in owed}
    # What the cluster was told.
    before = await held(channels)
    were_online = before.keys() ^ were_owed
    were_online |= {_pair(each) for each in changes if each.is_known}

    if dead:
        await rows(statements.BURY_HOLDINGS, dead)
    came = [each for each in told if each[3] != GONE]
    went = [each[:3] for each in told if each[3] == GONE]
    news = []
    since = {(key, who): at for key, _, who, _, at, *_ in came}
    longer = {}
    if came:
        held_now = await rows(statements.HOLD, process, *_columns(came, 7))
        news += [each[:2] for each in held_now]
        longer = {(key, who): at for key, who, at in held_now if at < since[key, who]}
    if went:
        keys, _, people = _columns(went, 3)
        news += await rows(statements.LET_GO, keys, people, process)

    after = await held(channels)
    are_online = after.keys()
    differ = are_online ^ were_online
    are_owed = set() if is_settled else differ
    if paid := were_owed - are_owed:
        await rows(statements.LET_GO, *_columns(paid, 2), _STORE)
    if fresh := are_owed - were_owed:
        columns = _columns([(key, channels[key, who], who, 0, 0.0, False, "") for key, who in fresh], 7)
        await rows(statements.HOLD, _STORE, *columns)

    for key in {key for key, who in news if who != _ALL}:
        await rows(statements.NOTIFY, statements.TOPIC, f"r{process} {key.hex()}")
    for key in {key for key, _, who in buried if who != _ALL}:
        await rows(statements.NOTIFY, statements.TOPIC, f"r {key.hex()}")
    [(next_end,)] = await rows(statements.NEXT_END)

    def named(pairs: Collection[Pair]) -> list[tuple[str, Any]]:
        found = []
        for key, who in channels:
            if (key, who) in pairs:
                with malformed.skipping(""):
                    found.append((decoded(channels[key, who]), unpack_user(who)))
        return found

    joined, left = (differ & are_online, differ - are_online) if is_settled else (set(), set())
    stayed = (before.keys() & are_online) - differ if is_settled else set()
    return PresenceDiff(
        named(joined),
        named(left),
        not was_known,
        max(next_end, 0),
        memory,
        is_settled,
        named({pair for pair in stayed if after[pair] and not before[pair]}),
        named({pair for pair in stayed if before[pair] and not after[pair]}),
        [(decoded(channels[pair]), unpack_user(pair[1]), at) for pair, at in longer.items()],
    )


def _row(change: PresenceChange, receiver: Receiver) -> tuple[bytes, bytes, str, int, float, bool, str]:
    """Return what is kept of a change."""
    part = None if change.user is None else receiver.part(change.channel, change.user)
    if part is None:
        part = UserPart(None, others=max(change.connections, 0))
    return *_names(change), change.connections, part.since, part.is_away, pack_tabs(part)


def _names(change: PresenceChange) -> tuple[bytes, bytes, str]:
    who = _ALL if change.user is None else pack_user(change.user)
    return statements.key_of(change.channel), encoded(change.channel), who


def _pair(change: PresenceChange) -> Pair:
    key, _, who = _names(change)
    return key, who


def _columns(found: Collection[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """Return rows as so many columns, which there are even without rows."""
    return [[row[number] for row in found] for number in range(count)]
