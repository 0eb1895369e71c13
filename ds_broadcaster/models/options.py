"""Options: what BroadcastOnSave and bind_broadcasts() say about the broadcasts of a model."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.template.loader import render_to_string
from django.utils.functional import Promise

from ..ids import channel_name
from ..sse import Fragment

if TYPE_CHECKING:
    from ..sending import Channels

# Where a created object may go; "remove" puts nothing anywhere.
PlaceMode = Literal["append", "prepend", "before", "after", "inner", "outer", "replace"]
MODES: tuple[str, ...] = get_args(PlaceMode)
# Those that add to a list, which may have a limit.
LIST_MODES = ("append", "prepend")

Hook = Callable[[Any], Fragment]

# The prefix of the attributes and methods of BroadcastOnSave.
ATTRIBUTES = "broadcast_"


@dataclass(frozen=True, kw_only=True)
class Face:
    """One way of showing an object, beside others in `broadcast_faces`: a row here, a page of its own there.

    The options are the arguments of bind_broadcasts(), and mean the same.
    """

    channel: "Channels | Callable[[Any], Channels | None]"
    template_name: str | Sequence[str] | Callable[[Any], str | Sequence[str]] | None = None
    target: str | Callable[[Any], str | None] | None = None
    mode: PlaceMode | Callable[[Any], PlaceMode] = "append"
    fields: Collection[str] | None = None
    select_related: Sequence[str] | None = None
    exclude_sender: bool = False
    refreshes: bool = False
    audience: bool = False
    moves: Collection[str] | None = None
    limit: int | None = None
    touches: Mapping[str, str] | None = None
    shown: Callable[[Any], bool] | None = None
    created: Hook | None = None
    updated: Hook | None = None
    deleted: Hook | None = None


class Options:
    """How the objects of one model are broadcast in one face.

    `channel`, `template_name`, `target`, `mode`, `created`, `updated` and `deleted` are values or functions of the
    instance in a Face, and functions here. `name` tells a face of a model from its others. `prefix` is what the
    project wrote before the names of options: for a subclass of BroadcastOnSave, whose options are functions that read
    the instance's attributes, it is ATTRIBUTES; `default` is the class with the default ones. `place` is the file and
    line of a bind_broadcasts() call. With `subclasses`, a save of a model that inherits this one is a save of its
    object.

    Nothing is refused here: problems() tells what is wrong.
    """

    def __init__(
        self,
        model: type[Model],
        face: Face,
        *,
        name: str | None = None,
        prefix: str = "",
        place: str | None = None,
        subclasses: bool = False,
        default: type | None = None,
    ) -> None:
        self.model = model
        self.face = face
        self.name = name
        self._default = default
        self.prefix = prefix
        self.place = place
        self.subclasses = subclasses
        self.channel: Callable[[Any], Any] = _function(face.channel)
        self.template_name: Callable[[Any], str | Iterable[str] | None] = _function(face.template_name)
        self.target: Callable[[Any], str | None] = _function(face.target)
        self.mode: Callable[[Any], str] = _function(face.mode)
        self.created: Hook = _function(face.created, self.render)
        self.updated: Hook = _function(face.updated, self.render)
        # An empty string removes the element.
        self.deleted: Hook = _function(face.deleted, lambda instance: "")
        # None for an object that is always shown.
        self.shown = face.shown
        self.fields = columns(model, face.fields)
        self.moves = columns(model, face.moves) or ()
        # The fields whose values in the database are kept: dirty ones are broadcast, and former ones name channels.
        self.tracked = tuple(dict.fromkeys((*(self.fields or ()), *self.moves)))
        self.select_related = _strings(face.select_related)
        self.exclude_sender = bool(face.exclude_sender)
        self.refreshes = bool(face.refreshes)
        self.audience = bool(face.audience)
        self.limit = face.limit if isinstance(face.limit, int) else None
        # The fields of relations to objects whose saves are news for those of the model.
        self.touches = tuple(face.touches) if isinstance(face.touches, Mapping) else ()

    @property
    def is_attributes(self) -> bool:
        """Tell whether the options are the attributes and methods of a subclass of BroadcastOnSave."""
        return self.prefix == ATTRIBUTES

    @property
    def is_bound(self) -> bool:
        """Tell whether bind_broadcasts() made them."""
        return self.place is not None

    def name_of(self, option: str) -> str:
        """Return an option's name where the project wrote it, for messages."""
        return f"{self.prefix}{option}"

    def written(self, option: str) -> Any:
        """Return an option as the project wrote it: the argument, or what the class has under that name now."""
        return getattr(self.model, self.name_of(option)) if self.is_attributes else getattr(self.face, option)

    def renders(self, hook: str) -> bool:
        """Tell whether a hook is the default one, which renders the template, or removes a deleted object."""
        if not self.is_attributes:
            return getattr(self.face, hook) is None
        methods = (self.name_of(hook), "render_broadcast")
        return all(getattr(self.model, each) is getattr(self._default, each, None) for each in methods)

    def echo(self) -> "Options":
        """Return the face without new objects, for a child that has put its own element in the same place."""
        options = copy(self)
        options.created = lambda instance: None
        options.target = lambda instance: None
        return options

    def template_names(self, instance: Model) -> Sequence[str]:
        """Return the templates of which the first that exists is rendered."""
        return as_names(self.template_name(instance), type(instance))

    def render(self, instance: Model) -> str:
        """Render the template, without a request: all pages on the channel get the same."""
        names = self.template_names(instance)
        return render_to_string(names[0] if len(names) == 1 else list(names), self.context(instance))

    def context(self, instance: Model) -> dict[str, Model]:
        """Return the context of the template."""
        return dict.fromkeys(("object", *_context_names(type(instance))), instance)


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
