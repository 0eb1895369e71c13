"""Saves and deletions: Django's signals report them, and broadcast_saved() those without signals."""

from collections.abc import Collection, Iterable
from typing import Any

from django.db import router, transaction
from django.db.models import Model, QuerySet
from django.db.models.signals import class_prepared, post_init, post_save, pre_delete, pre_save

from ..ids import has_key
from .changes import as_parent, is_child, log_failure
from .dirty_fields import forget_saved, is_dirty, mark_dirty, note_saved, tracked_values
from .options import Options, channels_of, lineage
from .outbox import enqueue, flush
from .registry import Faces, declare, declared, registered, resolve, withdraw
from .relations import cover_relations, forget_relations, is_shown, touch, watch_relations
from .rendering import CREATED, DELETED, UPDATED, UPSERT
from .suppress import is_suppressed

_UID = "ds_broadcaster.saves"

# On the instance's `_state`: the key under which pages may show it, as far as this process knows.
_KNOWN = "broadcast_known"


def watch(*options: Options) -> None:
    """Broadcast the saves and deletions of a model from now on, in each of these faces."""
    for model in dict.fromkeys(model for each in options for model in declare(each)):
        _connect(model)


def unwatch(model: type[Model]) -> None:
    """Undo watch()."""
    for each in withdraw(model):
        _connect(each)
    forget_relations()


def _connect(model: type[Model]) -> None:
    faces = resolve(model)
    # Receivers of this one sender: a save of another model costs nothing.
    for signal, receiver, is_wanted in (
        (post_save, _saved, faces),
        (pre_delete, _deleting, faces and faces.of_deletions),
        (post_init, _loaded, faces and faces.tracked),
        (pre_save, _saving, faces and faces.tracked),
    ):
        if is_wanted:
            signal.connect(receiver, sender=model, dispatch_uid=_UID)
        else:
            signal.disconnect(sender=model, dispatch_uid=_UID)
    if faces:
        watch_relations(model)


def _prepared(sender: type[Model], **kwargs: Any) -> None:
    """Cover a proxy or a child that is defined after its model was bound."""
    if any(each in declared for each in lineage(sender)[1:]):
        _connect(sender)
    cover_relations(sender)


class_prepared.connect(_prepared, dispatch_uid="ds_broadcaster.inherited")


def _loaded(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    if faces := registered.get(sender):
        note_saved(instance, tracked_values(faces.tracked, instance))


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
    faces = registered[sender]
    kind = CREATED if created else UPDATED
    reached = faces.of_creations if created else faces.of_saves
    try:
        mark_known(instance)
        if faces.tracked and not created:
            reached = tuple(each for each in reached if _is_news(each, instance, update_fields))
            if not reached:
                return
        values = tracked_values(faces.tracked, instance, update_fields) if faces.tracked else None
        if raw or is_suppressed(sender):
            if values:
                _track(instance, values, using)
            return
        if due := enqueue(reached, instance, using, kind, values, update_fields):
            flush(due)
    except Exception:
        log_failure(reached[0], instance, kind)


def _is_news(options: Options, instance: Model, update_fields: Collection[str] | None) -> bool:
    return options.fields is None or is_dirty(options.tracked, instance, update_fields)


def _track(instance: Model, values: dict[str, Any], using: str) -> None:
    if transaction.get_connection(using).in_atomic_block:
        mark_dirty(instance, values)
    else:
        note_saved(instance, values)


def _deleting(sender: type[Model], instance: Model, using: str, **kwargs: Any) -> None:
    faces = registered[sender].of_deletions
    for options in faces:
        try:
            if is_suppressed(sender):
                return
            # After the deletion neither the object nor its relations can name the channels.
            channels = channels_of(options.channel(instance))
            if due := enqueue((options,), instance, using, DELETED, None, channels=channels):
                flush(due)
        except Exception:
            log_failure(options, instance, DELETED)


# Without signals


def broadcast_saved(objects: Model | Iterable[Model], *, created: bool | None = None) -> None:
    """Broadcast objects that were saved without signals: by bulk_create(), bulk_update() or QuerySet.update().

    >>> messages = Message.objects.bulk_create([Message(room=room, text="hi")])
    >>> broadcast_saved(messages)

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
    for faces, instance in found:
        using = router.db_for_write(type(instance), instance=instance)
        if is_shown(type(instance)) and not is_suppressed(type(instance)):
            touch(instance, using)
        if faces is None:
            continue
        if created is not None:
            kind = CREATED if created else UPDATED
        elif is_known(instance):
            kind = UPDATED
        else:
            # Only BroadcastOnSave marks objects when they are loaded.
            kind = UPSERT if faces.of_saves[0].is_bound else CREATED
        mark_known(instance)
        if is_suppressed(type(instance)):
            continue
        reached = faces.of_creations if kind is CREATED else faces.of_saves
        try:
            values = tracked_values(faces.tracked, instance) if faces.tracked else None
            due += enqueue(reached, instance, using, kind, values)
        except Exception:
            log_failure(reached[0], instance, kind)
    flush(due)


def render_broadcast(instance: Model, *, name: str | None = None) -> str:
    """Render the fragment that shows an object, of a BroadcastOnSave or of a bound model.

    `name` says which of several bindings; without it, the object's first face is rendered. Raises TypeError for objects
    whose model is not broadcast and ValueError for a name that there is not.
    """
    faces = _faces_of(instance, "render_broadcast").of_saves
    face = faces[0] if name is None else next((each for each in faces if each.name == name), None)
    if face is None:
        raise ValueError(f"{type(instance).__name__} is not bound as {name!r}.")
    seen: Any = as_parent(instance, face.model) if is_child(instance, face.model) else instance
    return str(seen.render_broadcast()) if face.is_attributes else face.render(seen)


def _checked(instance: Any) -> Faces | None:
    if isinstance(instance, Model) and type(instance) not in registered and is_shown(type(instance)):
        return None  # It is not broadcast itself, but what shows it is.
    faces = _faces_of(instance, "broadcast_saved")
    if not has_key(instance):
        raise ValueError(
            f"{instance!r} has no primary key: save it first, and where bulk_create() does not return the keys, "
            "fetch the objects and pass them with created=True."
        )
    return faces


def _faces_of(instance: Any, function: str) -> Faces:
    if not isinstance(instance, Model):
        raise TypeError(f"{function} takes model instances, not {type(instance).__name__} ({instance!r}).")
    faces = registered.get(type(instance))
    if faces is None:
        name = type(instance).__name__
        raise TypeError(
            f"{name} is not broadcast: write `class {name}(BroadcastOnSave)`, or bind_broadcasts({name}, channel=...)."
        )
    return faces


def mark_known(instance: Model) -> None:
    """Note that the object is in the database: its next save is an update."""
    setattr(instance._state, _KNOWN, instance.pk)


def is_known(instance: Model) -> bool:
    """Tell whether mark_known() was called with this instance under its present key."""
    return bool(getattr(instance._state, _KNOWN, None) == instance.pk)
