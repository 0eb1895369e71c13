"""System checks of the models that are broadcast: mistakes that a save could only log."""

from collections.abc import Iterable, Iterator, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.template import TemplateDoesNotExist
from django.template.loader import select_template

from .base import BroadcastOnSave
from .bind import Binding
from .options import MODES, Rules, as_names, column, registered

HOOKS = ("broadcast_channel", "render_broadcast", "broadcast_created", "broadcast_updated", "broadcast_deleted")
MIDDLEWARE = "ds_broadcaster.middleware.BroadcasterMiddleware"


def check_models(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Report what is wrong with the models that inherit BroadcastOnSave or are bound."""
    labels = None if app_configs is None else {each.label for each in app_configs}
    messages: list[CheckMessage] = []
    for model in apps.get_models(include_auto_created=True):
        rules = registered.get(model)
        # A binding covers the proxies of its model; it is reported once.
        if rules is not None and rules.model is model and (labels is None or model._meta.app_label in labels):
            messages += check_model(model, rules)
    return messages


def check_model(model: type[Model], rules: Rules) -> list[CheckMessage]:
    """Report what is wrong with one model's rules."""
    if isinstance(rules, Binding):
        # bind_broadcasts() has refused the rest.
        template = rules.says["template_name"]
        renders = not (rules.says["created"] and rules.says["updated"])
        found = [*_check_template(model, template, renders), *_check_joins(model, rules.select_related)]
    else:
        assert issubclass(model, BroadcastOnSave)
        found = [
            *_check_channel(model),
            *_check_hooks(model),
            *_check_template(model, model.broadcast_template_name, _renders(model)),
            *_check_fields(model),
            *_check_place(model),
            *_check_joins(model, model.broadcast_select_related),
        ]
    return [*found, *_check_sender(model, rules)]


def _renders(model: type[BroadcastOnSave]) -> bool:
    hooks = ("broadcast_created", "broadcast_updated")
    overridden = all(getattr(model, hook) is not getattr(BroadcastOnSave, hook) for hook in hooks)
    return not overridden and model.render_broadcast is BroadcastOnSave.render_broadcast


def _check_channel(model: type[BroadcastOnSave]) -> Iterator[CheckMessage]:
    channel: Any = model.broadcast_channel
    if channel is BroadcastOnSave.broadcast_channel:
        yield Error(
            f"{model.__name__} must define broadcast_channel().",
            hint="Return the name of the channel that shows its objects, several, or None to stay silent.",
            obj=model,
            id="ds_broadcaster.E010",
        )
    elif not callable(channel):
        yield Error(
            f"{model.__name__}.broadcast_channel must be a method.",
            hint=f"Write `def broadcast_channel(self): return {channel!r}`.",
            obj=model,
            id="ds_broadcaster.E010",
        )


def _check_hooks(model: type[BroadcastOnSave]) -> Iterator[CheckMessage]:
    for hook in HOOKS:
        if iscoroutinefunction(getattr(model, hook)):
            yield Error(
                f"{model.__name__}.{hook}() must be a plain method.",
                hint="Write `def`, not `async def`: saves call it where nothing can be awaited.",
                obj=model,
                id="ds_broadcaster.E016",
            )


def _check_template(model: type[Model], template_name: Any, renders: bool) -> Iterator[CheckMessage]:
    if not renders or callable(template_name) or isinstance(template_name, property):
        return
    names: Sequence[str] = ()
    try:
        names = as_names(template_name, model)
        select_template(list(names))
    except TemplateDoesNotExist:
        yield Error(
            f"The template of {model.__name__}'s broadcasts does not exist: {' or '.join(names)}.",
            hint=_where_to_create(model, names[0]),
            obj=model,
            id="ds_broadcaster.E011",
        )
    except Exception as error:
        yield Error(
            f"The template of {model.__name__}'s broadcasts cannot be loaded: {error}",
            hint=f"broadcast_template_name is {template_name!r}.",
            obj=model,
            id="ds_broadcaster.E011",
        )


def _where_to_create(model: type[Model], name: str) -> str:
    if not issubclass(model, BroadcastOnSave):
        # The model's app is somebody else's, in most cases Django's own.
        return f"Create {name} in a `templates` folder of your own, or give bind_broadcasts() a template_name."
    path = Path(apps.get_app_config(model._meta.app_label).path, "templates", name)
    base = Path.cwd()
    path = path.relative_to(base) if path.is_relative_to(base) else path
    return f"Create {path}, or set broadcast_template_name."


def _check_fields(model: type[BroadcastOnSave]) -> Iterator[CheckMessage]:
    fields: Any = model.broadcast_fields
    if fields is None:
        return
    if isinstance(fields, str) or not isinstance(fields, Iterable):
        yield Error(
            f"{model.__name__}.broadcast_fields must be a set of field names, not {fields!r}.",
            hint='Write for example broadcast_fields = {"text"}.',
            obj=model,
            id="ds_broadcaster.E012",
        )
        return
    for name in fields:
        if column(model, name) is None:
            allowed = ", ".join(field.name for field in model._meta.concrete_fields)
            yield Error(
                f"{model.__name__}.broadcast_fields names {name!r}, which is no field that a save writes.",
                hint=f"The fields are {allowed}.",
                obj=model,
                id="ds_broadcaster.E012",
            )


def _check_place(model: type[BroadcastOnSave]) -> Iterator[CheckMessage]:
    mode: Any = model.broadcast_mode
    target: Any = model.broadcast_target
    if mode not in MODES and not isinstance(mode, property):
        yield Error(
            f"{model.__name__}.broadcast_mode = {mode!r} is no way to patch a created object in.",
            hint=f"The modes are {', '.join(MODES)}.",
            obj=model,
            id="ds_broadcaster.E013",
        )
    if target is None or isinstance(target, property):
        return
    if not isinstance(target, str) or not target.strip() or any(each in target for each in "\r\n\0"):
        yield Error(
            f"{model.__name__}.broadcast_target = {target!r} is no selector.",
            hint='Write a CSS selector on one line, for example broadcast_target = "#messages".',
            obj=model,
            id="ds_broadcaster.E014",
        )


def _check_joins(model: type[Model], joins: Any) -> Iterator[CheckMessage]:
    if isinstance(joins, str) or not isinstance(joins, Iterable):
        yield Error(
            f"{model.__name__}.broadcast_select_related must be several names, not {joins!r}.",
            hint='Write for example broadcast_select_related = ("room",).',
            obj=model,
            id="ds_broadcaster.E015",
        )
        return
    for join in joins:
        if not (isinstance(join, str) and _is_join(model, join)):
            yield Error(
                f"{model.__name__}.broadcast_select_related names {join!r}, which select_related() does not follow.",
                hint="Name foreign keys and one-to-one fields, with __ between the steps of a path.",
                obj=model,
                id="ds_broadcaster.E015",
            )


def _is_join(model: type[Model], path: str) -> bool:
    for step in path.split("__"):
        try:
            field: Any = model._meta.get_field(step)
        except FieldDoesNotExist:
            return False
        if not (field.is_relation and (field.many_to_one or field.one_to_one) and field.related_model):
            return False
        model = field.related_model
    return True


def _check_sender(model: type[Model], rules: Rules) -> Iterator[CheckMessage]:
    if rules.exclude_sender and MIDDLEWARE not in django_settings.MIDDLEWARE:
        yield Warning(
            f"{model.__name__}.broadcast_exclude_sender has no effect without BroadcasterMiddleware.",
            hint=f"Add {MIDDLEWARE!r} to MIDDLEWARE, behind the authentication middleware.",
            obj=model,
            id="ds_broadcaster.W010",
        )
