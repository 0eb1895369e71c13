"""The outbox: changes wait for the commit, are merged, and are sent in one go."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from itertools import count
from typing import Any
from weakref import ref

from django.db import transaction
from django.db.models import Model

from ..broadcaster import broadcast
from ..brokers import Event
from ..exceptions import BrokerUnavailable
from ..ids import key_of
from ..sending import waiting
from ..streams.tabs import current_tab, facts_of
from .dirty_fields import mark_dirty, note_saved
from .options import Options, channels_of
from .rendering import CREATED, DELETED, UPDATED, UPSERT, render_change

logger = logging.getLogger("ds_broadcaster")

# Objects of one model that one query fetches again; SQLite used to stop at 999 parameters.
FETCH_SIZE = 500

# Events and bytes that are published in one batch: the broker does nothing else meanwhile.
BATCH_EVENTS, BATCH_BYTES = 100, 1 << 20

_PENDING = "_ds_broadcaster_pending"


class Change:
    """One change of one object, and its own on_commit() callback.

    Each change is a callback of its own because that alone tells which changes a savepoint's rollback took back:
    Django then drops the only strong reference to them. So the connection keeps weak references, and the first change
    that is called takes all later ones that are still alive with it. Earlier ones that were not called stay: they
    belong to a transaction that has not ended, such as the one that a TestCase wraps around its tests.
    """

    __slots__ = (
        "__weakref__",
        "channels",
        "context",
        "instance",
        "kind",
        "number",
        "options",
        "pending",
        "saved",
        "sent",
        "tab",
        "using",
    )

    def __init__(
        self, options: Options, instance: Model, using: str, kind: str, channels: tuple[str, ...] | None = None
    ) -> None:
        self.options = options
        self.instance = instance
        self.using = using
        self.kind = kind
        # None until it is sent, except for deletions.
        self.channels = channels
        # The context of the save, where the transaction goes on: another language may be active at its end. To copy
        # all of it takes less time than to ask Django for the language.
        self.context: Context | None = None
        self.tab = current_tab() if options.exclude_sender else None
        # The caller's instance, and the values that the database holds after the commit.
        self.saved: tuple[Model, Mapping[str, Any]] | None = None
        self.number = -1
        self.sent = False

    def wait(self, connection: Any) -> None:
        """Wait for the commit of the connection's transaction."""
        # Later changes of the instance are not saved, or are changes of their own.
        self.instance = copy_of(self.instance)
        self.context = copy_context()
        self.pending = pending_of(connection)
        self.pending.add(self)
        connection.on_commit(self)

    def __call__(self) -> None:
        if self.sent:
            return
        survivors = self.pending.take(self)
        for change in survivors:
            change.sent = True
            if change.saved is not None:
                note_saved(*change.saved)
        flush(survivors)


class Pending:
    """The changes that wait for a connection's commits, in their order, while Django holds them."""

    def __init__(self) -> None:
        self._references: list[ref[Change]] = []
        self._numbers = count()
        self._enough = 64

    def add(self, change: Change) -> None:
        """Add a change as the last one."""
        change.number = next(self._numbers)
        self._references.append(ref(change))
        if len(self._references) > self._enough:
            # The references to changes that were rolled back are still there.
            self._references = [each for each in self._references if each() is not None]
            self._enough = 2 * len(self._references) + 64

    def take(self, first: Change) -> list[Change]:
        """Remove and return a change and those after it."""
        alive = self.alive()
        self._references = [ref(change) for change in alive if change.number < first.number]
        return [change for change in alive if change.number >= first.number]

    def alive(self) -> list[Change]:
        """Return the changes that were not rolled back."""
        return [change for each in self._references if (change := each()) is not None]


def pending_of(connection: Any) -> Pending:
    """Return the changes that wait for the commits of a connection."""
    pending: Pending | None = getattr(connection, _PENDING, None)
    if pending is None:
        pending = Pending()
        setattr(connection, _PENDING, pending)
    return pending


def enqueue(
    options: Options,
    instance: Model,
    using: str,
    kind: str,
    values: dict[str, Any] | None,
    channels: tuple[str, ...] | None = None,
) -> list[Change]:
    """Queue a change for its commit; outside of transactions return it instead, unless it has no channel.

    `values` are those of the fields that are broadcast, for options that name some.
    """
    connection = transaction.get_connection(using)
    if connection.in_atomic_block:
        change = Change(options, instance, using, kind, channels)
        if values:
            mark_dirty(instance, values)
            change.saved = (instance, values)
        change.wait(connection)
        return []
    # Saved already, even where the project ends transactions by hand: on_commit() would raise there.
    if values:
        note_saved(instance, values)
    if channels is None and not is_stale(options, instance):
        channels = channels_of(options.channel(instance))
    return [] if channels == () else [Change(options, instance, using, kind, channels)]


def copy_of(instance: Model) -> Model:
    """Return a copy of the instance, with the related objects it has loaded."""
    copy = type(instance).__new__(type(instance))
    copy.__dict__.update(instance.__dict__)
    state = type(instance._state)()
    state.__dict__.update(instance._state.__dict__)
    # ModelState.__del__() empties its cache.
    state.fields_cache = instance._state.fields_cache.copy()
    copy._state = state
    return copy


class _Batches:
    """Publishes the events of one transaction's changes, many at once. Failures are logged."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._events: list[Event] = []
        self._size = 0
        # The first and last change of the next batch.
        self._begin = self._end = 0
        # An unavailable broker is not asked again: each time may take as long as the first.
        self.has_given_up = False

    def add(self, number: int, events: Sequence[Event]) -> None:
        """Add the events of a change, and publish each full batch; one change may fill several."""
        for event in events:
            size = len(event.payload)
            if self._size + size > BATCH_BYTES:
                self.publish()
            if not self._events:
                self._begin = number
            self._end = number
            self._events.append(event)
            self._size += size
            if len(self._events) >= BATCH_EVENTS:
                self.publish()

    def publish(self) -> None:
        """Publish the events that were added since the last batch."""
        events, self._events, self._size = self._events, [], 0
        if not events or self.has_given_up:
            return
        try:
            broadcast.send_all(events)
        except Exception as error:
            self.has_given_up = isinstance(error, BrokerUnavailable)
            first, end = self._changes[self._begin], len(self._changes) - 1 if self.has_given_up else self._end
            if end == self._begin:
                log_failure(first.options, first.instance, first.kind)
            else:
                logger.exception(
                    "Some or all of %d changes, from %s %r on, were saved, but not broadcast.",
                    end - self._begin + 1,
                    first.instance._meta.label,
                    first.instance.pk,
                )


def flush(changes: list[Change]) -> None:
    """Send the changes of one transaction. Errors are logged: the changes are saved all the same."""
    outer = waiting.publish
    batches: _Batches | None = None
    try:
        if outer is not None:
            outer()  # A hook saves something: changes from before it go first.
        if len(changes) > 1:
            changes = merged(changes)
        refetch(changes)
        for number, change in enumerate(changes):
            try:
                events = _events(change)
            except Exception:
                log_failure(change.options, change.instance, change.kind)
                continue
            if events:
                if batches is None:
                    batches = _Batches(changes)
                    # For hooks that save or send something themselves.
                    waiting.publish = batches.publish
                batches.add(number, events)
                if batches.has_given_up:
                    return
        if batches is not None:
            batches.publish()
    except Exception:
        logger.exception("%d changes were saved, but not broadcast.", len(changes))
    finally:
        waiting.publish = outer


def merged(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are left when only the last state of each element counts."""
    left: dict[tuple[Any, ...], Change] = {}
    removed = set()
    for change in changes:
        element = (change.using, change.instance._meta.concrete_model, str(key_of(change.instance)))
        before = left.get(element)
        if change.kind is DELETED:
            left.pop(element, None)
            removed.add(element)
            left[(*element, change.channels)] = change
        elif before is not None:
            if before.kind is CREATED or change.kind is not before.kind:
                change.kind = CREATED if before.kind is CREATED else UPSERT
            left[element] = change
        elif change.kind is not UPDATED or element not in removed:
            left[element] = change
    return list(left.values())


def refetch(changes: list[Change]) -> None:
    """Fetch stale instances again, with one query a model, and drop the changes of deleted ones."""
    wanted: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        if change.kind is not DELETED and is_stale(change.options, change.instance):
            key = (type(change.instance), change.using, change.options.select_related)
            wanted.setdefault(key, []).append(change)
    for (model, using, joins), stale in wanted.items():
        found: dict[Any, Model] = {}
        try:
            objects = model._base_manager.using(using)
            if joins:
                objects = objects.select_related(*joins)
            for begin in range(0, len(stale), FETCH_SIZE):
                keys = [change.instance.pk for change in stale[begin : begin + FETCH_SIZE]]
                found |= {each.pk: each for each in objects.filter(pk__in=keys)}
        except Exception:
            for change in stale:
                log_failure(change.options, change.instance, change.kind)
        gone = set()
        for change in stale:
            key = key_of(change.instance)
            if key in found:
                change.instance = found[key]
            else:
                gone.add(id(change))
        changes[:] = [change for change in changes if id(change) not in gone]


def is_stale(options: Options, instance: Model) -> bool:
    """Tell whether an instance must be fetched again before its hooks are called."""
    if options.select_related:
        return True
    # A list takes half as long as a generator, on each save.
    return any([hasattr(value, "resolve_expression") for value in instance.__dict__.values()])  # noqa: C419


def _events(change: Change) -> list[Event]:
    channels = change.channels
    if channels is None:
        channels = channels_of(change.options.channel(change.instance))
    if not channels:
        return []
    events: list[Event] = []
    for payload in render_change(change.options, change.instance, change.kind, change.context):
        facts = facts_of(payload, change.tab)  # Once for all channels, of which there may be thousands.
        events += [Event(channel, payload, facts) for channel in channels]
    return events


def log_failure(options: Options, instance: Model, kind: str) -> None:
    """Log the exception that is being handled: it must not break the save."""
    error = sys.exception()
    try:
        template = ", ".join(options.template_names(instance))
    except Exception:
        template = "unknown"
    label, pk = instance._meta.label, instance.pk
    logger.error("%s %r was %s, but not broadcast (template: %s).", label, pk, kind, template, exc_info=error)
