"""Saves: what a model's signals, and those who save without signals, say about changes."""

from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.db import router, transaction
from django.db.models import Model, QuerySet
from django.db.models.signals import post_init, post_save, pre_delete, pre_save

from ..ids import has_key
from .dirty_fields import doubt, forget, is_news, remember, values_of
from .options import Rules, channels_of, registered, rules_of
from .outbox import Change, flush, is_stale, log_failure
from .rendering import CREATED, DELETED, EITHER, UPDATED

P = ParamSpec("P")
R = TypeVar("R")

_UID = "ds_broadcaster.saves"

# On the instance's `_state`: the key under which this process knows that pages may show it.
_KNOWN = "broadcast_known"

_silenced: ContextVar[tuple[type, ...]] = ContextVar("ds_broadcaster.silenced", default=())


class suppress_broadcasts:
    """Silence a block, or the function it decorates, for these models and their subclasses; for all without any.

    What is saved inside is not broadcast, not even when its transaction ends outside; other threads and tasks are
    not concerned.
    """

    def __init__(self, *models: type[Model]) -> None:
        given: tuple[Any, ...] = models
        for model in given:
            if not (isinstance(model, type) and issubclass(model, Model)):
                raise TypeError(
                    f"suppress_broadcasts takes models, as in suppress_broadcasts(Message), or nothing, as in "
                    f"suppress_broadcasts(), not {model!r}."
                )
        self._models: tuple[type, ...] = models or (Model,)
        self._tokens: list[Token[tuple[type, ...]]] = []

    def __enter__(self) -> None:
        self._tokens.append(_silenced.set(_silenced.get() + self._models))

    def __exit__(self, *error: object) -> None:
        _silenced.reset(self._tokens.pop())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        # With a block of its own for each call: tokens belong to the context that they were made in.
        models = cast("tuple[type[Model], ...]", self._models)
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaiting(*args: P.args, **kwargs: P.kwargs) -> Any:
                with suppress_broadcasts(*models):
                    return await cast("Callable[P, Any]", function)(*args, **kwargs)

            return cast("Callable[P, R]", awaiting)

        @wraps(function)
        def calling(*args: P.args, **kwargs: P.kwargs) -> R:
            with suppress_broadcasts(*models):
                return function(*args, **kwargs)

        return calling


def is_silenced(model: type[Model]) -> bool:
    """Tell whether suppress_broadcasts() is in force here for a model."""
    return issubclass(model, _silenced.get())


def broadcast_saved(objects: Model | Iterable[Model], *, created: bool | None = None) -> None:
    """Broadcast objects that were saved without signals: by bulk_create(), bulk_update() or QuerySet.update().

    `objects` is an instance, an iterable or a QuerySet. With `created` they are sent as created, with
    `created=False` as updated. Without it, what was loaded or saved in this process before is updated, and the rest
    is created; objects of a bound model of which neither is known are sent as updated and, where a page does not
    show them, as created. They are merged and sent in one go, after the commit where there is a transaction.

    Raises ValueError for objects without a primary key and TypeError for those whose model is not broadcast.
    """
    several: Any = [objects] if isinstance(objects, Model) or not isinstance(objects, Iterable) else objects
    found = [(_checked(each), each) for each in several]
    if created is None and isinstance(objects, QuerySet):
        created = False
    due = []
    for rules, instance in found:
        if created is not None:
            kind = CREATED if created else UPDATED
        elif is_known(instance):
            kind = UPDATED
        else:
            kind = CREATED if rules.knows_loaded else EITHER
        mark_known(instance)
        if is_silenced(type(instance)):
            continue
        using = router.db_for_write(type(instance), instance=instance)
        try:
            due += _noted(rules, instance, using, kind, values_of(rules, instance) if rules.fields else None)
        except Exception:
            log_failure(rules, instance, kind)
    flush(due)


def _checked(instance: Any) -> Rules:
    if not isinstance(instance, Model):
        raise TypeError(f"broadcast_saved takes model instances, not {type(instance).__name__} ({instance!r}).")
    rules = rules_of(type(instance))
    if rules is None:
        name = type(instance).__name__
        raise TypeError(
            f"{name} is not broadcast: write `class {name}(BroadcastOnSave)`, or bind_broadcasts({name}, channel=...)."
        )
    if not has_key(instance):
        raise ValueError(
            f"{instance!r} has no primary key: save it first, and where bulk_create() does not return the keys, "
            "fetch the objects and give those with created=True."
        )
    return rules


def mark_known(instance: Model) -> None:
    """Note that the object is in the database: another save of it is an update."""
    setattr(instance._state, _KNOWN, instance.pk)


def is_known(instance: Model) -> bool:
    """Tell whether mark_known() was told so, and under this key."""
    return bool(getattr(instance._state, _KNOWN, None) == instance.pk)


def watch(model: type[Model], rules: Rules) -> None:
    """Broadcast what is saved of a model from now on."""
    # Receivers of this one sender: a save of another model costs nothing.
    registered[model] = rules
    post_save.connect(_saved, sender=model, dispatch_uid=_UID)
    pre_delete.connect(_deleting, sender=model, dispatch_uid=_UID)
    if rules.fields is not None:
        post_init.connect(_loaded, sender=model, dispatch_uid=_UID)
        pre_save.connect(_saving, sender=model, dispatch_uid=_UID)


def unwatch(model: type[Model]) -> None:
    """Undo watch()."""
    registered.pop(model, None)
    for signal in (post_save, pre_delete, post_init, pre_save):
        signal.disconnect(sender=model, dispatch_uid=_UID)


def _loaded(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    if rules := registered.get(sender):
        remember(instance, values_of(rules, instance))


def _saving(instance: Model, **kwargs: Any) -> None:
    # Constructed here, so its values say nothing of what the database held.
    if instance._state.adding:
        forget(instance)


def _saved(
    sender: type[Model],
    instance: Model,
    created: bool,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    rules = registered[sender]
    kind = CREATED if created else UPDATED
    try:
        mark_known(instance)
        if rules.fields is not None and not created and not is_news(rules, instance, update_fields):
            return
        values = values_of(rules, instance, update_fields) if rules.fields else None
        if raw or is_silenced(sender):
            if values:
                _note(instance, values, using)
            return
        if due := _noted(rules, instance, using, kind, values):
            flush(due)
    except Exception:
        log_failure(rules, instance, kind)


def _note(instance: Model, values: dict[str, Any], using: str) -> None:
    if transaction.get_connection(using).in_atomic_block:
        doubt(instance, values)
    else:
        remember(instance, values)


def _deleting(sender: type[Model], instance: Model, using: str, **kwargs: Any) -> None:
    rules = registered[sender]
    try:
        if is_silenced(sender):
            return
        # Now, as afterwards neither the object nor what belongs to it can be asked.
        if due := _noted(rules, instance, using, DELETED, None, channels_of(rules.channel(instance))):
            flush(due)
    except Exception:
        log_failure(rules, instance, DELETED)


def _noted(
    rules: Rules,
    instance: Model,
    using: str,
    kind: str,
    values: dict[str, Any] | None,
    channels: tuple[str, ...] | None = None,
) -> list[Change]:
    """Have a change wait for its commit; return it where there is none to wait for, and it concerns anybody."""
    connection = transaction.get_connection(using)
    if connection.in_atomic_block:
        change = Change(rules, instance, using, kind, channels)
        if values:
            # Until the commit nobody knows whether the database will hold them.
            doubt(instance, values)
            change.news = (instance, values)
        change.wait(connection)
        return []
    # In autocommit mode it is saved. Where the project ends its transactions by hand, on_commit() would raise.
    if values:
        remember(instance, values)
    if channels is None and not is_stale(rules, instance):
        channels = channels_of(rules.channel(instance))
    return [] if channels == () else [Change(rules, instance, using, kind, channels)]
