"""Streams whose views change their minds, accounts that change, and a page with our own element. A ROOT_URLCONF."""

import threading
import time

from django.contrib.auth import get_user_model, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.utils import OperationalError
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import RequestContext, Template
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from ds_broadcaster import BroadcastChannelView, broadcast
from ds_broadcaster.streams.scope import RECHECK_KEY
from tests.project import urls

_lock = threading.Lock()
asked = {}
streams = {}
running = most = threads = 0
# What switch() told views to do.
switches = {}


class RoomChannel(BroadcastChannelView):
    """A group's channel, for its members; asked again every half second."""

    url_path = "rooms/<slug:name>/"
    recheck_interval = 0.5

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        return Group.objects.filter(name=self.kwargs["name"], user=self.request.user.pk).exists()

    def render_snapshot(self):
        return '<p id="snapshot"></p>'


def note(request, name):
    again = RECHECK_KEY in request.scope
    with _lock:
        (asked if again else streams).setdefault(name, []).append(time.monotonic())
    return again


def members_only(request, name):
    """The plainest of views: any user who is logged in."""
    note(request, name)
    if not request.user.is_authenticated:
        return HttpResponse(status=204 if "last-event-id" in request.headers else 403)
    return broadcast.connect(name, request, presence_callback=lambda channel, users: {"online": len(users)})


@transaction.non_atomic_requests
async def amembers_only(request, name):
    note(request, name)
    user = await request.auser()
    if not user.is_authenticated:
        return HttpResponse(status=403)
    return await broadcast.aconnect(name, request)


@csrf_exempt
@login_required
def switched(request, name):
    """Open a stream; a re-check meets what switch() told."""
    global running, most, threads
    what = switches.get(name, "")
    again = note(request, name)
    if not again:
        return broadcast.connect(name, request)
    with _lock:
        running += 1
        most = max(most, running)
        threads = max(threads, threading.active_count())
    try:
        if what == "slow":
            time.sleep(0.05)
        if what == "hang":
            time.sleep(3)
        if what == "error":
            raise OperationalError("the database is away")
    finally:
        with _lock:
            running -= 1
    if what == "500":
        return HttpResponse(status=500)
    if what == "redirect":
        return HttpResponse(status=302, headers={"Location": "/login/"})
    if what == "endless":
        return StreamingHttpResponse(endless())
    if what == "other-user":
        request.user = get_user_model()(pk=999_999)
    return broadcast.connect(f"{name}-moved" if what == "other-channel" else name, request)


async def endless():
    while True:
        yield b"more"


@login_not_required
def switch(request, name, what):
    switches[name] = what
    return HttpResponse()


@login_not_required
def what_was_asked(request, name):
    return JsonResponse(
        {
            "asked": len(asked.get(name, [])),
            "streams": len(streams.get(name, [])),
            "most": most,
            "threads": threads,
            "now": threading.active_count(),
        }
    )


@login_not_required
def membership(request, name, username, verb):
    group, _ = Group.objects.get_or_create(name=name)
    user = get_user_model().objects.get(username=username)
    (group.user_set.add if verb == "add" else group.user_set.remove)(user)
    return HttpResponse()


@login_not_required
def account(request, username, verb):
    user = get_user_model().objects.get(username=username)
    if verb == "delete":
        user.delete()
        return HttpResponse()
    if verb == "off":
        user.is_active = False
    elif verb == "password":
        user.set_password("another one")
    else:
        user.first_name = "Somebody"
    user.save()
    return HttpResponse()


@login_required
def own_password(request):
    request.user.set_password("my new one")
    request.user.save()
    update_session_auth_hash(request, request.user)
    return HttpResponse()


@login_required
def log_out_late(request):
    """Log out; what else the view does takes a moment, during which nothing is committed with ATOMIC_REQUESTS."""
    logout(request)
    time.sleep(0.3)
    return HttpResponse()


@login_not_required
def page(request, name):
    """A page with our own element; `asked/` tells how many streams it asked for."""
    template = """{% load ds_broadcaster %}<!doctype html><html lang="en"><head><meta charset="utf-8">
        <title>Page</title>
        <link rel="icon" href="data:,">{% datastar_script %}</head><body>{% broadcast_connect "members-only" name %}
        <ol id="log"></ol><p data-signals="{online: 0}"><span id="online" data-text="$online"></span>
        <span id="state" data-text="$_broadcast"></span></p></body></html>"""
    return HttpResponse(Template(template).render(RequestContext(request, {"name": name})))


urlpatterns = [
    path("members/<slug:name>/", members_only, name="members-only"),
    path("amembers/<slug:name>/", amembers_only),
    path("switched/<slug:name>/", switched),
    path("switch/<slug:name>/<slug:what>/", switch),
    path("asked/<slug:name>/", what_was_asked),
    path("membership/<slug:name>/<username>/<verb>/", membership),
    path("account/<username>/<verb>/", account),
    path("own-password/", own_password),
    path("log-out-late/", log_out_late),
    path("own-page/<slug:name>/", page),
    *urls.urlpatterns,
]
