"""Pages made with the template tags. It is a ROOT_URLCONF: the rest of the test project is served too."""

from collections import defaultdict

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.template import RequestContext, Template
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from ds_broadcaster import BroadcastChannelView, bind_broadcasts, broadcast
from ds_broadcaster.models.registry import registered
from ds_broadcaster.sse import farewell
from ds_broadcaster.streams.requests import is_recheck
from ds_broadcaster.streams.tabs import tab_of
from tests.project import urls

# What came to each stream's view, in order.
asked = defaultdict(list)


def note(request, channel):
    asked[channel].append(
        {
            "tab": tab_of(request),
            "query": {name: value for name, value in request.GET.items() if name != "datastar"},
            "last_event_id": request.headers.get("last-event-id"),
        }
    )


class TagRoom(BroadcastChannelView):
    """A channel that everybody may listen to."""

    url_path = "tag-rooms/<str:channel>/"

    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        if not is_recheck(request):  # No client asks.
            note(request, kwargs["channel"])

    def has_permission(self):
        return True

    def channel_name(self):
        return self.kwargs["channel"]


class MembersRoom(TagRoom):
    """The same for those who are logged in."""

    url_path = "members-rooms/<str:channel>/"

    def has_permission(self):
        return self.request.user.is_authenticated


class EagerRoom(TagRoom):
    """A mistake that the system checks report, of views with a path of their own: this one has none."""

    async def has_permission(self):
        return True


@login_not_required
def own_stream(request, channel):
    """A user's own view, which is no class."""
    note(request, channel)
    return broadcast.connect(channel, request)


@login_not_required
def answer(request, channel, status):
    """Answer a stream's request with this status and nothing else."""
    note(request, channel)
    return HttpResponse(status=status)


@login_not_required
def kick_at_once(request, channel):
    """Open a stream and close it for good, in one piece with the end of the answer."""
    note(request, channel)
    return HttpResponse(farewell(request.GET["element"]), content_type="text/event-stream")


@login_not_required
def what_was_asked(request, channel):
    return JsonResponse({"asked": asked[channel]})


@login_not_required
def page(request):
    """Render `?source=`, a piece of a template, into a page of a client.

    Its context has the `channels` of the query, as a list, the first as `channel`, and `send`, which broadcasts there.
    """
    channels = request.GET.get("channels", "").split(",")

    def send():
        broadcast.elements(channels[0], '<div id="target">sent while rendering</div>')
        return ""

    context = RequestContext(request, {"channels": channels, "channel": channels[0], "send": send})
    content = Template("{% load ds_broadcaster %}" + request.GET["source"]).render(context)
    return render(request, "tags/page.html", {"content": content})


@login_not_required
def page_with_policy(request, channel):
    """A page with a Content-Security-Policy of its own, `?scripts=`; and with `?nonce=`, in the client's nonce mode."""
    template = """{% load ds_broadcaster %}<!doctype html>
        <html lang="en" {% datastar_nonce %}><head><meta charset="utf-8">
        <title>Page</title><link rel="icon" href="data:,">{% datastar_script %}</head><body>
        {% broadcast_connect "tag-room" channel=channel %}
        <div id="target"></div><span id="state" data-text="$_broadcast"></span></body></html>"""
    context = RequestContext(request, {"channel": channel, "csp_nonce": request.GET.get("nonce")})
    headers = {"Content-Security-Policy": f"default-src 'self'; img-src data:; script-src {request.GET['scripts']}"}
    return HttpResponse(Template(template).render(context), headers=headers)


@login_not_required
@csrf_exempt
def tell(request):
    """Tell the page which tab its request came from, in a signal."""
    return JsonResponse({"told": {"tab": tab_of(request), "type": request.content_type}})


@login_not_required
@csrf_exempt
def tell_others(request, channel, how):
    """Tell all tabs but the one that asks, by a call or by saving a model that leaves the sender out."""
    if how == "call":
        broadcast(channel, '<div id="target">by call</div>', exclude=request)
    else:
        if Group not in registered:  # Only in this server, and not where the tests run.
            bind_broadcasts(
                Group,
                channel=lambda group: group.name,
                created=lambda group: '<div id="target">by save</div>',
                updated=lambda group: None,
                exclude_sender=True,
            )
        with transaction.atomic():
            Group.objects.create(name=channel)
    return HttpResponse(status=204)


@login_not_required
def switch_off(request, username):
    """Switch an account off, and leave it so: each test logs in anew."""
    user = get_user_model().objects.get(username=username)
    user.is_active = False
    user.save()
    user.delete()
    return HttpResponse(status=204)


urlpatterns = [
    path("tell/<str:channel>/<how>/", tell_others),
    path("switch-off/<username>/", switch_off),
    path("events/eager-rooms/<str:channel>/", EagerRoom.as_view(), name="eager-room"),
    path("own/<str:channel>/", own_stream, name="own-stream"),
    path("own/<str:first>/<str:second>/", own_stream, name="pair"),
    path("any/<path:path>", own_stream, name="any-path"),
    path("odd/<name>/<context>/", own_stream, name="odd-names"),
    path("answer/<str:channel>/<int:status>/", answer, name="answer"),
    path("kick/<str:channel>/", kick_at_once, name="kick"),
    path("asked/<str:channel>/", what_was_asked),
    path("tags/", page, name="tags"),
    path("policy/<str:channel>/", page_with_policy),
    path("tell/", tell),
    path("nested/", include(([path("own/<str:channel>/", own_stream, name="stream")], "nested"))),
    # As a channel view is named, which goes before it.
    path("not-this-one/<str:channel>/", own_stream, name="tag-room"),
    path("live/", include("ds_broadcaster.urls", namespace="live")),
    *urls.urlpatterns,
]
