"""The spec's own installation and its examples, as a project would write them, and what the live tests ask for beside.

It is a ROOT_URLCONF: the rest of the test project is served too.
"""

import gc
import threading
import time

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import Group
from django.core.handlers.asgi import ASGIRequest
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path
from django.utils.html import format_html

from ds_broadcaster import broadcast
from tests.project import urls, views

# The spec's example, with Django's groups as its rooms


def room_presence(channel, user_ids):
    room = Group.objects.get(pk=channel.removeprefix("room-"))
    members = room.user_set.order_by("username")
    items = "".join(
        format_html("<li{}>{}</li>", " class=online" if user.pk in set(user_ids) else "", user.username)
        for user in members
    )
    return f'<ul id="room-members">{items}</ul>'


@login_required
def room_connect(request, pk):
    room = get_object_or_404(Group, pk=pk, user=request.user)
    return broadcast.connect(f"room-{room.pk}", request, presence_callback=room_presence)


@login_required
def room_leave(request, pk):
    room = get_object_or_404(Group, pk=pk, user=request.user)
    room.user_set.remove(request.user)
    broadcast.disconnect(f"room-{room.pk}", request.user.pk)
    return HttpResponse("left")


# Streams that begin in other ways


@login_not_required
def connect_as(request, pk, channels):
    """Open a stream as the user with this primary key, who need not exist."""
    request.user = get_user_model()(pk=pk)
    return views.connect(request, channels)


@login_not_required
def connect_between(request, channel, verb):
    """End what is connected (`kill`, `disconnect`) after the grant and before the stream begins."""
    request.user = get_user_model()(pk=1)
    response = broadcast.connect(channel, request)
    broadcast.kill(channel) if verb == "kill" else broadcast.disconnect(channel, 1)
    return response


@login_required
def connect_with_session(request, channel):
    request.session["last"] = channel
    return broadcast.connect(channel, request)


@login_required
async def connect_wrongly(request, channel):
    """Call the sync verb in an async view, where request.user cannot be loaded."""
    try:
        return broadcast.connect(channel, request)
    except RuntimeError as error:
        return HttpResponse(str(error), status=500)


@login_required
def connect_only_known(request, channel):
    return broadcast.connect(channel, request)


# Places to send from


@login_not_required
def send_from(request, channel, place):
    def send():
        broadcast.elements(channel, f'<p id="from">{place}</p>')

    if place == "thread":
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    elif place == "commit":
        with transaction.atomic():
            transaction.on_commit(send)
            broadcast(channel, '<p id="from">before the commit</p>')
    elif place == "rollback":
        with transaction.atomic():
            transaction.on_commit(send)
            transaction.set_rollback(True)
    else:
        send()
    return HttpResponse()


@login_not_required
async def send_from_async_view(request, channel, place):
    """Call the sync verb on the event loop itself, where it must not block."""
    broadcast.elements(channel, f'<p id="from">{place}</p>')
    return HttpResponse()


@login_not_required
def paced(request, channel):
    """Send `?count=` items spread over `?seconds=`, numbered from `?start=`, each with the moment it was sent at."""
    count, start = int(request.GET["count"]), int(request.GET["start"])
    pause = float(request.GET["seconds"]) / count
    due = time.monotonic()
    for number in range(start, start + count):
        padding = "x" * int(request.GET.get("size", 0))
        broadcast(channel, f'<li id="item-{number}" data-at="{time.monotonic()}" title="{padding}"></li>')
        due += pause
        time.sleep(max(0, due - time.monotonic()))
    return HttpResponse()


# Presence that tells where it ran, and presence that differs


@login_not_required
def connect_with_presence(request, pk, channel, word):
    """Open a stream whose presence callback says this word; "error" raises, "odd" returns what is no fragment."""

    def presence(channel, user_ids):
        if word == "error":
            raise RuntimeError("this presence callback fails")
        if word == "odd":
            return 7
        broken = [] if isinstance(user_ids, list) else ["not a list"]
        return {"word": word, "channel": channel, "online": user_ids, "broken": broken}

    request.user = get_user_model()(pk=pk)
    return broadcast.connect(channel.split(","), request, presence)


@login_not_required
def new_with_presence(request, channel):
    broadcast.new(channel, views.presence_signals)
    return HttpResponse()


# What a stream holds


@login_not_required
async def held(request):
    """Count what idle streams must not hold: requests (but this one), database connections, threads."""
    gc.collect()
    things = gc.get_objects()
    return JsonResponse(
        {
            "requests": sum(type(thing) is ASGIRequest for thing in things) - 1,
            "databases": sum(
                isinstance(thing, BaseDatabaseWrapper) and thing.connection is not None for thing in things
            ),
            "threads": threading.active_count(),
        }
    )


urlpatterns = [
    path("rooms/<int:pk>/connect/", room_connect, name="room_connect"),
    path("rooms/<int:pk>/leave/", room_leave),
    path("as/<int:pk>/<channels>/", connect_as),
    path("between/<channel>/<verb>/", connect_between),
    path("session/<channel>/", connect_with_session),
    path("wrongly/<channel>/", connect_wrongly),
    path("members/<channel>/", connect_only_known),
    path("new/<channel>/", new_with_presence),
    path("presence/<int:pk>/<channel>/<word>/", connect_with_presence),
    path("send/<channel>/async/", send_from_async_view, {"place": "async view"}),
    path("send/<channel>/<place>/", send_from),
    path("paced/<channel>/", paced),
    path("held/", held),
    *urls.urlpatterns,
]
