"""Sync views, as the documentation writes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine

from ds_broadcaster import BroadcastChannelView, broadcast

from ..payload import publish_from_thread

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase

ROWS = Engine().from_string(
    '<ul id="rows" data-ts="{{ now }}">{% for row in rows %}<li>{{ row }} for {{ who }}</li>{% endfor %}</ul>'
)
made = 0


def stream(request: HttpRequest) -> HttpResponseBase:
    """Open a stream."""
    return broadcast.connect(f"bench{request.GET.get('channel', '')}", request)


async def async_stream(request: HttpRequest) -> HttpResponseBase:
    """Open a stream from an async view."""
    return await broadcast.aconnect("bench", request)


def sync_page(request: HttpRequest) -> HttpResponse:
    """Answer with next to nothing."""
    return HttpResponse("page")


async def async_page(request: HttpRequest) -> HttpResponse:
    """Answer with next to nothing."""
    return HttpResponse("page")


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
    publish_from_thread(request.GET.dict(), broadcast)
    return HttpResponse(status=204)


def rows(who: object) -> str:
    """Render a list of fifty rows, as a page of a site may have it, with a stamp for the load client."""
    return ROWS.render(Context({"now": time.time_ns(), "rows": range(50), "who": who}))


class OwnList(BroadcastChannelView):
    """A list that each viewer sees differently."""

    def channel_name(self) -> str:
        return "lists"

    def has_permission(self) -> bool:
        return True

    def render_snapshot(self) -> str:
        global made
        made += 1
        return rows(self.request.GET["user"])


class SharedList(BroadcastChannelView):
    """A list of which there are two."""

    def channel_name(self) -> str:
        return "lists"

    def has_permission(self) -> bool:
        return True

    def audience(self) -> int:
        return int(self.request.GET["user"]) % 2

    def render_snapshot(self) -> str:
        global made
        made += 1
        return rows(self.audience_key)


def refresh(request: HttpRequest) -> HttpResponse:
    """Refresh the lists."""
    broadcast.refresh("lists")
    return HttpResponse(status=204)


def renders(request: HttpRequest) -> HttpResponse:
    """Tell how often a list was rendered."""
    return HttpResponse(str(made))


def page(request: HttpRequest) -> HttpResponse:
    """Answer with a page of the site."""
    return HttpResponse(rows("everyone"))
