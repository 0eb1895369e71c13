"""A site for the testing kit: rooms with members, their pages and their channels. A ROOT_URLCONF."""

import asyncio

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.template import RequestContext, Template
from django.urls import include, path
from django.utils.html import format_html, format_html_join

from ds_broadcaster import BroadcastChannelView, broadcast
from tests.chat.models import Message, Room

# What hooks were called with.
attended = []


def is_member(user, pk):
    return user.groups.filter(name=f"room-{pk}").exists()


class KitRoomChannel(BroadcastChannelView):
    """The messages of a room and the people in it, for its members."""

    url_path = "kit/rooms/<int:pk>/"

    def channel_name(self):
        return f"room-{self.kwargs['pk']}"

    def has_permission(self):
        return is_member(self.request.user, self.kwargs["pk"])

    def render_snapshot(self):
        return messages(self.kwargs["pk"])

    def render_presence(self, user_ids):
        names = [(" class=away" if each.away else "", each.user_id) for each in self.present]
        return format_html('<ul id="people">{}</ul>', format_html_join("", "<li{}>{}</li>", names))

    def on_join(self, user_id):
        attended.append(("join", user_id, Room.objects.count()))

    def on_leave(self, user_id):
        attended.append(("leave", user_id, Room.objects.count()))


def messages(pk):
    rows = ((message.pk, message.text) for message in Message.objects.filter(room=pk))
    return format_html('<ul id="messages">{}</ul>', format_html_join("", '<li id="message-{}">{}</li>', rows))


PAGE = Template(
    """{% load ds_broadcaster %}<!doctype html><title>{{ room }}</title>
    <form id="say" method="post" action="say/">{% csrf_token %}<input name="text"></form>
    <ul id="people"></ul>{{ message_list }}{% broadcast_connect "kit-room-channel" pk=room.pk %}"""
)


@login_required
def page(request, pk):
    context = {"room": Room.objects.get(pk=pk), "message_list": messages(pk)}
    return HttpResponse(PAGE.render(RequestContext(request, context)))


def say(request, pk):
    Message.objects.create(room_id=pk, text=request.POST["text"])
    broadcast.signals(f"room-{pk}", {"count": Message.objects.filter(room=pk).count()})
    return redirect(f"/rooms/{pk}/")


def open_to_all(request, name):
    return broadcast.connect(name, request)


@login_required
def own(request, name):
    return broadcast.connect([name, f"of-{request.user.pk}"], request)


async def open_in_async_view(request, name):
    return await broadcast.aconnect(name, request)


async def never_rests(request):
    async def events():
        while True:
            yield b"event: datastar-patch-signals\ndata: signals {}\n\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def ticks(request):
    async def events():
        while True:
            yield b'event: datastar-patch-signals\ndata: signals {"tick":1}\n\n'
            await asyncio.sleep(1)

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def own_stream(request, how):
    async def events():
        yield b"event: datastar-patch-sig"
        yield b'nals\r\ndata: signals {"cut":1}\r\n\r\n'
        if how == "fails":
            raise ZeroDivisionError("Half of it came.")

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def waits(request):
    await asyncio.Event().wait()


async def takes_its_time(request):
    await asyncio.sleep(5)
    return HttpResponse("done")


def fails(request):
    raise ZeroDivisionError("The view fails.")


urlpatterns = [
    path("never-rests/", never_rests),
    path("ticks/", ticks),
    path("waits/", waits),
    path("own-stream/<how>/", own_stream),
    path("takes-its-time/", takes_its_time),
    path("fails/", fails),
    path("rooms/<int:pk>/", page),
    path("rooms/<int:pk>/say/", say),
    path("open/<slug:name>/", open_to_all, name="open"),
    path("own/<slug:name>/", own, name="own"),
    path("aopen/<slug:name>/", open_in_async_view, name="aopen"),
    path("events/", include("ds_broadcaster.urls")),
]
