"""suppress_broadcasts: blocks and functions whose saves are not broadcast."""

from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.db.models import Model

P = ParamSpec("P")
R = TypeVar("R")

_suppressed: ContextVar[tuple[type, ...]] = ContextVar("ds_broadcaster.suppressed", default=())


class suppress_broadcasts:
    """Silence a block, or the function it decorates, for these models and their subclasses; for all without any.

    >>> with suppress_broadcasts(Message):
    ...     message.save()

    What is saved inside is not broadcast, not even when its transaction ends outside; other threads and tasks are
    not concerned.
    """

    def __init__(self, *models: type[Model]) -> None:
        given: tuple[Any, ...] = models
        for model in given:
            if not (isinstance(model, type) and issubclass(model, Model)):
                raise TypeError(
                    f"suppress_broadcasts takes models, as in suppress_broadcasts(Message), or nothing, as in "
                    f"suppress_broadcasts(), not {model!r}."
                )
        self._models: tuple[type, ...] = models or (Model,)
        self._tokens: list[Token[tuple[type, ...]]] = []

    def __enter__(self) -> None:
        self._tokens.append(_suppressed.set(_suppressed.get() + self._models))

    def __exit__(self, *error: object) -> None:
        _suppressed.reset(self._tokens.pop())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        # With a block of its own for each call: tokens belong to the context that they were made in.
        models = cast("tuple[type[Model], ...]", self._models)
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaiting(*args: P.args, **kwargs: P.kwargs) -> Any:
                with suppress_broadcasts(*models):
                    return await cast("Callable[P, Any]", function)(*args, **kwargs)

            return cast("Callable[P, R]", awaiting)

        @wraps(function)
        def calling(*args: P.args, **kwargs: P.kwargs) -> R:
            with suppress_broadcasts(*models):
                return function(*args, **kwargs)

        return calling


def is_suppressed(model: type[Model]) -> bool:
    """Tell whether suppress_broadcasts() is in force here for a model."""
    return issubclass(model, _suppressed.get())
