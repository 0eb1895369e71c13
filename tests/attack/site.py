"""Streams whose permission can be held up, taken away and counted. A ROOT_URLCONF."""

import threading
from collections import Counter, defaultdict

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.http import HttpResponse, JsonResponse
from django.template import engines
from django.urls import path

from ds_broadcaster import BroadcastChannelView, broadcast
from ds_broadcaster.streams.scope import RECHECK_KEY
from tests.project import urls

_lock = threading.Lock()
# How often has_permission() began, and was done: for streams, and for re-checks.
begun = Counter()
done = Counter()
# Checks that wait until gate() opens the gate of their channel; a channel without one has none.
gates = defaultdict(threading.Event)
# Channels whose re-checks wait.
held = set()

PAGE = 60_000


class ClubChannel(BroadcastChannelView):
    """A group's channel, for its members. With `?gate=` the check of a new stream waits after it has decided."""

    url_path = "clubs/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        name = self.kwargs["name"]
        kind = "recheck" if RECHECK_KEY in self.request.scope else "stream"
        with _lock:
            begun[name, kind] += 1
        allowed = self._is_member()
        if (kind == "recheck" and name in held) or (kind == "stream" and "gate" in self.request.GET):
            gates[name].wait(60)
        with _lock:
            done[name, kind] += 1
        return allowed

    def _is_member(self):
        return Group.objects.filter(name=self.kwargs["name"], user=self.request.user.pk).exists()

    def render_snapshot(self):
        return f'<p id="snapshot">secret of {self.kwargs["name"]}</p>'


class HastyChannel(ClubChannel):
    """A club that the clock asks about five times a second."""

    url_path = "hasty/<slug:name>/"
    recheck_interval = 0.2


class UserChannel(ClubChannel):
    """For every user who is logged in."""

    url_path = "users/<slug:name>/"

    def _is_member(self):
        return self.request.user.is_authenticated


@login_not_required
def counts(request, name):
    """Tell how many checks of this channel began and are done."""
    return JsonResponse(
        {f"{kind}_{word}": counter[name, kind] for kind in ("stream", "recheck") for word, counter in COUNTERS.items()}
    )


COUNTERS = {"begun": begun, "done": done}


@login_not_required
def gate(request, name, verb):
    """Open a gate, or hold up the re-checks of a channel."""
    (gates[name].set if verb == "open" else lambda: held.add(name))()
    return HttpResponse()


@login_not_required
def join(request, name, username):
    group, _ = Group.objects.get_or_create(name=name)
    group.user_set.add(get_user_model().objects.get(username=username))
    return HttpResponse()


@login_not_required
def revoke(request, name, username, how):
    """Take a user's permission, and say it in one of the ways there are."""
    user = get_user_model().objects.get(username=username)
    Group.objects.get_or_create(name=name)[0].user_set.remove(user)
    {
        "recheck": lambda: broadcast.recheck(name),
        "recheck-user": lambda: broadcast.recheck(user_id=user.pk),
        "recheck-both": lambda: broadcast.recheck(name, user.pk),
        "disconnect": lambda: broadcast.disconnect(name, user.pk),
        "kill": lambda: broadcast.kill(name),
        "save": user.save,
        "nothing": lambda: None,
    }[how]()
    return HttpResponse()


@login_not_required
def end_sessions(request):
    """End every session in the way that Django tells nobody of."""
    Session.objects.all().delete()
    return HttpResponse()


@login_not_required
def page(request, name):
    """A page that fits into what the server writes at once."""
    with _lock:
        done[name, "stream"] += 1
    return HttpResponse(b"x" * PAGE)


@login_not_required
def subscription(request, channel):
    """A page that has `{% broadcast_subscribe %}` for the user of the request."""
    template = engines["django"].from_string("{% load ds_broadcaster %}{% broadcast_subscribe channel %}")
    return HttpResponse(template.render({"channel": channel.split(",")}, request))


@login_not_required
def flood(request, name, count):
    """Send a little on each of this many channels that nobody has a stream of."""
    for number in range(count):
        broadcast.signals(f"{name}-{number}", {"a": 1})
    return HttpResponse()


urlpatterns = [
    path("flood/<slug:name>/<int:count>/", flood),
    path("counts/<slug:name>/", counts),
    path("gate/<slug:name>/<verb>/", gate),
    path("join/<slug:name>/<username>/", join),
    path("revoke/<slug:name>/<username>/<how>/", revoke),
    path("end-sessions/", end_sessions),
    path("page/<slug:name>/", page),
    path("subscription/<channel>/", subscription),
    *urls.urlpatterns,
]
