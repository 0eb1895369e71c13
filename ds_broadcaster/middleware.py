"""Optional middleware: lets model broadcasts leave out the tab that made the change, and pages know when they began."""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from .broadcaster import broadcast
from .streams.refusal import refusal
from .streams.requests import CURSOR_ATTRIBUTE, ELEMENT_PARAMETER
from .streams.tabs import serving
from .views.channel_view import BroadcastChannelView


@sync_and_async_middleware
def BroadcasterMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Know, for as long as a request is answered, which tab sent it and when that began.

    Put it behind the authentication middleware. Models with `broadcast_exclude_sender` need it, and with it
    `{% broadcast_connect %}` starts its stream where the request began: nothing is lost that was saved between the
    view's queries and the moment at which its template came to the tag. A decorator around a channel view that
    redirects to a login page is kept from doing so where the client would put that page in place of the whole document.
    """
    if iscoroutinefunction(get_response):
        respond: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            if _is_for_page(request):
                setattr(request, CURSOR_ATTRIBUTE, await broadcast.apage_cursor())
            with serving(request):
                return _for_client(request, await respond(request))

        return amiddleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if _is_for_page(request):
            setattr(request, CURSOR_ATTRIBUTE, broadcast.page_cursor())
        with serving(request):
            return _for_client(request, get_response(request))

    return middleware


def _for_client(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return the answer, or a refusal where a stream's client would be sent somewhere else."""
    if 300 <= response.status_code < 400 and "Datastar-Request" in request.headers:
        view = getattr(getattr(request.resolver_match, "func", None), "view_class", None)
        # Our own element asks for nothing but streams, whatever kind of view its URL leads to.
        if ELEMENT_PARAMETER in request.GET or (isinstance(view, type) and issubclass(view, BroadcastChannelView)):
            return refusal(request, 403)
    return response


def _is_for_page(request: HttpRequest) -> bool:
    # A broker in another process is asked for it over the network.
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")
