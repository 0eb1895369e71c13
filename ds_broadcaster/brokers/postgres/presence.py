"""Who is online, in PostgreSQL: each sync is one transaction, in which no other process writes."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import psycopg

from ..base import GONE, PresenceChange, PresenceDiff, PresenceStore, ProcessHoldings, Receiver
from ..packing import decoded, encoded, pack_user, unpack_user
from . import statements
from .session import Sessions, ask

Rows = Callable[..., Awaitable[list[Any]]]

# In place of a user: all connections of a channel together.
_ALL = ""


class PostgresPresence(PresenceStore):
    """Presence in a database: hubs write on their sessions, threads read on Django's connection to `alias`."""

    def __init__(self, alias: str, sessions: Sessions, lease: float) -> None:
        super().__init__(lease)
        self._alias = alias
        self._sessions = sessions

    async def sync(self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float) -> PresenceDiff:
        async def write() -> PresenceDiff:
            async with session.transaction() as connection:
                return await _sync(connection, receiver.process, changes, lease)

        async with self._sessions.current() as session:
            return await session.ask(write)

    def online(self, channel: str, *, excluding: Collection[str] = ()) -> list[tuple[Any, int]]:
        rows = ask(self._alias, statements.USERS, (statements.key_of(channel), list(excluding)))
        return [(unpack_user(who), connections) for who, connections in rows]

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        # On the hub's session: a presence callback without queries must not open a connection.
        parameters = (statements.key_of(channel), [receiver.process])
        return [unpack_user(who) for who, _ in self._sessions.fetch_from_thread(receiver, statements.USERS, parameters)]

    def holdings(self, *, excluding: Collection[str] = ()) -> list[ProcessHoldings]:
        found: dict[str, dict[str, int]] = {}
        for process, channel, count in ask(self._alias, statements.SHARES, (list(excluding),)):
            held = found.setdefault(process, {})
            if channel is not None:
                held[decoded(channel)] = count
        return [ProcessHoldings(process, held) for process, held in found.items()]


async def _sync(
    connection: psycopg.AsyncConnection[Any], process: str, changes: Sequence[PresenceChange], lease: float
) -> PresenceDiff:
    """See PresenceStore.sync(); within a transaction of this connection."""

    async def rows(statement: str, *values: Any) -> list[Any]:
        return await (await connection.execute(statement, values)).fetchall()

    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (statements.SHARE_LOCK,))
    dead = [name for (name,) in await rows(statements.BURY, process)]
    [(was_known,)] = await rows(statements.LIVE, process, lease)
    buried = await rows(statements.BURY_HOLDINGS, dead) if dead else []

    told = [(*_names(each), each.connections) for each in changes]
    held = [each for each in told if each[3] != GONE]
    gone = [each for each in told if each[3] == GONE]
    came = []
    if held:
        written = await rows(statements.HOLD, process, *map(list, zip(*held, strict=True)))
        came = [(key, channel, who) for key, channel, who, was_held in written if not was_held]
    went = []
    if gone:
        keys, _, people, _ = map(list, zip(*gone, strict=True))
        went = await rows(statements.LET_GO, keys, people, process)

    # Joins and leaves are those of users whom no other process has.
    joined = await _alone(rows, process, came)
    left = await _alone(rows, process, went) + await _alone(rows, process, buried, and_here=True)
    for key in {key for key, _, who in [*came, *went] if who != _ALL}:
        await connection.execute(statements.NOTIFY, (statements.TOPIC, f"r{process} {key.hex()}"))
    for key in {key for key, _, who in buried if who != _ALL}:
        await connection.execute(statements.NOTIFY, (statements.TOPIC, f"r {key.hex()}"))
    [(next_end,)] = await rows(statements.NEXT_END)
    return PresenceDiff(joined, left, not was_known, max(next_end, 0))


def _names(change: PresenceChange) -> tuple[bytes, bytes, str]:
    who = _ALL if change.user is None else pack_user(change.user)
    return statements.key_of(change.channel), encoded(change.channel), who


async def _alone(
    rows: Rows, process: str, found: list[tuple[bytes, bytes, str]], *, and_here: bool = False
) -> list[tuple[str, Any]]:
    """Return the users whom no other process has on their channel; with `and_here`, nor this one."""
    channels = {(key, who): channel for key, channel, who in found if who != _ALL}
    if not channels:
        return []
    keys, people = map(list, zip(*channels, strict=True))
    alone = await rows(statements.ALONE, keys, people, "" if and_here else process)
    return [(decoded(channels[key, who]), unpack_user(who)) for key, who in alone]
