"""Options: what BroadcastOnSave and bind_broadcasts() say about the broadcasts of a model."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.template.loader import render_to_string
from django.utils.functional import Promise

from ..ids import channel_name
from ..sse import Fragment

# Where a created object may go; "remove" puts nothing anywhere.
MODES = ("append", "prepend", "before", "after", "inner", "outer", "replace")

# The models that are broadcast: filled by BroadcastOnSave for its subclasses, and by bind_broadcasts().
registered: dict[type[Model], "Options"] = {}


class Options:
    """How the objects of one model are broadcast.

    Options are given by the names of bind_broadcasts()'s arguments. `channel`, `template_name`, `target`, `mode`,
    `created`, `updated` and `deleted` are values or functions of the instance, and functions here. `place` is the file
    and line of the bind_broadcasts() call; None for a subclass of BroadcastOnSave, whose options are functions that
    read the instance's attributes.

    Nothing is refused here: problems() tells what is wrong.
    """

    def __init__(self, model: type[Model], *, place: str | None = None, **given: Any) -> None:
        self.model = model
        self.place = place
        self._given = given
        self.channel: Callable[[Any], Any] = _function(given["channel"])
        self.template_name: Callable[[Any], str | Iterable[str] | None] = _function(given["template_name"])
        self.target: Callable[[Any], str | None] = _function(given["target"])
        self.mode: Callable[[Any], str] = _function(given["mode"])
        self.created: Callable[[Any], Fragment] = _function(given["created"], self.render)
        self.updated: Callable[[Any], Fragment] = _function(given["updated"], self.render)
        # An empty string removes the element.
        self.deleted: Callable[[Any], Fragment] = _function(given["deleted"], lambda instance: "")
        self.fields = columns(model, given["fields"])
        self.select_related = _strings(given["select_related"])
        self.exclude_sender = bool(given["exclude_sender"])

    @property
    def is_bound(self) -> bool:
        """Tell whether bind_broadcasts() made them, and not BroadcastOnSave."""
        return self.place is not None

    def name_of(self, option: str) -> str:
        """Return an option's name where the project wrote it, for messages."""
        return option if self.is_bound else f"broadcast_{option}"

    def written(self, option: str) -> Any:
        """Return an option as the project wrote it: the argument, or what the class has under that name now."""
        return self._given[option] if self.is_bound else getattr(self.model, self.name_of(option))

    def template_names(self, instance: Model) -> Sequence[str]:
        """Return the templates of which the first that exists is rendered."""
        return as_names(self.template_name(instance), type(instance))

    def render(self, instance: Model) -> str:
        """Render the template, without a request: all pages on the channel get the same."""
        names = self.template_names(instance)
        context = dict.fromkeys(("object", *_context_names(type(instance))), instance)
        return render_to_string(names[0] if len(names) == 1 else list(names), context)


def _function(option: Any, default: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    if option is None and default is not None:
        return default
    return option if callable(option) else lambda instance: option


def _strings(names: Any) -> tuple[str, ...]:
    # A lone string is one name; problems() tells about it, and about everything else.
    if isinstance(names, str):
        return (names,)
    return tuple(each for each in names if isinstance(each, str)) if isinstance(names, Collection) else ()


def mode_error(name: str, mode: Any) -> str:
    """Return the message about a mode that does not exist; `name` is the option's."""
    modes = ", ".join(f'"{each}"' for each in MODES)
    return f"{name} must be one of {modes}, not {mode!r}."


def as_names(template_name: str | Iterable[str] | None, model: type[Model]) -> Sequence[str]:
    """Return the names of the templates; the default is the model's own, then those of the models it inherits."""
    if template_name is None:
        return default_template_names(model)
    return (template_name,) if isinstance(template_name, str) else tuple(template_name)


def lineage(model: type[Model]) -> list[type[Model]]:
    """Return the model and the models that it inherits or is a proxy of, the nearest first."""
    return [each for each in model.__mro__ if hasattr(each, "_meta") and not each._meta.abstract]


@cache
def default_template_names(model: type[Model]) -> Sequence[str]:
    """Return `<app_label>/_<model_name>.html` for the model and its lineage."""
    return tuple(f"{each._meta.app_label}/_{each._meta.model_name}.html" for each in lineage(model))


@cache
def _context_names(model: type[Model]) -> tuple[str, ...]:
    # A child without a template of its own is rendered by its parent's, which uses the parent's name.
    return tuple(str(each._meta.model_name) for each in lineage(model))


def columns(model: type[Model], names: Any) -> tuple[tuple[str, str], ...] | None:
    """Return (name, attribute) of each field; without the wrong ones, about which problems() tells."""
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
    # Django 5.2 takes a many-to-many field for concrete.
    return (field.name, field.attname) if field.concrete and not field.many_to_many else None


def channels_of(channel: Any) -> tuple[str, ...]:
    """Return the channel names that the `channel` option stands for: one channel, several, or None."""
    if channel is None:
        return ()
    # A lazy string can be iterated, and must not be split into letters.
    if isinstance(channel, (str, Promise, Model)) or not isinstance(channel, Iterable):
        return (channel_name(channel),)
    return tuple(dict.fromkeys(channel_name(each) for each in channel))
