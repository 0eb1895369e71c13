"""The PostgreSQL broker: publishing on Django's connection, in the project's transactions. See listener.py for hubs."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections

from ...compaction import superfluous
from ...conf import History
from ...exceptions import BrokerUnavailable, Gap
from ...ids import parse_id
from ...sse import PLAIN, Facts, Frame
from ..base import COMMANDS_KEPT, EVERYWHERE, LEASE, Command, Event, GivenCommand, Position, Receiver, T, frame
from ..joining import Joining
from ..network import MalformedLog, NetworkBroker
from ..packing import encoded, pack_command, pack_event, unpack_command, unpack_event
from . import statements
from .listener import PostgresListener
from .presence import PostgresPresence
from .session import Session, Sessions, ask, asking, execute

# Seconds between two sweeps of a process.
SWEEP_INTERVAL = 10
# Seconds for one sweep: a table too long to be swept in this time would grow without end.
SWEEP_PATIENCE = 120


class PostgresBroker(NetworkBroker):
    """Carries over a PostgreSQL database of the project; needs "ds_broadcaster.contrib.postgres" in INSTALLED_APPS.

    LOCATION is an alias in DATABASES, "default" by default. Events sent inside a transaction on that database are
    published at its commit. OPTIONS may have:

    - `listen`: the alias by which hubs reach the server where LOCATION goes through a pooler in transaction mode;
    - `lease`: see LEASE.
    """

    server = "PostgreSQL"

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        self._alias = _checked_alias("LOCATION", location or DEFAULT_DB_ALIAS)
        self._listening_alias = _checked_alias("OPTIONS['listen']", options.get("listen", self._alias))
        if unknown := options.keys() - {"listen", "lease"}:
            raise ImproperlyConfigured(
                f"DS_BROADCASTER_BROKER['OPTIONS'] of the PostgreSQL broker may have listen and lease, not "
                f"{', '.join(sorted(unknown))}."
            )
        if not apps.is_installed("ds_broadcaster.contrib.postgres"):
            raise ImproperlyConfigured(
                'The PostgreSQL broker needs its tables: add "ds_broadcaster.contrib.postgres" to INSTALLED_APPS, and '
                "run `manage.py migrate`."
            )
        self._malformed = MalformedLog(self.server)
        self._sessions = Sessions(self._listening_alias)
        self.presence = PostgresPresence(self._alias, self._sessions, options.get("lease", LEASE), self._malformed)
        self._limits = statements.limits_of(history)
        self._joining = Joining(self._publish_now, _size_of)
        self._swept = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        # In the thread where an async view's queries run, and in its transaction.
        return await sync_to_async(function)(*args)

    # Publishing.

    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        return self._publish([_item(channel, payload, facts)])

    def publish_all(self, events: Sequence[Event]) -> None:
        if events:
            self._publish([_item(*each) for each in events])

    def command(self, channel: str, command: Command) -> None:
        text = pack_command(channel, command)
        self._publish([_Item(statements.key_of(channel), encoded(channel), command.verb, text)])

    def _publish(self, items: "list[_Item]") -> int | None:
        with asking(self._alias) as connection:
            if not connection.get_autocommit():
                # The events belong to this transaction.
                with connection.cursor() as cursor:
                    cursor.execute(statements.PUBLISH_LATER, _columns(items))
                return None
        return self._joining.publish(items)

    def _publish_now(self, items: "list[_Item]") -> Sequence[int]:
        is_transient = all(each.verb == statements.TRANSIENT for each in items)
        values: Sequence[Any]
        if len(items) == 1:
            statement = statements.PUBLISH_ONE_TRANSIENT if is_transient else statements.PUBLISH_ONE
            values = items[0]
        else:
            statement = statements.PUBLISH_TRANSIENT if is_transient else statements.PUBLISH
            values = _columns(items) if is_transient else (*_columns(items), _superfluous(items))
        with asking(self._alias) as connection:
            return [row[0] for row in execute(connection, statement, values)]

    # Positions and history.

    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        parsed = parse_id(event_id) if event_id else None
        epoch, sequence = parsed or ("", 0)
        parameters = {**self._limits, "cursor": sequence, "keys": [statements.key_of(each) for each in channels]}
        [(now, granted, covered, refreshed)] = ask(self._alias, statements.LOCATE, parameters)
        if now is None:
            ask(self._alias, statements.BEGIN, ())
            [(now, granted, covered, refreshed)] = ask(self._alias, statements.LOCATE, parameters)
        self.on_epoch(now)
        if not event_id:
            return Position(now, granted, granted)
        is_foreign = epoch != now or sequence > granted
        gaps = frozenset(name for name, is_there in zip(channels, covered, strict=True) if is_foreign or not is_there)
        since = frozenset(name for name, is_since in zip(channels, refreshed, strict=True) if is_since)
        return Position(now, granted, granted if len(gaps) == len(channels) else sequence, gaps, since)

    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        parameters = {**self._limits, "cursor": cursor, "key": statements.key_of(channel)}
        async with self._sessions.current() as session:
            rows = await session.fetch(statements.READ, parameters)
        if not rows[0][1]:
            raise Gap(f"{channel!r} no longer holds what came after {cursor}.")
        self.on_epoch(rows[0][0])
        events = []
        for epoch, _, number, packed in rows:
            if number is not None:
                with self._malformed.skipping(channel):
                    events.append((number, frame(epoch, number, *unpack_event(packed))))
        return events

    async def commands(self, channels: Collection[str], seconds: float) -> list[GivenCommand]:
        keys = [statements.key_of(channel) for channel in {*channels, EVERYWHERE}]
        async with self._sessions.current() as session:
            rows = await session.fetch(statements.COMMANDS, (keys, min(seconds, COMMANDS_KEPT)))
        found = []
        for payload, sequence, age in rows:
            with self._malformed.skipping(""):
                found.append(GivenCommand(unpack_command(payload)[1], sequence, age))
        return found

    def sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept > SWEEP_INTERVAL and not self._tasks:
            self._swept = now
            task = asyncio.get_running_loop().create_task(self._sweep())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        # On a connection of its own: on the hub's, new events would wait.
        session = Session(self._listening_alias, SWEEP_PATIENCE)
        try:
            with contextlib.suppress(BrokerUnavailable):  # The next sweep is not far.
                async with session.transaction() as connection:
                    cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (statements.TRIM_LOCK,))
                    is_mine = await cursor.fetchone()
                    if is_mine is not None and is_mine[0]:
                        await connection.execute(statements.TRIM, self._limits)
        finally:
            await session.close()

    # Hubs.

    def create_listener(self, receiver: Receiver) -> PostgresListener:
        session = self._sessions.create(receiver)
        return PostgresListener(receiver, session, self._listening_alias, self._limits, self.on_epoch, self._malformed)

    def detach(self, receiver: Receiver) -> None:
        super().detach(receiver)
        self._sessions.discard(receiver)

    def check(self) -> list[CheckMessage]:
        options = connections.settings[self._alias].get("OPTIONS", {})
        if "connect_timeout" in options:
            return []
        return [
            Warning(
                f"broadcast() may wait for minutes while the server of DATABASES[{self._alias!r}] cannot be reached.",
                hint='Write "OPTIONS": {"connect_timeout": 2} there.',
                id="ds_broadcaster.W003",
            )
        ]


class _Item(NamedTuple):
    """A row to publish, as the arguments of statements.PUBLISH_ONE have it."""

    key: bytes
    channel: bytes
    verb: str
    payload: bytes
    replaces: str | None = None
    excluded: str = ""
    is_refresh: bool = False


def _item(channel: str, payload: bytes, facts: Facts = PLAIN) -> _Item:
    verb = statements.TRANSIENT if facts.is_transient else ""
    packed = pack_event(payload, facts)
    key, name = statements.key_of(channel), encoded(channel)
    return _Item(key, name, verb, packed, facts.replaces, facts.exclude or "", facts.is_refresh)


def _columns(items: Sequence[_Item]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*items, strict=True)))


def _superfluous(items: Sequence[_Item]) -> list[bool]:
    """Tell which of the items others of them make superfluous: to the server each would be a row to add and to take."""
    return [later is not None for later in superfluous((each.key, _facts_of(each)) for each in items)]


def _facts_of(item: _Item) -> Facts | None:
    if item.verb and item.verb != statements.TRANSIENT:
        return None
    return Facts(item.excluded or None, is_transient=bool(item.verb), replaces=item.replaces)


def _size_of(item: _Item) -> int:
    return len(item.payload)


def _checked_alias(argument: str, alias: Any) -> str:
    """Return the alias of a PostgreSQL database; raises ImproperlyConfigured for anything else."""
    if not isinstance(alias, str) or alias not in connections.settings:
        raise ImproperlyConfigured(
            f"DS_BROADCASTER_BROKER: {argument} must be an alias in DATABASES for the PostgreSQL broker, such as "
            f'"{DEFAULT_DB_ALIAS}". The URL and the password of a server belong there.'
        )
    if connections[alias].vendor != "postgresql":
        raise ImproperlyConfigured(
            f"DS_BROADCASTER_BROKER: {argument} names the database {alias!r}, which is not PostgreSQL but "
            f"{connections[alias].vendor}."
        )
    return alias
