"""bind_broadcasts: what BroadcastOnSave does, for models that are somebody else's."""

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.db.models.signals import class_prepared

from ..ids import single_line
from ..sse import Fragment
from .base import BroadcastOnSave
from .options import MODES, Rules, as_names, channels_of, column, line_of, registered
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
    rules = Binding(model, _checked_fields(model, fields), place)
    rules.says = {
        "channel": _checked_channel(channel),
        "template_name": _checked_template(template_name),
        "target": _checked_target(target),
        "mode": _checked_mode(mode),
        "created": _function("created", created),
        "updated": _function("updated", updated),
        "deleted": _function("deleted", deleted),
    }
    rules.select_related = _checked_names("select_related", select_related) or ()
    rules.exclude_sender = bool(exclude_sender)
    watch(model, rules)
    for proxy in _proxies(model):
        if proxy not in registered:
            watch(proxy, rules)


def unbind_broadcasts(model: type[Model]) -> None:
    """Undo bind_broadcasts(); for tests."""
    rules = registered.get(model)
    for each in [each for each, its in registered.items() if its is rules]:
        unwatch(each)


class Binding(Rules):
    """What the arguments of one bind_broadcasts() call say."""

    def __init__(self, model: type[Model], fields: Collection[str] | None, place: str) -> None:
        super().__init__(model, fields)
        self.place = place
        self.says: dict[str, Any] = {}

    def _ask(self, what: str, instance: Model) -> Any:
        answer = self.says[what]
        return answer(instance) if callable(answer) else answer

    def channel(self, instance: Model) -> Any:
        return self._ask("channel", instance)

    def target(self, instance: Model) -> str | None:
        target: str | None = self._ask("target", instance)
        return target

    def mode(self, instance: Model) -> str:
        mode: str = self._ask("mode", instance)
        return mode

    def template_names(self, instance: Model) -> Sequence[str]:
        return as_names(self._ask("template_name", instance), type(instance))

    def created(self, instance: Model) -> Fragment:
        return self._hook("created", instance)

    def updated(self, instance: Model) -> Fragment:
        return self._hook("updated", instance)

    def deleted(self, instance: Model) -> Fragment:
        return "" if self.says["deleted"] is None else self._hook("deleted", instance)

    def _hook(self, what: str, instance: Model) -> Fragment:
        if self.says[what] is None:
            return self.render(instance)
        fragment: Fragment = self.says[what](instance)
        return fragment


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
    if isinstance(bound, Binding) and bound.model is model:
        raise ImproperlyConfigured(
            f"{model._meta.label} is bound twice, at {bound.place} and at {place}: bind a model once."
        )


def _checked_channel(channel: Any) -> Any:
    if isinstance(channel, type):
        raise TypeError(f"channel must be a channel or a function of the instance, not the class {channel.__name__}.")
    if callable(channel):
        return _function("channel", channel)
    # Now, so that a list that is emptied later or an instance that is deleted does not matter.
    return channels_of(channel)


def _checked_template(template_name: Any) -> Any:
    if template_name is None or isinstance(template_name, str):
        return template_name
    if callable(template_name):
        return _function("template_name", template_name)
    return _checked_names("template_name", template_name)


def _checked_target(target: Any) -> Any:
    if target is None or callable(target):
        return _function("target", target)
    if not single_line("target", target).strip():
        raise ValueError('target must not be empty: write a CSS selector such as "#messages", or leave it out.')
    return target


def _checked_mode(mode: Any) -> Any:
    if callable(mode):
        return _function("mode", mode)
    if mode not in MODES:
        allowed = ", ".join(f'"{each}"' for each in MODES)
        raise ValueError(f"mode must be one of {allowed}, or a function of the instance, got {mode!r}.")
    return mode


def _checked_fields(model: type[Model], fields: Any) -> tuple[str, ...] | None:
    names = _checked_names("fields", fields)
    for name in names or ():
        if column(model, name) is None:
            allowed = ", ".join(sorted(field.name for field in model._meta.concrete_fields))
            raise ValueError(f"fields: {model._meta.label} saves no field {name!r}; there are {allowed}.")
    return names


def _checked_names(argument: str, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Collection) or not all(isinstance(each, str) for each in names):
        raise TypeError(f'{argument} must be several names, as in ["{names if isinstance(names, str) else "name"}"].')
    return tuple(names)


def _function(argument: str, function: Any) -> Any:
    if function is None:
        return None
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"{argument} must be a function of the instance, not {function!r}.")
    if iscoroutinefunction(function):
        raise TypeError(f"{argument} must be a plain function: saves call it where nothing can be awaited.")
    return function


def _proxies(model: type[Model]) -> list[type[Model]]:
    found = []
    for each in model.__subclasses__():
        if each._meta.proxy and each._meta.apps is model._meta.apps and not issubclass(each, BroadcastOnSave):
            found += [each, *_proxies(each)]
    return found


def _prepared(sender: type[Model], **kwargs: Any) -> None:
    """Cover a proxy that is defined after its model was bound."""
    if sender._meta.proxy and sender not in registered:
        for each in line_of(sender)[1:]:
            rules = registered.get(each)
            if isinstance(rules, Binding) and each._meta.concrete_model is sender._meta.concrete_model:
                watch(sender, rules)
                return


class_prepared.connect(_prepared, dispatch_uid="ds_broadcaster.bindings")
