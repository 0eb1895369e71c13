"""The outbox: changes are sent after their commit, in one go."""

import logging
from collections.abc import Collection, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Model

from ..broadcaster import broadcast
from ..brokers import Event
from ..exceptions import BrokerUnavailable
from ..ids import key_of
from ..sending import waiting
from ..sse import REFRESH
from ..streams.tabs import audience_facts, facts_of, refresh_facts
from .changes import RELATED, Change, as_parent, copy_of, is_child, log_failure, merged
from .dirty_fields import former_values, mark_dirty, note_saved
from .options import Options, channels_of
from .rendering import CREATED, DELETED, UPDATED, Told, render_change
from .touches import FETCH_SIZE, expanded

logger = logging.getLogger("ds_broadcaster")

# Events and bytes that are published in one batch: the broker does nothing else meanwhile.
BATCH_EVENTS, BATCH_BYTES = 100, 1 << 20


def enqueue(
    faces: Iterable[Options],
    instance: Model,
    using: str,
    kind: str,
    values: dict[str, Any] | None = None,
    update_fields: Collection[str] | None = None,
    channels: tuple[str, ...] | None = None,
) -> list[Change]:
    """Queue a change of an object in each face for its commit; outside of transactions return them instead.

    `values` are those of the tracked fields, `update_fields` those of the save, and `channels` where they are known.
    Errors are logged.
    """
    connection = transaction.get_connection(using)
    # Otherwise it is saved already, even where the project ends transactions by hand: on_commit() would raise there.
    is_waiting = connection.in_atomic_block
    changes = []
    for options in faces:
        try:
            seen = _as_seen(options, instance, is_copy=is_waiting)
            names = channels
            if not is_waiting and channels is None and not is_stale(options, instance):
                names = channels_of(options.channel(seen))
            former = _former(options, instance, update_fields) if options.moves and kind is UPDATED else ()
            if is_waiting or names != () or former:
                change = Change(options, seen, using, kind, names)
                change.former = former
                changes.append(change)
        except Exception:
            log_failure(options, instance, kind)
    if not is_waiting:
        if values:
            note_saved(instance, values)
        return changes
    if values:
        mark_dirty(instance, values)
    context = copy_context()
    for change in changes:
        if values:
            change.saved, values = (instance, values), None
        change.wait(connection, context, flush)
    return []


def _as_seen(options: Options, instance: Model, *, is_copy: bool) -> Model:
    """Return the object as a face takes it: a child as an object of the model that has the face."""
    if type(instance) is not options.model and is_child(instance, options.model):
        return as_parent(instance, options.model)
    return copy_of(instance) if is_copy else instance


def _former(
    options: Options, instance: Model, update_fields: Collection[str] | None
) -> tuple[tuple[Model, tuple[str, ...]], ...]:
    """Return the object as it was before it moved, with its channels; nothing where it did not move."""
    values = former_values(options.moves, instance, update_fields)
    if not values:
        return ()
    former = _as_seen(options, instance, is_copy=True)
    for attribute, value in values.items():
        setattr(former, attribute, value)  # A relation forgets what it has loaded.
    return ((former, channels_of(options.channel(former))),)


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
        changes = expanded(changes)
        if len(changes) > 1:
            changes = merged(changes)
        refetch(changes)
        told = Told() if len(changes) > 1 else None
        refreshed: dict[str, str | None] = {}
        for number, change in enumerate(changes):
            try:
                if change.options.refreshes or change.kind is RELATED:
                    _refresh(change, refreshed)
                    continue
                events = _events(change, told)
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
        if refreshed:
            batches = batches or _Batches(changes)
            events = [Event(name, REFRESH, refresh_facts(tab)) for name, tab in refreshed.items()]
            batches.add(len(changes) - 1, events)
        if batches is not None:
            batches.publish()
    except Exception:
        logger.exception("%d changes were saved, but not broadcast.", len(changes))
    finally:
        waiting.publish = outer


def refetch(changes: list[Change]) -> None:
    """Fetch stale instances again, with one query a model, and drop the changes of deleted ones."""
    wanted: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        if change.kind not in (DELETED, RELATED) and not change.is_fresh and is_stale(change.options, change.instance):
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


def _channels(change: Change) -> tuple[str, ...]:
    return channels_of(change.options.channel(change.instance)) if change.channels is None else change.channels


def _refresh(change: Change, refreshed: dict[str, str | None]) -> None:
    """Add the channels of a change to those that are refreshed, with the tab that is left out."""
    former = [name for _, names in change.former for name in names]
    for channel in (*_channels(change), *former):
        # A tab that made one of the changes does not know of the others.
        is_same = refreshed.setdefault(channel, change.tab) == change.tab
        refreshed[channel] = change.tab if is_same else None


def _events(change: Change, told: Told | None) -> list[Event]:
    channels = _channels(change)
    if not change.former:
        return _send(change, change.instance, change.kind, channels, told)
    events: list[Event] = []
    stayed: set[str] = set()
    left = set(channels)
    for former, names in change.former:
        stayed.update(names)
        events += _send(change, former, DELETED, [name for name in names if name not in left], told)
        left.update(names)
    if change.kind is not UPDATED:
        return events + _send(change, change.instance, change.kind, channels, told)
    events += _send(change, change.instance, UPDATED, [name for name in channels if name in stayed], told)
    return events + _send(change, change.instance, CREATED, [name for name in channels if name not in stayed], told)


def _send(change: Change, instance: Model, kind: str, channels: Sequence[str], told: Told | None) -> list[Event]:
    if channels and told is not None:
        channels = told.news_for(change.options, instance, kind, channels)
    if not channels:
        return []
    events: list[Event] = []
    tell = None if told is None else partial(told.note, change.options, instance, channels)
    for payload in render_change(change.options, instance, kind, change.context, tell):
        # Once for all channels, of which there may be thousands.
        facts = (audience_facts if payload.is_audience else facts_of)(payload.data, exclude=change.tab)
        events += [Event(channel, payload.data, facts) for channel in channels]
    return events
