"""What is wrong with the options of models: bind_broadcasts() refuses it, a system check reports it."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.template import TemplateDoesNotExist
from django.template.loader import select_template

from ..ids import single_line
from .base import BroadcastOnSave
from .options import MODES, Options, as_names, column, mode_error, registered

# Of BroadcastOnSave, and of bind_broadcasts() where functions must be, or may be, given.
METHODS = ("broadcast_channel", "render_broadcast", "broadcast_created", "broadcast_updated", "broadcast_deleted")
HOOKS = ("created", "updated", "deleted")
MAYBE_FUNCTIONS = ("channel", "template_name", "target", "mode")

MIDDLEWARE = "ds_broadcaster.middleware.BroadcasterMiddleware"


class Problem(NamedTuple):
    """A mistake in the options of a model; `error` is what bind_broadcasts() raises for it."""

    id: str
    text: str
    hint: str
    error: type[Exception] = TypeError


def check_models(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Report what is wrong with the models that inherit BroadcastOnSave or are bound."""
    labels = None if app_configs is None else {each.label for each in app_configs}
    messages: list[CheckMessage] = []
    for model in apps.get_models(include_auto_created=True):
        options = registered.get(model)
        # A binding covers the proxies of its model; it is reported once.
        if options is not None and options.model is model and (labels is None or model._meta.app_label in labels):
            messages += check_options(options)
    return messages


def check_options(options: Options) -> list[CheckMessage]:
    """Report what is wrong with the options of one model."""
    return [
        (Warning if ".W" in each.id else Error)(each.text, hint=each.hint, obj=options.model, id=each.id)
        for each in problems(options)
    ]


def problems(options: Options, *, is_loaded: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with the options of a model.

    Templates, relations and settings count only where the project `is_loaded`: a model may be bound before.
    """
    yield from _problems_of_functions(options)
    yield from _problems_of_template(options, is_loaded)
    yield from _problems_of_fields(options)
    yield from _problems_of_mode(options)
    yield from _problems_of_target(options)
    yield from _problems_of_joins(options, is_loaded)
    if is_loaded and options.exclude_sender and MIDDLEWARE not in django_settings.MIDDLEWARE:
        yield Problem(
            "ds_broadcaster.W010",
            f"{_subject(options, 'exclude_sender')} has no effect without BroadcasterMiddleware.",
            f"Add {MIDDLEWARE!r} to MIDDLEWARE, after the authentication middleware.",
        )


def _problems_of_functions(options: Options) -> Iterator[Problem]:
    if not options.is_bound and options.written("channel") is BroadcastOnSave.broadcast_channel:
        yield Problem(
            "ds_broadcaster.E010",
            f"{options.model.__name__} must define broadcast_channel().",
            "Return the name of the channel that shows its objects, several, or None to stay silent.",
        )
    for name, function in _functions(options):
        number = "ds_broadcaster.E010" if name.endswith("channel") else "ds_broadcaster.E016"
        if iscoroutinefunction(function):
            text = f"{name} must be a plain function." if options.is_bound else f"{name}() must be a plain method."
            yield Problem(
                "ds_broadcaster.E016", text, "Write `def`, not `async def`: saves call it where nothing can be awaited."
            )
        elif callable(function) and not isinstance(function, type):
            continue
        elif options.is_bound:
            what = "a function" if name in HOOKS else "a value or a function"
            text = f"{name} must be {what} of the instance, not {function!r}."
            yield Problem(number, text, f"Write for example {name}=lambda {options.model._meta.model_name}: ...")
        else:
            method = name.rpartition(".")[2]
            yield Problem(number, f"{name} must be a method.", f"Write `def {method}(self): return {function!r}`.")


def _functions(options: Options) -> Iterator[tuple[str, Any]]:
    """Yield (name, function) of the options that must be functions, or are."""
    if not options.is_bound:
        for method in METHODS:
            function = getattr(options.model, method)
            if not isinstance(function, property):
                yield f"{options.model.__name__}.{method}", function
        return
    for option in (*MAYBE_FUNCTIONS, *HOOKS):
        function = options.written(option)
        if callable(function) or (option in HOOKS and function is not None):
            yield option, function


def _problems_of_template(options: Options, is_loaded: bool) -> Iterator[Problem]:
    template_name, model = options.written("template_name"), options.model
    if template_name is not None and not isinstance(template_name, str):
        if _is_asked(options, template_name):
            return
        if not template_name or not _is_several(template_name):
            yield _not_several(
                options, "template_name", "ds_broadcaster.E011", "chat/_message.html", "a name or several"
            )
            return
    if not is_loaded or not _renders(options):
        return
    names = as_names(template_name, model)
    try:
        select_template(list(names))
    except TemplateDoesNotExist:
        yield Problem(
            "ds_broadcaster.E011",
            f"The template of {model.__name__}'s broadcasts does not exist: {' or '.join(names)}.",
            _where_to_create(options, names[0]),
        )
    except Exception as error:
        text = f"The template of {model.__name__}'s broadcasts cannot be loaded: {error}"
        yield Problem("ds_broadcaster.E011", text, f"{options.name_of('template_name')} is {template_name!r}.")


def _renders(options: Options) -> bool:
    model = options.model
    if options.is_bound or not issubclass(model, BroadcastOnSave):
        return not (options.written("created") and options.written("updated"))
    hooks = ("broadcast_created", "broadcast_updated")
    overridden = all(getattr(model, hook) is not getattr(BroadcastOnSave, hook) for hook in hooks)
    return not overridden and model.render_broadcast is BroadcastOnSave.render_broadcast


def _where_to_create(options: Options, name: str) -> str:
    if options.is_bound:
        # The model's app belongs to another project, in most cases to Django.
        return f"Create {name} in a `templates` folder of your own, or give bind_broadcasts() a template_name."
    path = Path(apps.get_app_config(options.model._meta.app_label).path, "templates", name)
    base = Path.cwd()
    path = path.relative_to(base) if path.is_relative_to(base) else path
    return f"Create {path}, or set broadcast_template_name."


def _problems_of_fields(options: Options) -> Iterator[Problem]:
    fields, model = options.written("fields"), options.model
    if fields is None:
        return
    if not _is_several(fields):
        yield _not_several(options, "fields", "ds_broadcaster.E012", "text")
        return
    for name in fields:
        if column(model, name) is None:
            yield Problem(
                "ds_broadcaster.E012",
                f"{_subject(options, 'fields')}: {model._meta.label} saves no field {name!r}.",
                f"The fields are {', '.join(sorted(field.name for field in model._meta.concrete_fields))}.",
                ValueError,
            )


def _problems_of_mode(options: Options) -> Iterator[Problem]:
    mode = options.written("mode")
    if mode not in MODES and not _is_asked(options, mode):
        yield Problem(
            "ds_broadcaster.E013",
            mode_error(_subject(options, "mode"), mode),
            _example(options, "mode", "append"),
            ValueError,
        )


def _problems_of_target(options: Options) -> Iterator[Problem]:
    target, subject = options.written("target"), _subject(options, "target")
    if target is None or _is_asked(options, target):
        return
    hint = _example(options, "target", "#messages")
    try:
        if not single_line(subject, target).strip():
            yield Problem("ds_broadcaster.E014", f"{subject} must not be empty, got {target!r}.", hint, ValueError)
    except (TypeError, ValueError) as error:
        yield Problem("ds_broadcaster.E014", str(error), hint, type(error))


def _problems_of_joins(options: Options, is_loaded: bool) -> Iterator[Problem]:
    joins = options.written("select_related")
    if not _is_several(joins):
        yield _not_several(options, "select_related", "ds_broadcaster.E015", "room")
        return
    for join in joins if is_loaded else ():
        if not _is_join(options.model, join):
            yield Problem(
                "ds_broadcaster.E015",
                f"{_subject(options, 'select_related')}: select_related() does not follow {join!r}.",
                "Name foreign keys and one-to-one fields, with __ between the steps of a path.",
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


def _is_asked(options: Options, value: Any) -> bool:
    """Tell whether an option that may be a value is a function of the instance instead."""
    return callable(value) if options.is_bound else isinstance(value, property)


def _is_several(names: Any) -> bool:
    return isinstance(names, Collection) and not isinstance(names, str) and all(isinstance(each, str) for each in names)


def _not_several(options: Options, option: str, number: str, example: str, what: str = "several names") -> Problem:
    names = options.written(option)
    hint = _example(options, option, [names if isinstance(names, str) else example])
    return Problem(number, f"{_subject(options, option)} must be {what}, not {names!r}.", hint)


def _subject(options: Options, option: str) -> str:
    name = options.name_of(option)
    return name if options.is_bound else f"{options.model.__name__}.{name}"


def _example(options: Options, option: str, value: Any) -> str:
    written = json.dumps(value)
    return f"Write for example {options.name_of(option)}{'=' if options.is_bound else ' = '}{written}."
