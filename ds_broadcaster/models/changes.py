"""Changes: what waits for the commits of a connection, and how the changes of one transaction are merged."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from itertools import count
from typing import Any
from weakref import ref

from django.db.models import Model

from ..ids import key_of
from ..streams.tabs import current_tab
from .dirty_fields import note_saved
from .options import Options
from .rendering import CREATED, DELETED, UPDATED, UPSERT

logger = logging.getLogger("ds_broadcaster")

# Nothing is known but the channels of what changed: those of objects that a relation joins, for example.
RELATED = "related to others"

_PENDING = "_ds_broadcaster_pending"


class Change:
    """One change of one object in one face, and its own on_commit() callback.

    Each change is a callback of its own because that alone tells which changes a savepoint's rollback took back:
    Django then drops the only strong reference to them. So the connection keeps weak references, and the first change
    that is called takes all later ones that are still alive with it. Earlier ones that were not called stay: they
    belong to a transaction that has not ended, such as the one that a TestCase wraps around its tests.
    """

    __slots__ = (
        "__weakref__",
        "channels",
        "context",
        "former",
        "instance",
        "is_fresh",
        "kind",
        "number",
        "options",
        "pending",
        "saved",
        "send",
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
        # The object as it was before it moved, and the channels that it had then.
        self.former: tuple[tuple[Model, tuple[str, ...]], ...] = ()
        # Whether it was fetched after the commit.
        self.is_fresh = False
        # The context of the save, where the transaction goes on: another language may be active at its end. To copy
        # all of it takes less time than to ask Django for the language.
        self.context: Context | None = None
        self.tab = current_tab() if options.exclude_sender else None
        # The caller's instance, and the values that the database holds after the commit.
        self.saved: tuple[Model, Mapping[str, Any]] | None = None
        self.number = -1
        self.sent = False

    def wait(self, connection: Any, context: Context, send: "Callable[[list[Change]], None]") -> None:
        """Wait for the commit of the connection's transaction, then `send` all that waited for it."""
        self.context = context
        self.send = send
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
        self.send(survivors)

    def forgo(self) -> None:
        """Take the change for committed, and send nothing: the transaction around a test never ends."""
        self.sent = True
        if self.saved is not None:
            note_saved(*self.saved)


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


def merged(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are left when only the last state of each element counts."""
    left: dict[tuple[Any, ...], Change] = {}
    removed = set()
    for change in changes:
        if change.kind is RELATED:
            left[change.options, change.channels] = change
            continue
        model, key = change.instance._meta.concrete_model, str(key_of(change.instance))
        element = (change.using, model, key, change.options.name)
        before = left.get(element)
        if before is not None:
            change.former = before.former + change.former
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


# Copies: later changes of an instance are not saved, or are changes of their own.


def copy_of(instance: Model) -> Model:
    """Return a copy of the instance, with the related objects it has loaded."""
    copy = type(instance).__new__(type(instance))
    copy.__dict__.update(instance.__dict__)
    copy._state = _copy_of_state(instance)
    return copy


def is_child(instance: Model, model: type[Model]) -> bool:
    """Tell whether an instance has a table of its own beside that of the model."""
    return isinstance(instance, model) and instance._meta.concrete_model is not model._meta.concrete_model


def as_parent(instance: Model, model: type[Model]) -> Model:
    """Return the part of a child that is in a parent's table, as an instance of the parent."""
    parent = model.__new__(model)
    values = instance.__dict__
    parent.__dict__.update(
        (field.attname, values[field.attname]) for field in model._meta.concrete_fields if field.attname in values
    )
    parent._state = _copy_of_state(instance)
    return parent


def _copy_of_state(instance: Model) -> Any:
    state = type(instance._state)()
    state.__dict__.update(instance._state.__dict__)
    # ModelState.__del__() empties its cache.
    state.fields_cache = instance._state.fields_cache.copy()
    return state


def log_failure(options: Options, instance: Model, kind: str) -> None:
    """Log the exception that is being handled: it must not break the save."""
    error = sys.exception()
    try:
        template = ", ".join(options.template_names(instance))
    except Exception:
        template = "unknown"
    label, pk = instance._meta.label, instance.pk
    logger.error("%s %r was %s, but not broadcast (template: %s).", label, pk, kind, template, exc_info=error)
