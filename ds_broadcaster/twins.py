"""Verbs that have an async twin: `elements` and `aelements`."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.core.exceptions import SynchronousOnlyOperation

P = ParamSpec("P")
R = TypeVar("R")


def has_async_twin(verb: Callable[P, R]) -> Callable[P, R]:
    """Make a verb name its twin where Django refuses to wait for a database, in an async view."""

    @wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except SynchronousOnlyOperation as error:
            name = verb.__name__
            raise SynchronousOnlyOperation(
                f"broadcast.{name}() has to wait for a database, which async code must not: "
                f"write `await broadcast.a{name}(...)`."
            ) from error

    return call
