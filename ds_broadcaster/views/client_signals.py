"""The signals that a client sends with a request."""

import json
from typing import Any, get_args

from datastar_py.django import read_signals
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..streams.tabs import TAB

# Characters: a client may send ten thousand wrong fields.
MAX_ERROR_LENGTH = 300


class BadSignals(BadRequest):
    """A client sent signals that do not fit the view's model. The message names the fields and nothing else."""


def signals_of(request: HttpRequest, model: type[BaseModel] | None) -> Any:
    """Return the request's signals as an instance of `model`, or as a dict without one.

    Raises BadSignals, which Django answers with 400.
    """
    try:
        signals = read_signals(request)
    except (ValueError, RecursionError) as error:
        raise BadSignals("Bad signals: they are not JSON.") from error
    if signals is None:
        signals = {}
    if not isinstance(signals, dict):
        raise BadSignals("Bad signals: they are not a JSON object.")
    signals.pop(TAB, None)  # Ours, and unknown to a model with extra="forbid".
    if model is None:
        return signals
    try:
        # From JSON, a strict model takes dates and enums as strings.
        return model.model_validate_json(json.dumps(signals))
    except ValidationError as error:
        fields = dict.fromkeys(_field(model, each["loc"]) for each in error.errors())
        raise BadSignals(f"Bad signals: {', '.join(fields)}"[:MAX_ERROR_LENGTH] + ".") from error
    except RecursionError as error:
        raise BadSignals("Bad signals: they are nested too deep.") from error


def _field(model: Any, location: tuple[int | str, ...]) -> str:
    """Return the path of a wrong field, up to where the model declares it: the rest is the client's own text."""
    path: list[str] = []
    for part in location:
        fields: dict[str, FieldInfo] = getattr(model, "model_fields", {})
        found = next((each for name, each in fields.items() if part in _names(name, each)), None)
        if found is None:
            break
        path.append(str(part))
        # Of `Model | None`, the model is one of the arguments.
        inner = [found.annotation, *get_args(found.annotation)]
        model = next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), None)
    return ".".join(path) or "signals"


def _names(name: str, field: FieldInfo) -> set[int | str]:
    alias = field.validation_alias
    aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return {name, *(each.path[0] if isinstance(each, AliasPath) else each for each in aliases if each is not None)}
