"""The SQL of the PostgreSQL broker, on the tables of contrib.postgres.

A channel's name may be too long for an index, so a `key` stands for it: see key_of().
"""

from hashlib import blake2b

from ...conf import History
from ...log import FRAME_OVERHEAD
from ..base import COMMANDS_KEPT
from ..packing import encoded

# The topic of LISTEN. Its messages are "e<key>" for an event, "r<process> <key>" for a change of presence, and "t<tab>"
# for a tab that is closed.
TOPIC = "ds_broadcaster"

# Advisory locks are numbers that a database's users agree on; the first migration has the publishers' lock.
SHARE_LOCK = 0x64735F62_02
TRIM_LOCK = 0x64735F62_03


def key_of(channel: str) -> bytes:
    """Return the key of a channel."""
    return blake2b(encoded(channel), digest_size=16).digest()


# A replica that takes over continues in another timeline, and may lack its predecessor's last sequences: so the epoch
# names the timeline. NULL where the table is empty.
_EPOCH = """(
    SELECT state.epoch || 't' || lower(ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0'))
    FROM ds_broadcaster_state state
)"""

# The newest committed sequence; the counter itself may be ahead.
_HEAD = """(
    SELECT greatest((SELECT max(sequence) FROM ds_broadcaster_event), state.trimmed)
    FROM ds_broadcaster_state state
)"""

BEGIN = "SELECT ds_broadcaster_begin()"

# The verb of transient events: their rows are read by listeners alone, and deleted after some seconds.
TRANSIENT = "transient"
TRANSIENT_AGE = 5

# The items to publish, as an array for each column.
_COLUMNS = "key, channel, verb, payload, replaces, excluded, is_refresh"
_ITEMS = f"""
unnest(%s::bytea[], %s::bytea[], %s::text[], %s::bytea[], %s::text[], %s::text[], %s::bool[])
    WITH ORDINALITY AS item({_COLUMNS})
"""

# The last array tells which items others of the same step make superfluous: these have a sequence, and no row.
PUBLISH = f"""
SELECT CASE WHEN superfluous THEN nextval('ds_broadcaster_sequence') ELSE ds_broadcaster_publish({_COLUMNS}) END
FROM unnest(%s::bytea[], %s::bytea[], %s::text[], %s::bytea[], %s::text[], %s::text[], %s::bool[], %s::bool[])
    WITH ORDINALITY AS item({_COLUMNS}, superfluous)
ORDER BY ordinality
"""

# What is lost with the server need not wait for its disk.
_IS_LOST = "set_config('synchronous_commit', 'off', true)"
PUBLISH_TRANSIENT = f"SELECT ds_broadcaster_publish({_COLUMNS}), {_IS_LOST} FROM {_ITEMS} ORDER BY ordinality"

# The same for one item, which the server plans in less time.
_ITEM = "%s::bytea, %s::bytea, %s::text, %s::bytea, %s::text, %s::text, %s::bool"
PUBLISH_ONE = f"SELECT ds_broadcaster_publish({_ITEM})"
PUBLISH_ONE_TRANSIENT = f"SELECT ds_broadcaster_publish({_ITEM}), {_IS_LOST}"

# Inside an open transaction: a trigger assigns the sequences at commit.
PUBLISH_LATER = f"""
INSERT INTO ds_broadcaster_event ({_COLUMNS}, created)
SELECT {_COLUMNS}, clock_timestamp() FROM {_ITEMS} ORDER BY ordinality
"""

# Whether everything after a cursor on a channel is there and within the limits, whether or not the excess was trimmed.
_COVERED = """(
    coalesce(
        (SELECT floor.sequence FROM ds_broadcaster_floor floor WHERE floor.key = asked.key),
        (SELECT forgotten FROM ds_broadcaster_state)
    ) <= %(cursor)s
    AND NOT EXISTS (
        SELECT FROM ds_broadcaster_event event
        WHERE event.key = asked.key AND event.sequence > %(cursor)s AND event.verb = 'kill'
    )
    AND (
        SELECT count(*) <= %(max_events)s
            AND coalesce(sum(octet_length(later.payload) + %(overhead)s), 0) <= %(max_bytes)s
            AND coalesce(min(later.created) > clock_timestamp() - %(max_age)s * interval '1 second', true)
        FROM (
            SELECT event.payload, event.created FROM ds_broadcaster_event event
            WHERE event.key = asked.key AND event.sequence > %(cursor)s AND event.verb = ''
            ORDER BY event.sequence LIMIT %(max_events)s + 1
        ) later
    )
)"""

# For each channel whether it covers the cursor, and whether it was refreshed since.
LOCATE = f"""
SELECT {_EPOCH}, {_HEAD}, ARRAY(
    SELECT {_COVERED} FROM unnest(%(keys)s::bytea[]) WITH ORDINALITY AS asked(key, position) ORDER BY position
), ARRAY(
    SELECT EXISTS (
        SELECT FROM ds_broadcaster_event event
        WHERE event.key = asked.key AND event.sequence > %(cursor)s AND event.is_refresh
    ) FROM unnest(%(keys)s::bytea[]) WITH ORDINALITY AS asked(key, position) ORDER BY position
)
"""

READ = f"""
SELECT place.epoch, place.covered, event.sequence, event.payload
FROM (SELECT {_EPOCH} AS epoch, {_COVERED} AS covered, asked.key FROM (VALUES (%(key)s::bytea)) asked(key)) place
LEFT JOIN ds_broadcaster_event event
    ON place.covered AND event.key = place.key AND event.sequence > %(cursor)s AND event.verb = ''
ORDER BY event.sequence
"""

COMMANDS = f"""
SELECT payload, sequence, extract(epoch FROM clock_timestamp() - created)::float FROM ds_broadcaster_event
WHERE key = ANY(%s) AND sequence IS NOT NULL AND verb NOT IN ('', '{TRANSIENT}')
    AND created > clock_timestamp() - %s * interval '1 second'
ORDER BY sequence
"""

# What is new for a listener, and of which channels some of it is gone. The newest sequence is of the same snapshot:
# nothing up to it is still to come.
FETCH = f"""
SELECT now.epoch, now.head, now.trimmed, event.sequence, event.key, event.verb, event.payload
FROM (
    SELECT {_EPOCH} AS epoch, {_HEAD} AS head, CASE
        WHEN (SELECT trimmed FROM ds_broadcaster_state) > %(cursor)s THEN ARRAY(
            SELECT floor.key FROM ds_broadcaster_floor floor
            WHERE floor.sequence > %(cursor)s AND floor.key = ANY(%(keys)s)
        ) ELSE '{{}}'::bytea[] END AS trimmed
) now
LEFT JOIN LATERAL (
    SELECT sequence, key, verb, payload FROM (
        SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS size_before FROM (
            SELECT sequence, key, verb, payload FROM ds_broadcaster_event
            WHERE sequence > %(cursor)s AND key = ANY(%(keys)s) ORDER BY sequence LIMIT %(count)s
        ) found
    ) sized WHERE size_before < %(size)s
) event ON true
ORDER BY event.sequence
"""

NOTIFY = "SELECT pg_notify(%s, %s)"

# Deletes what exceeds the limits and stores where its channels begin now, in one step for readers. Publishers only add
# rows, and wait for none of this.
TRIM = f"""
WITH ranked AS (
    SELECT id, verb, created,
        row_number() OVER channel AS position,
        sum(octet_length(payload) + %(overhead)s) OVER channel AS size,
        sum(CASE verb WHEN '{TRANSIENT}' THEN 0 ELSE octet_length(payload) + %(overhead)s END)
            OVER (ORDER BY sequence DESC) AS total
    FROM ds_broadcaster_event WHERE sequence IS NOT NULL
    WINDOW channel AS (PARTITION BY key, verb = '' ORDER BY sequence DESC)
), dropped AS (
    DELETE FROM ds_broadcaster_event event USING ranked
    WHERE event.id = ranked.id AND CASE WHEN ranked.verb = '' THEN
        ranked.position > %(max_events)s OR ranked.size > %(max_bytes)s OR ranked.total > %(max_total_bytes)s
        OR ranked.created <= clock_timestamp() - %(max_age)s * interval '1 second'
    WHEN ranked.verb = '{TRANSIENT}' THEN ranked.created <= clock_timestamp() - {TRANSIENT_AGE} * interval '1 second'
    ELSE ranked.created <= clock_timestamp() - %(commands_age)s * interval '1 second' END
    RETURNING event.key, event.sequence, event.verb
), floors AS (
    INSERT INTO ds_broadcaster_floor AS floor (key, sequence, since)
    SELECT key, max(sequence), clock_timestamp() FROM dropped WHERE verb <> '{TRANSIENT}' GROUP BY key
    ON CONFLICT (key) DO UPDATE SET sequence = greatest(floor.sequence, excluded.sequence), since = excluded.since
), old AS (
    DELETE FROM ds_broadcaster_floor WHERE since < clock_timestamp() - %(commands_age)s * interval '2 seconds'
    AND key NOT IN (SELECT key FROM dropped) RETURNING sequence
)
UPDATE ds_broadcaster_state SET
    trimmed = greatest(trimmed, (SELECT max(sequence) FROM dropped)),
    forgotten = greatest(forgotten, (SELECT max(sequence) FROM old))
WHERE EXISTS (SELECT FROM dropped) OR EXISTS (SELECT FROM old)
"""

# Presence. Two names are of no process. The row without a name stands for the store: its time is when the memory began,
# and names it; it holds the users whose join or leave is still to be told. "settling", where there is such a row, has
# the time from which they are told.

# Inserts nothing where there is a memory.
REMEMBER = """
INSERT INTO ds_broadcaster_process (name, ends) VALUES ('', clock_timestamp()) ON CONFLICT DO NOTHING
"""

# Inserts nothing for the memory itself, for NULL, and where this memory has settled or settles.
SETTLE = """
INSERT INTO ds_broadcaster_process (name, ends)
SELECT 'settling', clock_timestamp() + %s * interval '1 second' FROM ds_broadcaster_process
WHERE name = '' AND extract(epoch FROM ends)::text <> %s
ON CONFLICT DO NOTHING
"""

MEMORY = """
SELECT extract(epoch FROM memory.ends)::text, coalesce(settling.ends <= clock_timestamp(), true)
FROM ds_broadcaster_process memory LEFT JOIN ds_broadcaster_process settling ON settling.name = 'settling'
WHERE memory.name = ''
"""

BURY = """
DELETE FROM ds_broadcaster_process WHERE ends <= clock_timestamp() AND name NOT IN ('', 'settling', %s) RETURNING name
"""

HELD_BY = """
SELECT key, channel, who FROM ds_broadcaster_holding WHERE process = ANY(%s)
"""

BURY_HOLDINGS = """
DELETE FROM ds_broadcaster_holding WHERE process = ANY(%s)
"""

LIVE = """
INSERT INTO ds_broadcaster_process (name, ends) VALUES (%s, clock_timestamp() + %s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET ends = excluded.ends
RETURNING xmax <> 0
"""

# Returns since when each user is there, as told by any process.
HOLD = """
INSERT INTO ds_broadcaster_holding (process, key, channel, who, connections, since, is_away, tabs)
SELECT %s, key, channel, who, connections, least(since, (
    SELECT min(holding.since) FROM ds_broadcaster_holding holding
    WHERE holding.key = told.key AND holding.who = told.who AND holding.since > 0
)), is_away, tabs
FROM unnest(%s::bytea[], %s::bytea[], %s::text[], %s::int[], %s::float[], %s::bool[], %s::text[])
    AS told(key, channel, who, connections, since, is_away, tabs)
ON CONFLICT (process, key, who) DO UPDATE
SET connections = excluded.connections, since = excluded.since, is_away = excluded.is_away, tabs = excluded.tabs
RETURNING key, who, since
"""

LET_GO = """
DELETE FROM ds_broadcaster_holding holding USING unnest(%s::bytea[], %s::text[]) AS told(key, who)
WHERE holding.process = %s AND holding.key = told.key AND holding.who = told.who
RETURNING holding.key, holding.who
"""

# Of these users on these channels, those whom a process has, and whether they are away in all that do.
ONLINE = """
SELECT holding.key, holding.who, bool_and(holding.is_away)
FROM unnest(%s::bytea[], %s::text[]) AS told(key, who)
JOIN ds_broadcaster_holding holding
    ON holding.key = told.key AND holding.who = told.who AND holding.process <> ''
GROUP BY holding.key, holding.who
"""

NEXT_END = """
SELECT extract(epoch FROM min(ends) - clock_timestamp())::float FROM ds_broadcaster_process
WHERE name NOT IN ('', 'settling') OR ends > clock_timestamp()
"""

_IS_LIVING = "process.ends > clock_timestamp() AND process.name NOT IN ('', 'settling')"

USERS = f"""
SELECT holding.who, holding.connections FROM ds_broadcaster_holding holding
JOIN ds_broadcaster_process process ON process.name = holding.process AND {_IS_LIVING}
WHERE holding.key = %s AND holding.who <> '' AND holding.process <> ALL(%s)
"""

PARTS = f"""
SELECT holding.who, holding.since, holding.is_away, holding.tabs FROM ds_broadcaster_holding holding
JOIN ds_broadcaster_process process ON process.name = holding.process AND {_IS_LIVING}
WHERE holding.key = %s AND holding.who <> '' AND holding.process <> ALL(%s)
"""

SHARES = f"""
SELECT process.name, holding.channel, holding.connections
FROM ds_broadcaster_process process
LEFT JOIN ds_broadcaster_holding holding
    ON holding.process = process.name AND holding.who = '' AND holding.connections > 0
WHERE {_IS_LIVING} AND process.name <> ALL(%s)
ORDER BY process.name
"""


def limits_of(history: History) -> dict[str, float]:
    """Return the limits of a history as these statements name them."""
    return {
        **history.model_dump(),
        "overhead": FRAME_OVERHEAD,
        "commands_age": max(history.max_age, COMMANDS_KEPT),
    }
