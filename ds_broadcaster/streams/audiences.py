"""Templates that are rendered where their streams are, once for each audience."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import apps
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model
from django.template.loader import render_to_string

from ..ids import has_key
from ..observers import render_observed
from ..sse import Mode, encode_elements, encode_remove

# The key that marks a model instance in a context: its label, primary key and database.
_INSTANCE = "$instance"


class _Encoder(DjangoJSONEncoder):
    def default(self, value: Any) -> Any:
        if isinstance(value, Model):
            if not has_key(value):
                raise TypeError(f"{value!r} has no primary key yet: save it before it is sent.")
            return {_INSTANCE: [value._meta.label, value.serializable_value("pk"), value._state.db]}
        return super().default(value)


class _Gone(Exception):
    """An instance in a context is gone."""


def pack_template(
    template_name: str | Sequence[str],
    context: Mapping[str, Any] | None,
    selector: str | None,
    mode: Mode | None,
    *,
    or_remove: str | None = None,
) -> bytes:
    """Return a template and its context as the payload of an event.

    For an audience for which the template renders nothing, the event removes the elements of `or_remove`, a selector.

    The context travels between processes: values with a JSON form, and saved model instances, which are loaded again
    where the template is rendered. Raises TypeError for others, and what encode_elements() raises.
    """
    encode_elements("<i></i>", selector, mode)
    names = [template_name] if isinstance(template_name, str) else list(template_name)
    try:
        text = json.dumps([names, dict(context or {}), selector, mode, or_remove], cls=_Encoder, separators=(",", ":"))
    except TypeError as error:
        raise TypeError(
            f"With audience=True the context must have a JSON form, or be of saved model instances: {error} Write for "
            "example list(...) around a queryset, or let the template look it up."
        ) from error
    return text.encode() + b"\n"


def render_event(payload: bytes, audience: Any) -> bytes:
    """Render what pack_template() returned for an audience; nothing when an instance in the context is gone."""
    names, context, selector, mode, or_remove = json.loads(payload)
    html = render_observed(", ".join(names), _render, names, context, audience)
    if html is None:
        return b""
    return encode_remove(or_remove) if or_remove and not html.strip() else encode_elements(html, selector, mode)


def _render(names: list[str], context: Any, audience: Any) -> str | None:
    try:
        found = _loaded(context, {})
    except _Gone:
        return None
    return render_to_string(names, {**found, "audience": audience})


def _loaded(value: Any, known: dict[str, Model]) -> Any:
    """Load the model instances in a context, each once."""
    if isinstance(value, list):
        return [_loaded(each, known) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_INSTANCE}:
        return {name: _loaded(each, known) for name, each in value.items()}
    label, key, database = value[_INSTANCE]
    model: Any = apps.get_model(label)
    place = repr(value)
    if place not in known:
        try:
            known[place] = model._base_manager.using(database).get(pk=key)
        except model.DoesNotExist as error:
            raise _Gone from error
    return known[place]
