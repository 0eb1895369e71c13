"""Which updates are news: those that change one of the fields that a model's rules name."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Model
from django.db.models.fields.files import FieldFile

from .options import Rules

# On the instance's `_state`: an attribute of the instance itself would be in everybody's way.
_SEEN = "broadcast_seen"
_UNSURE = "broadcast_unsure"

_UNCHANGING = (str, int, float, bytes, Decimal, date, time, timedelta, UUID, type(None))

_KEY = "pk"

# A value that was not loaded, or cannot be compared: it is equal to nothing.
_UNKNOWN = object()


def remember(instance: Model, values: Mapping[str, Any], *, committed: bool = True) -> None:
    """Take these values for the ones that the database holds; without `committed` doubts about them stay."""
    state = instance._state
    # Never changed in place: copies of an instance share it.
    setattr(state, _SEEN, {**getattr(state, _SEEN, {}), **values})
    if committed:
        setattr(state, _UNSURE, getattr(state, _UNSURE, frozenset()) - values.keys())


def doubt(instance: Model, attributes: Iterable[str]) -> None:
    """Count these as changed in the next save: whether the database will hold them is not known yet."""
    setattr(instance._state, _UNSURE, getattr(instance._state, _UNSURE, frozenset()) | frozenset(attributes))


def forget(instance: Model) -> None:
    """Count everything as changed in the next save."""
    setattr(instance._state, _SEEN, {})


def values_of(rules: Rules, instance: Model, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values of the fields that matter, without loading deferred ones; of all of them, or of these."""
    values = instance.__dict__
    kept = {
        attribute: _kept(values[attribute])
        for name, attribute in rules.fields or ()
        if attribute in values and (names is None or name in names or attribute in names)
    }
    # The values are those of one row: whoever changes the key saves over another.
    kept[_KEY] = instance.pk
    return kept


def is_news(rules: Rules, instance: Model, update_fields: Collection[str] | None) -> bool:
    """Tell whether an update changed one of the fields that matter; not for rules to which all of them do."""
    assert rules.fields is not None
    if update_fields is not None and not _is_everything_loaded(instance, update_fields):
        return any(name in update_fields or attribute in update_fields for name, attribute in rules.fields)
    seen = getattr(instance._state, _SEEN, {})
    unsure = getattr(instance._state, _UNSURE, ())
    values = instance.__dict__
    return not _same(seen.get(_KEY, _UNKNOWN), instance.pk) or any(
        attribute in unsure or not _same(seen.get(attribute, _UNKNOWN), values[attribute])
        for _, attribute in rules.fields
        if attribute in values
    )


def _is_everything_loaded(instance: Model, update_fields: Collection[str]) -> bool:
    # Django turns save() of an instance with deferred fields into one with update_fields: it means a plain save.
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


def _same(seen: Any, value: Any) -> bool:
    if isinstance(value, FieldFile):
        value = value.name or ""
    try:
        return bool(seen == value)
    except Exception:
        return False
