"""One view, sync, as the documentation writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.urls import path

from ds_broadcaster import broadcast

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


def stream(request: HttpRequest) -> HttpResponseBase:
    """Open a stream of the channel in the query."""
    return broadcast.connect(request.GET["channel"], request)


urlpatterns = [path("stream", stream)]
