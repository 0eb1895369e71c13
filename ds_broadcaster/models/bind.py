"""bind_broadcasts: what BroadcastOnSave does, for models of other apps."""

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.db.models.signals import class_prepared

from ..sse import Fragment
from .base import BroadcastOnSave
from .checks import problems
from .options import Options, channels_of, lineage, registered
from .receivers import unwatch, watch

Hook = Callable[[Any], Fragment]


def bind_broadcasts(
    model: type[Model],
    *,
    channel: Any,
    template_name: str | Sequence[str] | Callable[[Any], str | Sequence[str]] | None = None,
    target: str | Callable[[Any], str | None] | None = None,
    mode: str | Callable[[Any], str] = "append",
    fields: Collection[str] | None = None,
    select_related: Sequence[str] | None = None,
    exclude_sender: bool = False,
    created: Hook | None = None,
    updated: Hook | None = None,
    deleted: Hook | None = None,
) -> None:
    """Broadcast the saves and deletions of a model that cannot inherit BroadcastOnSave, and of its proxies.

        bind_broadcasts(User, channel="staff", fields={"first_name", "last_name"})

    Each argument is what the attribute or method `broadcast_<argument>` is there; `channel`, `template_name`,
    `target` and `mode` may be a value or a function of the instance, and `created`, `updated` and `deleted` are
    such functions. Call it once for a model, where models are known: in `models.py` or in an AppConfig's `ready()`.

    Raises ImproperlyConfigured for a model that is broadcast already, TypeError and ValueError for other mistakes.
    """
    caller = sys._getframe(1)
    place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    _check_model(model, place)
    options = Options(
        model,
        place=place,
        # Now, so that a list that is emptied later or an instance that is deleted does not matter.
        channel=channel if callable(channel) else channels_of(channel),
        template_name=template_name,
        target=target,
        mode=mode,
        created=created,
        updated=updated,
        deleted=deleted,
        fields=fields,
        select_related=() if select_related is None else select_related,
        exclude_sender=exclude_sender,
    )
    for problem in problems(options, is_loaded=False):
        raise problem.error(f"{problem.text} {problem.hint}")
    watch(model, options)
    for proxy in _proxies(model):
        if proxy not in registered:
            watch(proxy, options)


def unbind_broadcasts(model: type[Model]) -> None:
    """Undo bind_broadcasts(); for tests."""
    options = registered.get(model)
    for each in [each for each, its in registered.items() if its is options]:
        unwatch(each)


def _check_model(model: Any, place: str) -> None:
    if not (isinstance(model, type) and issubclass(model, Model)):
        raise TypeError(f"bind_broadcasts takes a model class, as in bind_broadcasts(User, ...), not {model!r}.")
    if model._meta.abstract:
        raise TypeError(f"{model.__name__} is abstract: bind the models that inherit it.")
    if issubclass(model, BroadcastOnSave):
        raise ImproperlyConfigured(
            f"{model._meta.label} is broadcast already: {model.__name__} inherits BroadcastOnSave. "
            f"Take away the bind_broadcasts() at {place}."
        )
    bound = registered.get(model)
    if bound is not None and bound.is_bound and bound.model is model:
        raise ImproperlyConfigured(
            f"{model._meta.label} is bound twice, at {bound.place} and at {place}: bind a model once."
        )


def _proxies(model: type[Model]) -> list[type[Model]]:
    found = []
    for each in model.__subclasses__():
        if each._meta.proxy and each._meta.apps is model._meta.apps:
            found += [each, *_proxies(each)]
    return found


def _prepared(sender: type[Model], **kwargs: Any) -> None:
    """Cover a proxy that is defined after its model was bound."""
    if sender._meta.proxy and sender not in registered:
        for each in lineage(sender)[1:]:
            if each in registered and each._meta.concrete_model is sender._meta.concrete_model:
                watch(sender, registered[each])
                return


class_prepared.connect(_prepared, dispatch_uid="ds_broadcaster.bindings")
