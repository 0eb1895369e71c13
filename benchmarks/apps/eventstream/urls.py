"""The stream that the package serves itself, and the trigger."""

from __future__ import annotations

import django_eventstream
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django_eventstream import send_event

from ..payload import publish_from_thread


def publish(request: HttpRequest) -> HttpResponse:
    """Broadcast the events of the query from a thread."""
    publish_from_thread(request.GET.dict(), lambda channel, html: send_event(channel, "message", {"html": html}))
    return HttpResponse(status=204)


def page(request: HttpRequest) -> HttpResponse:
    """Answer with next to nothing."""
    return HttpResponse("page")


urlpatterns = [
    path("stream", include(django_eventstream.urls), {"channels": ["bench"]}),
    path("publish", publish),
    path("sync", page),
]
