"""Sync views, as the documentation writes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse

from ds_broadcaster import broadcast

from ..payload import publish_from_thread

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase


def stream(request: HttpRequest) -> HttpResponseBase:
    """Open a stream."""
    return broadcast.connect("bench", request)


def presence(request: HttpRequest) -> HttpResponseBase:
    """Open a stream of a channel that shows who is there, as the user whose number the query carries."""
    request.user = User(pk=int(request.GET["user"]) + 1)
    return broadcast.connect("presence", request, presence_callback=who_is_there)


def who_is_there(channel: str, user_ids: list[int]) -> str:
    """Render a list of all users, with a stamp and their number for the load client."""
    people = "".join(f"<li>{user_id}</li>" for user_id in user_ids)
    padding = "x" * 64
    return f'<ul id="who" data-ts="{time.time_ns()}" data-n="{len(user_ids)}" data-pad="{padding}">{people}</ul>'


def publish(request: HttpRequest) -> HttpResponse:
    """Broadcast the events of the query from a thread."""
    publish_from_thread(request.GET.dict(), lambda html: broadcast("bench", html))
    return HttpResponse(status=204)
