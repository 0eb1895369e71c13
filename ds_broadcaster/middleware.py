"""Optional middleware: knows the tab that made a change, and the moment at which a page began."""

import logging
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.http.request import split_domain_port
from django.utils.decorators import sync_and_async_middleware
from django.utils.html import escape

from . import csp
from .broadcaster import broadcast
from .conf import client_url
from .streams.requests import CURSOR_ATTRIBUTE, ELEMENT_PARAMETER
from .streams.responses import REASON_HEADER, redirect_reason, refusal, with_reason
from .streams.tabs import serving
from .views.channel_view import BroadcastChannelView
from .views.connect_element import REFRESH_HEADER

logger = logging.getLogger("ds_broadcaster")

M = TypeVar("M")

# The attribute of a request in which the middleware keeps what its view raised.
_REFUSED = "_ds_broadcaster_refused"


@sync_and_async_middleware
def BroadcasterMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Keep the tab that sent a request, and the moment it came in, for as long as the request is answered.

    Put it after the authentication middleware. Models with `broadcast_exclude_sender` need it. With it,
    `{% broadcast_connect %}` starts its stream at the beginning of the request: no change is lost between the view's
    queries and the tag. It also refuses a stream's client that a decorator around a view would redirect to a login
    page, which the client would show in place of the whole document.

    A request with the header `Broadcast-Refresh` is that of a page that fetches itself. The view sees the page's own
    URL, without the `datastar` parameter that the client adds, and a redirect becomes a 204, which changes nothing.
    """
    if iscoroutinefunction(get_response):
        respond: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            _restore_url(request)
            if _is_for_page(request):
                setattr(request, CURSOR_ATTRIBUTE, await broadcast.page_cursor.aget())
            with serving(request):
                return _for_client(request, await respond(request))

        return _noting_refusals(amiddleware)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        _restore_url(request)
        if _is_for_page(request):
            setattr(request, CURSOR_ATTRIBUTE, broadcast.page_cursor.get())
        with serving(request):
            return _for_client(request, get_response(request))

    return _noting_refusals(middleware)


def _restore_url(request: HttpRequest) -> None:
    """Take the client's parameter out of the query of a page that fetches itself."""
    query = request.META.get("QUERY_STRING", "")
    if "datastar=" in query and request.method == "GET" and REFRESH_HEADER in request.headers:
        parts = [each for each in query.split("&") if not each.startswith("datastar=")]
        request.META["QUERY_STRING"] = "&".join(parts)
        # Django parses the query when it is first asked for, and keeps it.
        vars(request).pop("GET", None)


def _for_client(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return the response, or what leaves the page as it is where the client would show a redirect's target."""
    view = getattr(getattr(request.resolver_match, "func", None), "view_class", None)
    is_ours = isinstance(view, type) and issubclass(view, BroadcastChannelView)
    if response.status_code in (301, 302, 303, 307, 308) and REFRESH_HEADER in request.headers:
        return HttpResponse(status=204)
    is_redirect = 300 <= response.status_code < 400 and "Datastar-Request" in request.headers
    # An element of ours asks for streams alone, whatever kind of view is at its URL.
    if is_redirect and (is_ours or ELEMENT_PARAMETER in request.GET):
        return refusal(request, why=redirect_reason(response.headers.get("Location", "")))
    if is_ours:
        # Django's own page, of what the view raised.
        response.headers.setdefault("Cache-Control", "no-store")
    if settings.DEBUG:
        _help_developer(request, response)
    return response


def _noting_refusals(middleware: M) -> M:
    function: Any = middleware
    function.process_exception = _note_refusal
    return middleware


def _note_refusal(request: HttpRequest, exception: Exception) -> None:
    if settings.DEBUG and isinstance(exception, (PermissionDenied, Http404)):
        setattr(request, _REFUSED, repr(exception))


def _help_developer(request: HttpRequest, response: HttpResponseBase) -> None:
    """Tell the browser why a view of the project's own refused a stream; look at the policy of a page with a stream."""
    why = getattr(request, _REFUSED, None)
    if why is not None and ELEMENT_PARAMETER in request.GET and REASON_HEADER not in response.headers:
        name = getattr(getattr(request.resolver_match, "func", None), "__name__", "the view")
        with_reason(response, f"{name}: {why}")
    if not (isinstance(response, HttpResponse) and b"data-broadcast=" in response.content):
        return
    try:
        client = client_url()
    except (ValueError, ImproperlyConfigured):
        client = ""
    told = partial(
        _check_policy,
        response,
        client if client and escape(client).encode() in response.content else None,
        b"data-nonce=" in response.content,
        split_domain_port(request.headers.get("Host", ""))[0],
    )
    # The middleware of the policy may come after this one: when the response is closed, its headers are complete.
    closers: list[Any] = vars(response)["_resource_closers"]
    closers.append(told)


def _check_policy(response: HttpResponse, client: str | None, has_attribute: bool, host: str) -> None:
    """Log, with DEBUG, what the Content-Security-Policy of a page with a stream stops."""
    for policy in csp.parsed(response.headers.get("Content-Security-Policy", "")):
        for each in csp.problems(policy, client, has_attribute=has_attribute, host=host):
            _warn_once(f"{each.message} {each.hint}")


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def _is_for_page(request: HttpRequest) -> bool:
    # The id may cost a round trip to the broker.
    return request.method == "GET" and "text/html" in request.META.get("HTTP_ACCEPT", "")
