"""Pages that each viewer sees differently: refreshed, and rendered for audiences. A ROOT_URLCONF."""

import time

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import Group
from django.http import HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import get_language

from ds_broadcaster import BroadcastChannelView, broadcast
from tests.project import urls

# What is rendered, and how often.
renders = {"own": 0, "shared": 0}
seconds = 0.0


def groups(order):
    rows = Group.objects.order_by(order).values_list("name", flat=True)
    return format_html('<ul id="groups">{}</ul>', format_html_join("", "<li>{}</li>", ((row,) for row in rows)))


class ListChannel(BroadcastChannelView):
    """The groups, in the viewer's own order and language; for members of no group called `banned-<name>`."""

    url_path = "list/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        return not Group.objects.filter(name=f"banned-{self.request.user.username}").exists()

    def render_snapshot(self):
        renders["own"] += 1
        if self.request.GET.get("fails"):
            raise ValueError("This page cannot be rendered.")
        time.sleep(seconds)
        whose = format_html('<p id="whose">{} {}</p>', self.request.user.username, get_language())
        return groups(self.request.GET.get("order", "name")) + whose


class BoardChannel(BroadcastChannelView):
    """One board for those who see the same."""

    url_path = "board/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        return not Group.objects.filter(name=f"banned-{self.request.user.username}").exists()

    def audience(self):
        timezone.activate("Asia/Tokyo")
        return "staff" if self.request.user.is_staff else "rest"

    def render_snapshot(self):
        renders["shared"] += 1
        how = self.request.GET.get("how") if self.kwargs["name"].startswith("leak") else None
        zone = timezone.get_current_timezone_name()
        return format_html(
            '<p id="board">{} {} {} {} {}</p>', self.audience_key, get_language(), zone, Group.objects.count(), how
        )


class PlainChannel(BroadcastChannelView):
    """A stream without a snapshot, and with an audience."""

    url_path = "plain/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def audience(self):
        return self.request.user.username


def change(request):
    """Make or delete groups, and refresh: `?add=`, `?delete=`, `?refresh=`."""
    for name in request.GET.getlist("add"):
        Group.objects.create(name=name)
    Group.objects.filter(name__in=request.GET.getlist("delete")).delete()
    if "refresh" in request.GET:
        broadcast.refresh(request.GET.getlist("refresh"))
    return HttpResponse()


def made(request):
    """How many renders there were."""
    return JsonResponse(renders)


def show(request, name):
    """Send a template to each audience, with a group and a list in its context."""
    group = Group.objects.get(name=request.GET["group"])
    context = {"group": group, "words": ["<b>", "é"], "user": "nobody"}
    broadcast.template(name, "viewer/shown.html", context, "#board", "append", audience=True)
    return HttpResponse()


PAGE = Template(
    "{% load ds_broadcaster %}<!doctype html><html><head>{% datastar_script %}</head><body>"
    '<ul id="groups"></ul><p id="whose"></p><input id="field">'
    "{% broadcast_connect 'list-channel' name=name %}"
    '<span id="state" data-text="$_broadcast"></span></body></html>'
)


def page(request, name):
    return HttpResponse(PAGE.render(RequestContext(request, {"name": name})))


urlpatterns = [
    path("change/", login_not_required(change)),
    path("made/", login_not_required(made)),
    path("show/<slug:name>/", login_not_required(show)),
    path("viewer/<slug:name>/", login_not_required(page)),
    *urls.urlpatterns,
]
