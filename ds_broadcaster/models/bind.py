"""bind_broadcasts: what BroadcastOnSave does, for models of other apps."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from .base import BroadcastOnSave
from .checks import problems
from .options import Face, Options, PlaceMode, channels_of
from .receivers import unwatch, watch
from .registry import declared

if TYPE_CHECKING:
    from ..sending import Channels
    from ..sse import Fragment

M = TypeVar("M", bound=Model)


def bind_broadcasts(
    model: type[M],
    *,
    channel: "Channels | Callable[[M], Channels | None]",
    template_name: str | Sequence[str] | Callable[[M], str | Sequence[str]] | None = None,
    target: str | Callable[[M], str | None] | None = None,
    mode: PlaceMode | Callable[[M], PlaceMode] = "append",
    fields: Collection[str] | None = None,
    select_related: Sequence[str] | None = None,
    exclude_sender: bool = False,
    refreshes: bool = False,
    audience: bool = False,
    moves: Collection[str] | None = None,
    limit: int | None = None,
    touches: Mapping[str, str] | None = None,
    shown: Callable[[M], bool] | None = None,
    created: "Callable[[M], Fragment] | None" = None,
    updated: "Callable[[M], Fragment] | None" = None,
    deleted: "Callable[[M], Fragment] | None" = None,
    name: str | None = None,
    subclasses: bool = False,
) -> None:
    """Broadcast the saves and deletions of a model that cannot inherit BroadcastOnSave, and of its proxies.

    >>> bind_broadcasts(User, channel="staff", fields={"first_name", "last_name"})

    Each argument is what the attribute or method `broadcast_<argument>` is there; `channel`, `template_name`,
    `target` and `mode` may be a value or a function of the instance, and `shown`, `created`, `updated` and `deleted`
    are such functions. With `subclasses`, a save of a model that inherits this one's table is a save of this one's
    object. Call it where models are known: in `models.py` or in an AppConfig's `ready()`; and more than once for
    objects that are shown in several ways, each with another `name`.

    Raises ImproperlyConfigured for a model that is broadcast already, TypeError and ValueError for other mistakes.
    """
    caller = sys._getframe(1)
    place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    _check_model(model, name, place)
    face = Face(
        # Now, so that a list that is emptied later or an instance that is deleted does not matter.
        channel=channel if callable(channel) else channels_of(channel),
        template_name=template_name,
        target=target,
        mode=mode,
        fields=fields,
        select_related=select_related,
        exclude_sender=exclude_sender,
        refreshes=refreshes,
        audience=audience,
        moves=moves,
        limit=limit,
        touches=touches,
        shown=shown,
        created=created,
        updated=updated,
        deleted=deleted,
    )
    options = Options(model, face, name=name, place=place, subclasses=subclasses)
    for problem in problems(options, is_loaded=False):
        raise problem.error(f"{problem.text} {problem.hint}")
    watch(options)


def unbind_broadcasts(model: type[Model]) -> None:
    """Undo bind_broadcasts(), under each name; for tests."""
    unwatch(model)


def _check_model(model: Any, name: Any, place: str) -> None:
    if not (isinstance(model, type) and issubclass(model, Model)):
        raise TypeError(f"bind_broadcasts takes a model class, as in bind_broadcasts(User, ...), not {model!r}.")
    if model._meta.abstract:
        raise TypeError(f"{model.__name__} is abstract: bind the models that inherit it.")
    if not (name is None or (isinstance(name, str) and name)):
        raise TypeError(f'name must be a string that tells this binding from others, such as "row", not {name!r}.')
    if issubclass(model, BroadcastOnSave):
        raise ImproperlyConfigured(
            f"{model._meta.label} is broadcast already: {model.__name__} inherits BroadcastOnSave. "
            f"Take away the bind_broadcasts() at {place}, or write a Face in its broadcast_faces instead."
        )
    for bound in declared.get(model, ()):
        if bound.name == name:
            what = "" if name is None else f" as {name!r}"
            raise ImproperlyConfigured(
                f"{model._meta.label} is bound twice{what}, at {bound.place} and at {place}: "
                'give one of them another name, such as name="row".'
            )
