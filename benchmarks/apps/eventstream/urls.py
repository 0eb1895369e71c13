"""The package's own view of a stream, and the trigger."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import path
from django_eventstream import send_event
from django_eventstream.views import events

from ..payload import publish_from_thread


def stream(request: HttpRequest) -> HttpResponseBase:
    """Open a stream of one of the channels that a load spreads clients over, or of the only one."""
    response: HttpResponseBase = events(request, channels=[f"bench{request.GET.get('channel', '')}"])
    return response


def publish(request: HttpRequest) -> HttpResponse:
    """Broadcast the events of the query from a thread."""
    publish_from_thread(request.GET.dict(), lambda channel, html: send_event(channel, "message", {"html": html}))
    return HttpResponse(status=204)


def page(request: HttpRequest) -> HttpResponse:
    """Answer with next to nothing."""
    return HttpResponse("page")


urlpatterns = [
    path("stream", stream),
    path("publish", publish),
    path("sync", page),
]
