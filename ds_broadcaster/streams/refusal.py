"""How a client is told that it may not have a stream."""

from collections.abc import Sequence
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

from .requests import is_recheck

LOGIN_MIDDLEWARE = "django.contrib.auth.middleware.LoginRequiredMiddleware"
# Answers that mean "not you" or "not here"; a client that returns for its stream is told so by a 204.
REFUSALS = {401, 403, 404, 410}


def refusal(request: HttpRequest, status: int) -> HttpResponse:
    """Return the answer to a client that may not have its stream.

    One that returns for it is told by 204: with every other answer some retry mode would ask again, without end.
    """
    return HttpResponse(status=204 if "last-event-id" in request.headers or _asks_again(request) else status)


def is_from_datastar(request: HttpRequest) -> bool:
    """Tell whether a request is one that a stream's client makes, which a page's answers are no use to."""
    return "Datastar-Request" in request.headers or "last-event-id" in request.headers or _asks_again(request)


def _asks_again(request: HttpRequest) -> bool:
    return hasattr(request, "scope") and is_recheck(request)


def is_logged_in(request: HttpRequest) -> bool:
    """Tell whether a request has a user."""
    user = getattr(request, "user", None)
    return user is not None and user.is_authenticated


def login_is_required() -> bool:
    """Tell whether the project asks for a login on every page that does not say otherwise."""
    return _has_login_middleware(tuple(settings.MIDDLEWARE))


@lru_cache(maxsize=8)
def _has_login_middleware(names: Sequence[str]) -> bool:
    # By its name: importing it needs django.contrib.auth among the apps, which we do not.
    bases = (base for name in names for base in getattr(import_string(name), "__mro__", ()))
    return any(f"{base.__module__}.{base.__name__}" == LOGIN_MIDDLEWARE for base in bases)
