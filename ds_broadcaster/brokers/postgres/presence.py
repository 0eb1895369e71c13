"""Who is there, written down: one transaction, in which no other process writes."""

from collections.abc import Sequence
from typing import Any

import psycopg

from ..base import GONE, PresenceChange, PresenceDiff
from ..packing import decoded, encoded, pack_user, unpack_user
from . import statements

# In place of a user: all connections of a channel together.
_ALL = ""


async def sync(
    connection: psycopg.AsyncConnection[Any], process: str, changes: Sequence[PresenceChange], lease: float
) -> PresenceDiff:
    """See Broker.sync(); within a transaction of this connection."""

    async def rows(statement: str, *values: Any) -> list[Any]:
        return await (await connection.execute(statement, values)).fetchall()

    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (statements.SHARE_LOCK,))
    dead = [name for (name,) in await rows(statements.BURY, process)]
    [(was_there,)] = await rows(statements.LIVE, process, lease)
    buried = await rows(statements.BURY_HOLDINGS, dead) if dead else []

    told = [(*_names(each), each.connections) for each in changes]
    held = [each for each in told if each[3] != GONE]
    gone = [each for each in told if each[3] == GONE]
    came = []
    if held:
        written = await rows(statements.HOLD, process, *map(list, zip(*held, strict=True)))
        came = [(key, channel, who) for key, channel, who, was_known in written if not was_known]
    went = []
    if gone:
        keys, _, people, _ = map(list, zip(*gone, strict=True))
        went = await rows(statements.LET_GO, keys, people, process)

    # Whom no other process has came, or left, in all of them.
    joined = await _alone(rows, process, came)
    left = await _alone(rows, process, went) + await _alone(rows, process, buried, and_here=True)
    for key in {key for key, _, who in [*came, *went] if who != _ALL}:
        await connection.execute(statements.NOTIFY, (statements.TOPIC, f"r{process} {key.hex()}"))
    for key in {key for key, _, who in buried if who != _ALL}:
        await connection.execute(statements.NOTIFY, (statements.TOPIC, f"r {key.hex()}"))
    [(next_end,)] = await rows(statements.NEXT_END)
    return PresenceDiff(joined, left, not was_there, max(next_end, 0))


def _names(change: PresenceChange) -> tuple[bytes, bytes, str]:
    who = _ALL if change.user is None else pack_user(change.user)
    return statements.key_of(change.channel), encoded(change.channel), who


async def _alone(
    rows: Any, process: str, found: list[tuple[bytes, bytes, str]], *, and_here: bool = False
) -> list[tuple[str, Any]]:
    """Return those whom no other process has on their channel; with `and_here`, not this one either."""
    channels = {(key, who): channel for key, channel, who in found if who != _ALL}
    if not channels:
        return []
    keys, people = map(list, zip(*channels, strict=True))
    alone = await rows(statements.ALONE, keys, people, "" if and_here else process)
    return [(decoded(channels[key, who]), unpack_user(who)) for key, who in alone]
