"""The signals that a client sends with a request."""

from typing import Any

from datastar_py.django import read_signals
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from pydantic import BaseModel, ValidationError

from .tabs import TAB

# Characters; a client that sends ten thousand wrong fields need not be told of each.
LONGEST_COMPLAINT = 300


class BadSignals(BadRequest):
    """A client sent signals that are not what the view asks for. The message names the fields and nothing else."""


def signals_of(request: HttpRequest, model: type[BaseModel] | None) -> Any:
    """Return the request's signals as an instance of `model`, or as they are; without any, those are empty.

    Raises BadSignals, which is answered with 400.
    """
    try:
        signals = read_signals(request)
    except (ValueError, RecursionError) as error:
        raise BadSignals("Bad signals: they are not JSON.") from error
    if signals is None:
        signals = {}
    if not isinstance(signals, dict):
        raise BadSignals("Bad signals: they are not a JSON object.")
    signals.pop(TAB, None)  # Ours: a model that forbids what it does not know need not know of it.
    if model is None:
        return signals
    try:
        return model.model_validate(signals)
    except ValidationError as error:
        fields = dict.fromkeys(".".join(map(str, each["loc"])) or "signals" for each in error.errors())
        raise BadSignals(f"Bad signals: {', '.join(fields)}"[:LONGEST_COMPLAINT] + ".") from error
    except RecursionError as error:
        raise BadSignals("Bad signals: they are nested too deep.") from error
