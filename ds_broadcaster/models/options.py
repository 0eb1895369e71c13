"""How the objects of a model are broadcast: the questions that a save asks, and the models that answer them."""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.template.loader import render_to_string
from django.utils.functional import Promise

from ..ids import channel_name, dom_id, single_line
from ..sse import Fragment

# Where a created object may go; "remove" puts nothing anywhere.
MODES = ("append", "prepend", "before", "after", "inner", "outer", "replace")

# The models that are broadcast: filled by BroadcastOnSave for its subclasses, and by bind_broadcasts().
registered: dict[type[Model], "Rules"] = {}


class Rules:
    """What is sent about the objects of one model, and to whom. Each method is asked about one instance."""

    # What the answers are called where the user wrote them, for messages.
    prefix = ""
    select_related: Sequence[str] = ()
    exclude_sender = False
    # Whether instances that were loaded from the database can be told from those constructed here.
    knows_loaded = False

    def __init__(self, model: type[Model], fields: Collection[str] | None) -> None:
        self.model = model
        self.fields = columns(model, fields)

    def channel(self, instance: Model) -> Any:
        """Return a channel, several, or None to stay silent."""
        raise NotImplementedError

    def target(self, instance: Model) -> str | None:
        """Return the selector of the place that a created object goes to."""
        raise NotImplementedError

    def mode(self, instance: Model) -> str:
        """Return how a created object goes there."""
        raise NotImplementedError

    def template_names(self, instance: Model) -> Sequence[str]:
        """Return the templates of which the first that exists is rendered."""
        raise NotImplementedError

    def created(self, instance: Model) -> Fragment:
        """Return what to send about a new object."""
        raise NotImplementedError

    def updated(self, instance: Model) -> Fragment:
        """Return what to send about a changed object."""
        raise NotImplementedError

    def deleted(self, instance: Model) -> Fragment:
        """Return what to send about an object that is gone; an empty string removes its element."""
        raise NotImplementedError

    def render(self, instance: Model) -> str:
        """Render the template, without a request: everybody on the channel gets the same."""
        names = self.template_names(instance)
        context = dict.fromkeys(("object", *_names(type(instance))), instance)
        return render_to_string(names[0] if len(names) == 1 else list(names), context)


def rules_of(model: type[Model]) -> Rules | None:
    """Return the rules of a model; None for one that is not broadcast."""
    return registered.get(model)


def as_names(template_name: str | Iterable[str] | None, model: type[Model]) -> Sequence[str]:
    """Return the names of the templates; the default is the model's own, then those of what it inherits."""
    if template_name is None:
        return default_template_names(model)
    return (template_name,) if isinstance(template_name, str) else tuple(template_name)


def line_of(model: type[Model]) -> list[type[Model]]:
    """Return the model and the models that it inherits or is a proxy of, the nearest first."""
    return [each for each in model.__mro__ if hasattr(each, "_meta") and not each._meta.abstract]


@cache
def default_template_names(model: type[Model]) -> Sequence[str]:
    """Return `<app_label>/_<model_name>.html` for the model and what it inherits."""
    return tuple(f"{each._meta.app_label}/_{each._meta.model_name}.html" for each in line_of(model))


@cache
def _names(model: type[Model]) -> tuple[str, ...]:
    # A parent's template, which a child without its own is shown by, knows the object by the parent's name.
    return tuple(str(each._meta.model_name) for each in line_of(model))


def columns(model: type[Model], names: Collection[str] | None) -> tuple[tuple[str, str], ...] | None:
    """Return (name, attribute) of each field; a mistake leaves out what is wrong, and a system check reports it."""
    if names is None or isinstance(names, str):
        return None
    try:
        found = [column(model, name) for name in names]
    except TypeError:
        return None
    return tuple(each for each in found if each is not None)


def column(model: type[Model], name: Any) -> tuple[str, str] | None:
    """Return (name, attribute) of a field that a save writes; None for other names."""
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return (field.name, field.attname) if field.concrete and not field.many_to_many else None


def channels_of(channel: Any) -> tuple[str, ...]:
    """Return the names of what a rule says: one channel, several, or None."""
    if channel is None:
        return ()
    # A lazy string can be iterated, and is not to be taken for its letters.
    if isinstance(channel, (str, Promise, Model)) or not isinstance(channel, Iterable):
        return (channel_name(channel),)
    return tuple(dict.fromkeys(channel_name(each) for each in channel))


def guarded(target: str, mode: str, instance: Model) -> str:
    """Return the selector that finds the target only while the object's element is not there yet.

    A page that was rendered after the save, or one that an event is replayed to, would show it twice otherwise.
    """
    target = single_line("target", target).strip()
    element = f"#{dom_id(instance)}"
    if mode in ("append", "prepend"):
        guard = f":not(:has({element}))"
    elif mode in ("before", "after"):
        guard = f":not({element}, {element} ~ *, :has(~ {element}))"
    else:
        return target
    return (f":is({target})" if "," in target else target) + guard
