"""From a save to its broadcast: changes wait for the commit, are merged, and are sent in one go."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from itertools import count
from typing import Any
from weakref import ref

from django.db.models import Model

from ..broadcaster import broadcast, facts_of, waiting
from ..brokers import Event
from ..exceptions import BrokerUnavailable
from ..ids import key_of
from ..streams.tabs import current_tab
from .dirty_fields import remember
from .options import Rules, channels_of
from .rendering import CREATED, DELETED, EITHER, UPDATED, payloads_of

logger = logging.getLogger("ds_broadcaster")

# Objects of one model that one query fetches again; SQLite used to stop at 999 parameters.
FETCHED = 500

# Events, and bytes, that are published in one step: the broker does nothing else meanwhile.
AT_ONCE, AT_ONCE_BYTES = 100, 1 << 20

_PENDING = "_ds_broadcaster_pending"


class Change:
    """One change of one object. Calling it is what on_commit() does.

    Each change registers itself, because that alone tells which of them a savepoint's rollback took back: Django
    then drops the only strong reference to it. So the connection keeps weak references, and the first change that
    is called takes all later ones that are still alive with it. Earlier ones that were never called are not taken:
    they belong to a transaction that has not ended, such as the one that a TestCase wraps around its tests.
    """

    __slots__ = (
        "__weakref__",
        "channels",
        "context",
        "instance",
        "kind",
        "news",
        "number",
        "pending",
        "rules",
        "sent",
        "tab",
        "using",
    )

    def __init__(
        self, rules: Rules, instance: Model, using: str, kind: str, channels: tuple[str, ...] | None = None
    ) -> None:
        self.rules = rules
        self.instance = instance
        self.using = using
        self.kind = kind
        # None where they are to be asked for when it is sent.
        self.channels = channels
        # That of the save, where the transaction goes on: another language may be active when it ends. To keep all of
        # it takes less time than to ask Django which language that is.
        self.context: Context | None = None
        self.tab = current_tab() if rules.exclude_sender else None
        self.news: tuple[Model, Mapping[str, Any]] | None = None
        self.number = -1
        self.sent = False

    def wait(self, connection: Any) -> None:
        """Be sent with the connection's transaction."""
        # What happens to the instance from here on was not saved, or is a change of its own.
        self.instance = snapshot(self.instance)
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
            if change.news is not None:
                remember(*change.news)
        flush(survivors)


class Pending:
    """The changes that wait for a connection's commits, in their order, as long as something else holds them."""

    def __init__(self) -> None:
        self._references: list[ref[Change]] = []
        self._numbers = count()
        self._enough = 64

    def add(self, change: Change) -> None:
        """Add a change as the last one."""
        change.number = next(self._numbers)
        self._references.append(ref(change))
        if len(self._references) > self._enough:
            # Rolled back changes leave their references behind.
            self._references = [each for each in self._references if each() is not None]
            self._enough = 2 * len(self._references) + 64

    def take(self, first: Change) -> list[Change]:
        """Remove and return a change and those after it."""
        alive = self.alive()
        self._references = [ref(change) for change in alive if change.number < first.number]
        return [change for change in alive if change.number >= first.number]

    def alive(self) -> list[Change]:
        """Return the changes that nobody dropped."""
        return [change for each in self._references if (change := each()) is not None]


def pending_of(connection: Any) -> Pending:
    """Return what waits for the commits of a connection."""
    pending: Pending | None = getattr(connection, _PENDING, None)
    if pending is None:
        pending = Pending()
        setattr(connection, _PENDING, pending)
    return pending


def snapshot(instance: Model) -> Model:
    """Return the instance as it is now, with what it has loaded so far."""
    copy = type(instance).__new__(type(instance))
    copy.__dict__.update(instance.__dict__)
    state = type(instance._state)()
    state.__dict__.update(instance._state.__dict__)
    # A state that goes away empties its cache.
    state.fields_cache = instance._state.fields_cache.copy()
    copy._state = state
    return copy


class _Steps:
    """What the changes of one transaction say, on its way to the broker: many events a step. Failures are logged."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._events: list[Event] = []
        self._size = 0
        # The changes that the next step is about.
        self._begin = self._end = 0
        # The broker is not asked again: each time may take as long as the first.
        self.is_given_up = False

    def add(self, number: int, events: Sequence[Event]) -> None:
        """Add what a change says, and publish what is enough for a step; one change may be worth several."""
        for event in events:
            if not self._events:
                self._begin = number
            self._end = number
            self._events.append(event)
            self._size += len(event.payload)
            if len(self._events) >= AT_ONCE or self._size >= AT_ONCE_BYTES:
                self.publish()

    def publish(self) -> None:
        """Publish what was added so far."""
        events, self._events, self._size = self._events, [], 0
        if not events or self.is_given_up:
            return
        try:
            broadcast._publish_all(events)
        except Exception as error:
            self.is_given_up = isinstance(error, BrokerUnavailable)
            first, end = self._changes[self._begin], len(self._changes) - 1 if self.is_given_up else self._end
            if end == self._begin:
                log_failure(first.rules, first.instance, first.kind)
            else:
                logger.exception(
                    "Some or all of %d changes, from %s %s on, were saved, but not broadcast.",
                    end - self._begin + 1,
                    first.instance._meta.label,
                    first.instance.pk,
                )


def flush(changes: list[Change]) -> None:
    """Send the changes of one transaction. What goes wrong is logged: they are saved, whatever happens here."""
    outer = waiting.publish
    steps: _Steps | None = None
    try:
        if outer is not None:
            outer()  # A hook saves something, while what was saved before it waits.
        if len(changes) > 1:
            changes = merged(changes)
        refetch(changes)
        for number, change in enumerate(changes):
            try:
                events = _events(change)
            except Exception:
                log_failure(change.rules, change.instance, change.kind)
                continue
            if events:
                if steps is None:
                    steps = _Steps(changes)
                    if len(changes) > 1:
                        # For hooks that save or send something themselves.
                        waiting.publish = steps.publish
                steps.add(number, events)
                if steps.is_given_up:
                    return
        if steps is not None:
            steps.publish()
    except Exception:
        logger.exception("%d changes were saved, but not broadcast.", len(changes))
    finally:
        waiting.publish = outer


def merged(changes: Sequence[Change]) -> list[Change]:
    """Return what is left of the changes when only the last state of each element counts."""
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
                change.kind = CREATED if before.kind is CREATED else EITHER
            left[element] = change
        elif change.kind is not UPDATED or element not in removed:
            left[element] = change
    return [change for change in left.values() if change.kind is not DELETED or change.channels]


def refetch(changes: list[Change]) -> None:
    """Replace the instances that are to be fetched again, with one query a model; those that are gone drop out."""
    wanted: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        if change.kind is not DELETED and is_stale(change.rules, change.instance):
            key = (type(change.instance), change.using, tuple(change.rules.select_related))
            wanted.setdefault(key, []).append(change)
    for (model, using, joins), stale in wanted.items():
        found: dict[Any, Model] = {}
        try:
            objects = model._base_manager.using(using)
            if joins:
                objects = objects.select_related(*joins)
            for begin in range(0, len(stale), FETCHED):
                keys = [change.instance.pk for change in stale[begin : begin + FETCHED]]
                found |= {each.pk: each for each in objects.filter(pk__in=keys)}
        except Exception:
            for change in stale:
                log_failure(change.rules, change.instance, change.kind)
        gone = set()
        for change in stale:
            key = key_of(change.instance)
            if key in found:
                change.instance = found[key]
            else:
                gone.add(id(change))
        changes[:] = [change for change in changes if id(change) not in gone]


def is_stale(rules: Rules, instance: Model) -> bool:
    """Tell whether an instance must be fetched again before anybody looks at it."""
    if rules.select_related:
        return True
    # A list takes half as long as a generator, on each save.
    return any([hasattr(value, "resolve_expression") for value in instance.__dict__.values()])  # noqa: C419


def _events(change: Change) -> list[Event]:
    channels = change.channels
    if channels is None:
        channels = channels_of(change.rules.channel(change.instance))
    if not channels:
        return []
    payloads = payloads_of(change.rules, change.instance, change.kind, change.context)
    # Once for all channels, of which there may be thousands.
    facts = [facts_of(payload, change.tab) for payload in payloads]
    return [Event(channel, *each) for each in zip(payloads, facts, strict=True) for channel in channels]


def log_failure(rules: Rules, instance: Model, kind: str) -> None:
    """Log the exception that is being handled, which must not break the save that it comes from."""
    error = sys.exception()
    try:
        template = ", ".join(rules.template_names(instance))
    except Exception:
        template = "unknown"
    label, pk = instance._meta.label, instance.pk
    logger.error("%s %s was %s, but not broadcast (template: %s).", label, pk, kind, template, exc_info=error)
