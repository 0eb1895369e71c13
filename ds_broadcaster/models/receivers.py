"""Saves and deletions: Django's signals report them, and broadcast_saved() those without signals."""

from collections.abc import Collection, Iterable
from typing import Any

from django.db import router, transaction
from django.db.models import Model, QuerySet
from django.db.models.signals import post_init, post_save, pre_delete, pre_save

from ..ids import has_key
from .dirty_fields import forget_saved, is_dirty, mark_dirty, note_saved, tracked_values
from .options import Options, channels_of, registered
from .outbox import enqueue, flush, log_failure
from .rendering import CREATED, DELETED, UPDATED, UPSERT
from .suppress import is_suppressed

_UID = "ds_broadcaster.saves"

# On the instance's `_state`: the key under which pages may show it, as far as this process knows.
_KNOWN = "broadcast_known"


def watch(model: type[Model], options: Options) -> None:
    """Broadcast the saves and deletions of a model from now on."""
    # Receivers of this one sender: a save of another model costs nothing.
    registered[model] = options
    post_save.connect(_saved, sender=model, dispatch_uid=_UID)
    pre_delete.connect(_deleting, sender=model, dispatch_uid=_UID)
    if options.fields is not None:
        post_init.connect(_loaded, sender=model, dispatch_uid=_UID)
        pre_save.connect(_saving, sender=model, dispatch_uid=_UID)


def unwatch(model: type[Model]) -> None:
    """Undo watch()."""
    registered.pop(model, None)
    for signal in (post_save, pre_delete, post_init, pre_save):
        signal.disconnect(sender=model, dispatch_uid=_UID)


def _loaded(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    if options := registered.get(sender):
        note_saved(instance, tracked_values(options, instance))


def _saving(instance: Model, **kwargs: Any) -> None:
    # Constructed here: its values say nothing about the row in the database.
    if instance._state.adding:
        forget_saved(instance)


def _saved(
    sender: type[Model],
    instance: Model,
    created: bool,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    options = registered[sender]
    kind = CREATED if created else UPDATED
    try:
        mark_known(instance)
        if options.fields is not None and not created and not is_dirty(options, instance, update_fields):
            return
        values = tracked_values(options, instance, update_fields) if options.fields else None
        if raw or is_suppressed(sender):
            if values:
                _track(instance, values, using)
            return
        if due := enqueue(options, instance, using, kind, values):
            flush(due)
    except Exception:
        log_failure(options, instance, kind)


def _track(instance: Model, values: dict[str, Any], using: str) -> None:
    if transaction.get_connection(using).in_atomic_block:
        mark_dirty(instance, values)
    else:
        note_saved(instance, values)


def _deleting(sender: type[Model], instance: Model, using: str, **kwargs: Any) -> None:
    options = registered[sender]
    try:
        if is_suppressed(sender):
            return
        # After the deletion neither the object nor its relations can name the channels.
        if due := enqueue(options, instance, using, DELETED, None, channels_of(options.channel(instance))):
            flush(due)
    except Exception:
        log_failure(options, instance, DELETED)


# Without signals


def broadcast_saved(objects: Model | Iterable[Model], *, created: bool | None = None) -> None:
    """Broadcast objects that were saved without signals: by bulk_create(), bulk_update() or QuerySet.update().

    `objects` is an instance, an iterable or a QuerySet. They are sent as created with `created=True`, and as updated
    with `created=False`. By default an object that this process loaded or saved before is updated and any other is
    created, and all those of a QuerySet are updated; an object of a bound model of which neither is known is sent as
    updated and, to pages that do not show it, as created. The changes are merged and sent in one go, after the commit
    inside a transaction.

    Raises ValueError for objects without a primary key and TypeError for those whose model is not broadcast.
    """
    several: Any = [objects] if isinstance(objects, Model) or not isinstance(objects, Iterable) else objects
    found = [(_checked(each), each) for each in several]
    if created is None and isinstance(objects, QuerySet):
        created = False
    due = []
    for options, instance in found:
        if created is not None:
            kind = CREATED if created else UPDATED
        elif is_known(instance):
            kind = UPDATED
        else:
            # Only BroadcastOnSave marks objects when they are loaded.
            kind = UPSERT if options.is_bound else CREATED
        mark_known(instance)
        if is_suppressed(type(instance)):
            continue
        using = router.db_for_write(type(instance), instance=instance)
        try:
            values = tracked_values(options, instance) if options.fields else None
            due += enqueue(options, instance, using, kind, values)
        except Exception:
            log_failure(options, instance, kind)
    flush(due)


def _checked(instance: Any) -> Options:
    if not isinstance(instance, Model):
        raise TypeError(f"broadcast_saved takes model instances, not {type(instance).__name__} ({instance!r}).")
    options = registered.get(type(instance))
    if options is None:
        name = type(instance).__name__
        raise TypeError(
            f"{name} is not broadcast: write `class {name}(BroadcastOnSave)`, or bind_broadcasts({name}, channel=...)."
        )
    if not has_key(instance):
        raise ValueError(
            f"{instance!r} has no primary key: save it first, and where bulk_create() does not return the keys, "
            "fetch the objects and pass them with created=True."
        )
    return options


def mark_known(instance: Model) -> None:
    """Note that the object is in the database: its next save is an update."""
    setattr(instance._state, _KNOWN, instance.pk)


def is_known(instance: Model) -> bool:
    """Tell whether mark_known() was called with this instance under its present key."""
    return bool(getattr(instance._state, _KNOWN, None) == instance.pk)
