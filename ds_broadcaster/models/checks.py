"""What is wrong with the options of models: bind_broadcasts() refuses it, a system check reports it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from .options import LIST_MODES, MODES, Face, Options, as_names, channels_of, column, mode_error
from .registry import declared, descendants, registered
from .relations import relation_of

# Of BroadcastOnSave, and of bind_broadcasts() where functions must be, or may be, given.
METHODS = (
    "broadcast_channel",
    "broadcast_shown",
    "render_broadcast",
    "broadcast_created",
    "broadcast_updated",
    "broadcast_deleted",
)
HOOKS = ("shown", "created", "updated", "deleted")
MAYBE_FUNCTIONS = ("channel", "template_name", "target", "mode")

_OTHER_MODES = [mode for mode in MODES if mode not in LIST_MODES]

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
        # What covers a model's proxies and children is reported once.
        if labels is None or model._meta.app_label in labels:
            messages += check_model(model)
    return messages


def check_model(model: type[Model]) -> list[CheckMessage]:
    """Report what is wrong with the faces of one model."""
    faces = declared.get(model, [])
    found = [problem for options in faces for problem in problems(options)]
    if issubclass(model, BroadcastOnSave):
        found += _problems_of_faces(model)
    found += _problems_of_subclasses(model, faces)
    return [(Warning if ".W" in each.id else Error)(each.text, hint=each.hint, obj=model, id=each.id) for each in found]


def problems(options: Options, *, is_loaded: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with the options of a model.

    Templates, relations and settings count only where the project `is_loaded`: a model may be bound before.
    """
    yield from _problems_of_functions(options)
    yield from _problems_of_channel(options)
    if not options.refreshes:
        yield from _problems_of_template(options, is_loaded)
    yield from _problems_of_fields(options, "fields")
    yield from _problems_of_fields(options, "moves")
    yield from _problems_of_mode(options)
    yield from _problems_of_target(options)
    yield from _problems_of_limit(options)
    yield from _problems_of_joins(options, is_loaded)
    yield from _problems_of_touches(options, is_loaded)
    if is_loaded and options.exclude_sender and MIDDLEWARE not in django_settings.MIDDLEWARE:
        yield Problem(
            "ds_broadcaster.W010",
            f"{_subject(options, 'exclude_sender')} has no effect without BroadcasterMiddleware.",
            f"Add {MIDDLEWARE!r} to MIDDLEWARE, after the authentication middleware.",
        )


def _problems_of_faces(model: type[BroadcastOnSave]) -> Iterator[Problem]:
    faces: Any = model.broadcast_faces
    if not isinstance(faces, Sequence) or not all(isinstance(each, Face) for each in faces):
        yield Problem(
            "ds_broadcaster.E019",
            f"{model.__name__}.broadcast_faces must be a list of faces, not {faces!r}.",
            'Write for example broadcast_faces = [Face(channel="tasks", target="#tasks")].',
        )


def _problems_of_subclasses(model: type[Model], faces: Collection[Options]) -> Iterator[Problem]:
    if not faces or any(each.subclasses for each in faces):
        return
    silent = [each._meta.label for each in descendants(model) if each not in registered]
    if silent:
        yield Problem(
            "ds_broadcaster.W011",
            f"{model._meta.label} is broadcast, but saves of {', '.join(sorted(silent))} are not.",
            f"Write bind_broadcasts({model.__name__}, ..., subclasses=True), or bind them too.",
        )


def _problems_of_functions(options: Options) -> Iterator[Problem]:
    if options.is_attributes and options.written("channel") is BroadcastOnSave.broadcast_channel:
        yield Problem(
            "ds_broadcaster.E010",
            f"{options.model.__name__} must define broadcast_channel().",
            "Return the name of the channel that shows its objects, several, or None to stay silent.",
        )
    for name, function in _functions(options):
        option = name.rpartition(".")[2]
        number = "ds_broadcaster.E010" if option.endswith("channel") else "ds_broadcaster.E016"
        if iscoroutinefunction(function):
            text = f"{name}() must be a plain method." if options.is_attributes else f"{name} must be a plain function."
            yield Problem(
                "ds_broadcaster.E016", text, "Write `def`, not `async def`: saves call it where nothing can be awaited."
            )
        elif callable(function) and not isinstance(function, type):
            continue
        elif options.is_attributes:
            yield Problem(number, f"{name} must be a method.", f"Write `def {option}(self): return {function!r}`.")
        else:
            what = "a function" if option in HOOKS else "a value or a function"
            text = f"{name} must be {what} of the instance, not {function!r}."
            yield Problem(number, text, f"Write for example {option}=lambda {options.model._meta.model_name}: ...")


def _problems_of_channel(options: Options) -> Iterator[Problem]:
    channel = options.written("channel")
    if options.is_attributes or callable(channel):
        return
    try:
        channels_of(channel)
    except (TypeError, ValueError) as error:
        text = str(error) if options.is_bound else f"{_subject(options, 'channel')}: {error}"
        yield Problem("ds_broadcaster.E010", text, 'Write for example channel="tasks".', type(error))


def _functions(options: Options) -> Iterator[tuple[str, Any]]:
    """Yield (name, function) of the options that must be functions, or are."""
    if options.is_attributes:
        for method in METHODS:
            function = getattr(options.model, method)
            if not isinstance(function, property):
                yield f"{options.model.__name__}.{method}", function
        return
    for option in (*MAYBE_FUNCTIONS, *HOOKS):
        function = options.written(option)
        if callable(function) or (option in HOOKS and function is not None):
            yield _subject(options, option), function


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
    model: Any = options.model
    if not options.is_attributes:
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
    return f"Create {path}, or set {options.name_of('template_name')}."


def _problems_of_fields(options: Options, option: str) -> Iterator[Problem]:
    fields, model, number = options.written(option), options.model, "ds_broadcaster.E012"
    if fields is None:
        return
    if not _is_several(fields):
        yield _not_several(options, option, number, "room" if option == "moves" else "text")
        return
    for name in fields:
        if column(model, name) is None:
            yield Problem(
                number,
                f"{_subject(options, option)}: {model._meta.label} saves no field {name!r}.",
                f"The fields are {', '.join(sorted(field.name for field in model._meta.concrete_fields))}.",
                ValueError,
            )


def _problems_of_limit(options: Options) -> Iterator[Problem]:
    limit, subject = options.written("limit"), _subject(options, "limit")
    if limit is None:
        return
    number, hint = "ds_broadcaster.E017", _example(options, "limit", 200)
    if isinstance(limit, bool) or not isinstance(limit, int):
        yield Problem(number, f"{subject} must be a whole number, not {limit!r}.", hint)
    elif limit < 1:
        yield Problem(number, f"{subject} must be at least 1, not {limit!r}.", hint, ValueError)
    elif options.written("target") is None or options.written("mode") in _OTHER_MODES:
        yield Problem(
            number,
            f"{subject} has no effect without a target that grows.",
            f'{hint[:-1]} beside a target and the mode "append" or "prepend".',
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


def _problems_of_touches(options: Options, is_loaded: bool) -> Iterator[Problem]:
    touches, subject, number = options.written("touches"), _subject(options, "touches"), "ds_broadcaster.E018"
    if touches is None:
        return
    if not isinstance(touches, Mapping):
        hint = _example(options, "touches", {"author": "comment_set"})
        yield Problem(number, f"{subject} must name relations and their accessors, not {touches!r}.", hint)
        return
    for relation, accessor in touches.items():
        field = relation_of(options.model, relation)
        if field is None:
            text = f"{subject}: {options.model._meta.label} has no relation {relation!r}."
            yield Problem(number, text, "Name a foreign key, a one-to-one or a many-to-many field.", ValueError)
        elif (
            is_loaded and not field.remote_field.hidden and accessor != (back := field.remote_field.get_accessor_name())
        ):
            text = f"{subject}: the accessor of {relation!r} is {back!r}, not {accessor!r}."
            yield Problem(number, text, _example(options, "touches", {relation: back}), ValueError)


def _problems_of_joins(options: Options, is_loaded: bool) -> Iterator[Problem]:
    joins = options.written("select_related")
    if joins is None and not options.is_attributes:
        return
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
    return isinstance(value, property) if options.is_attributes else callable(value)


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
    if not options.is_attributes:
        return f"Write for example {option}={written}."
    return f"Write for example {options.name_of(option)} = {written}."
