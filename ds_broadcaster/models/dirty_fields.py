"""Dirty fields: an update of a model that names fields is broadcast if it changes one of them."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Model
from django.db.models.fields.files import FieldFile

# (name, attribute) of each field.
Fields = Iterable[tuple[str, str]]

# On the instance's `_state`, out of the way of the model's own attributes: the values that the database holds, and
# the names of the fields whose values in the database are not known for sure.
_SAVED = "broadcast_saved_values"
_DIRTY = "broadcast_dirty"

_UNCHANGING = (str, int, float, bytes, Decimal, date, time, timedelta, UUID, type(None))

_KEY = "pk"

# Stands for a value that was not loaded or cannot be compared, and equals nothing.
_UNKNOWN = object()


def note_saved(instance: Model, values: Mapping[str, Any], *, committed: bool = True) -> None:
    """Note the values that the database holds; fields that are not `committed` stay as dirty as they were."""
    state = instance._state
    # Never changed in place: copies of an instance share it.
    setattr(state, _SAVED, {**getattr(state, _SAVED, {}), **values})
    if committed:
        setattr(state, _DIRTY, getattr(state, _DIRTY, frozenset()) - values.keys())


def mark_dirty(instance: Model, attributes: Iterable[str]) -> None:
    """Count these fields as changed in the next save: a rollback may take their values back."""
    setattr(instance._state, _DIRTY, getattr(instance._state, _DIRTY, frozenset()) | frozenset(attributes))


def forget_saved(instance: Model) -> None:
    """Count all fields as changed in the next save."""
    setattr(instance._state, _SAVED, {})


def tracked_values(tracked: Fields, instance: Model, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values of the `tracked` fields, or of those of them in `names`; deferred ones stay deferred."""
    values = instance.__dict__
    kept = {
        attribute: _kept(values[attribute])
        for name, attribute in tracked
        if attribute in values and (names is None or name in names or attribute in names)
    }
    # The values are those of one row: an instance with another key is saved over another row.
    kept[_KEY] = instance.pk
    return kept


def is_dirty(tracked: Fields, instance: Model, update_fields: Collection[str] | None) -> bool:
    """Tell whether an update changed one of these fields."""
    if update_fields is not None and not _is_everything_loaded(instance, update_fields):
        return any(name in update_fields or attribute in update_fields for name, attribute in tracked)
    saved = getattr(instance._state, _SAVED, {})
    dirty = getattr(instance._state, _DIRTY, ())
    values = instance.__dict__
    return not _same(saved.get(_KEY, _UNKNOWN), instance.pk) or any(
        attribute in dirty or not _same(saved.get(attribute, _UNKNOWN), values[attribute])
        for _, attribute in tracked
        if attribute in values
    )


def former_values(fields: Fields, instance: Model, update_fields: Collection[str] | None) -> dict[str, Any]:
    """Return the values that an update took away from these fields, as far as they are known."""
    saved = getattr(instance._state, _SAVED, {})
    if not _same(saved.get(_KEY, _UNKNOWN), instance.pk):
        return {}
    values = instance.__dict__
    return {
        attribute: saved[attribute]
        for name, attribute in fields
        if attribute in values
        and saved.get(attribute, _UNKNOWN) is not _UNKNOWN
        and (update_fields is None or name in update_fields or attribute in update_fields)
        and not _same(saved[attribute], values[attribute])
    }


def _is_everything_loaded(instance: Model, update_fields: Collection[str]) -> bool:
    # For an instance with deferred fields Django passes update_fields in a plain save() too.
    if not instance.get_deferred_fields():
        return False
    loaded = {
        field.attname
        for field in instance._meta.concrete_fields
        if field.attname in instance.__dict__ and not field.primary_key and not field.generated
    }
    return loaded.issubset(update_fields)


def _kept(value: Any) -> Any:
    if isinstance(value, _UNCHANGING):
        return value
    if isinstance(value, FieldFile):
        return value.name or ""
    if hasattr(value, "resolve_expression"):
        return _UNKNOWN
    try:
        return deepcopy(value)
    except Exception:
        return _UNKNOWN


def _same(saved: Any, value: Any) -> bool:
    if isinstance(value, FieldFile):
        value = value.name or ""
    try:
        return bool(saved == value)
    except Exception:
        return False
