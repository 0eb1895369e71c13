"""Relations: changes of many-to-many fields refresh pages, and saves of objects are news for those that show them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import transaction
from django.db.models import Model
from django.db.models.fields.related import lazy_related_operation
from django.db.models.signals import m2m_changed, post_save

from .changes import RELATED, Change, copy_of, log_failure
from .options import Options, lineage
from .outbox import enqueue, flush
from .registry import declared, descendants, registered
from .rendering import UPDATED
from .suppress import is_suppressed
from .touches import FETCH_SIZE, TOUCHED, Touch, channels_of_all

_UID = "ds_broadcaster.relations"

# Every login saves it, and no page shows it.
_HARMLESS = {"last_login"}

# The models that each table of a many-to-many field joins, of those that are refreshed.
_joined: dict[type[Model], list[type[Model]]] = {}
# The faces that show the objects of a model, and through which relation.
_shown: dict[type[Model], list[tuple[Options, str]]] = {}


def watch_relations(model: type[Model]) -> None:
    """Broadcast what happens to the relations of a model that was registered, also where the other end is not known."""
    # A proxy's relations are those of its model.
    is_covered = model._meta.proxy and model._meta.concrete_model in registered
    if any(face.refreshes for face in registered[model].of_saves) and not is_covered:
        for field in model._meta.many_to_many:
            _when_known(partial(_join, model), model, field.remote_field.through)
    for face in declared.get(model, ()):
        for relation in face.touches:
            if (field := relation_of(model, relation)) is not None:
                _when_known(partial(_show, face, relation), model, field.remote_field.model)


def _when_known(connect: Callable[[type[Model]], None], model: type[Model], other: Any) -> None:
    if isinstance(other, type):
        connect(other)
    else:  # A name, of a model that is defined later.
        lazy_related_operation(lambda _, other: connect(other), model, other)


def relation_of(model: type[Model], name: Any) -> Any:
    """Return the field of a relation to other objects; None for other names."""
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if field.is_relation and not field.auto_created and field.remote_field is not None else None


def cover_relations(model: type[Model]) -> None:
    """Connect a model that inherits one whose objects are shown: its saves are saves of those."""
    if any(each in _shown for each in lineage(model)):
        post_save.connect(_saved, sender=model, dispatch_uid=_UID)


def forget_relations() -> None:
    """Disconnect what belongs to models that are not registered any more."""
    for through, models in list(_joined.items()):
        models[:] = [each for each in models if each in registered]
        if not models:
            del _joined[through]
            m2m_changed.disconnect(sender=through, dispatch_uid=_UID)
    for model, faces in list(_shown.items()):
        faces[:] = [(face, relation) for face, relation in faces if face in declared.get(face.model, ())]
        if not faces:
            del _shown[model]
            for each in (model, *descendants(model)):
                post_save.disconnect(sender=each, dispatch_uid=_UID)


def _join(model: type[Model], through: type[Model]) -> None:
    if model in registered and model not in _joined.setdefault(through, []):
        _joined[through].append(model)
        m2m_changed.connect(_changed, sender=through, dispatch_uid=_UID)


def _show(face: Options, relation: str, related: type[Model]) -> None:
    if face in declared.get(face.model, ()) and (face, relation) not in _shown.setdefault(related, []):
        _shown[related].append((face, relation))
        for each in (related, *descendants(related)):
            post_save.connect(_saved, sender=each, dispatch_uid=_UID)


# Many-to-many fields


def _changed(
    sender: type[Model],
    instance: Model,
    action: str,
    reverse: bool,
    model: type[Model],
    pk_set: Collection[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    # After a clear(), nothing tells which objects it concerned.
    if action not in ("post_add", "post_remove", "pre_clear"):
        return
    due: list[Change] = []
    for each in _joined[sender]:
        if isinstance(instance, each) and type(instance) in registered:
            due += enqueue(_refreshing(type(instance)), instance, using, UPDATED)
        if issubclass(each, model):
            due += _others(each, sender, instance, reverse, pk_set, using)
    if due:
        flush(due)


def _refreshing(model: type[Model]) -> list[Options]:
    return [face for face in registered[model].of_saves if face.refreshes and not is_suppressed(model)]


def _others(
    model: type[Model],
    through: type[Model],
    instance: Model,
    reverse: bool,
    pk_set: Collection[Any] | None,
    using: str,
) -> list[Change]:
    """Return the changes of the objects at the other end, of which only the channels count."""
    due: list[Change] = []
    for face in _refreshing(model):
        try:
            names: dict[str, None] = {}
            for objects in _found(model, through, instance, reverse, pk_set, using):
                if face.select_related and model is face.model:
                    objects = objects.select_related(*face.select_related)
                names |= dict.fromkeys(channels_of_all(face, objects))
            due += enqueue((face,), instance, using, RELATED, channels=tuple(names)) if names else []
        except Exception:
            log_failure(face, instance, UPDATED)
    return due


def _found(
    model: type[Model],
    through: type[Model],
    instance: Model,
    reverse: bool,
    pk_set: Collection[Any] | None,
    using: str,
) -> Iterator[Any]:
    objects = model._base_manager.using(using)
    if pk_set is not None:
        keys = list(pk_set)
        for begin in range(0, len(keys), FETCH_SIZE):
            yield objects.filter(pk__in=keys[begin : begin + FETCH_SIZE])
        return
    for field in model._meta.many_to_many:
        if field.remote_field.through is through:
            yield objects.filter(**{field.name: instance}) if reverse else getattr(instance, field.name).using(using)


# Objects that others show


def _saved(
    sender: type[Model],
    instance: Model,
    created: bool,
    raw: bool,
    using: str,
    update_fields: Iterable[str] | None,
    **kwargs: Any,
) -> None:
    if created or raw or is_suppressed(sender) or (update_fields is not None and _HARMLESS.issuperset(update_fields)):
        return
    touch(instance, using)


def touch(instance: Model, using: str) -> None:
    """Broadcast the objects that show this one, after the commit inside a transaction."""
    connection = transaction.get_connection(using)
    context = copy_context()
    due: list[Change] = []
    for model in lineage(type(instance)):
        for face, relation in _shown.get(model, ()):
            try:
                if is_suppressed(face.model):
                    continue
                change = Touch(face, relation, copy_of(instance), using)
                if connection.in_atomic_block:
                    change.wait(connection, context, flush)
                else:
                    due.append(change)
            except Exception:
                log_failure(face, instance, TOUCHED)
    if due:
        flush(due)


def is_shown(model: type[Model]) -> bool:
    """Tell whether a save of a model's object is news for others."""
    return any(each in _shown for each in lineage(model))
