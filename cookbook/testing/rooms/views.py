from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from ds_broadcaster import BroadcastChannelView, broadcast

from .models import Room


class RoomChannel(BroadcastChannelView):
    url_path = "rooms/<int:pk>/"
    presence_template_name = "rooms/_people.html"

    def channel_name(self):
        return f"room-{self.kwargs['pk']}"

    def has_permission(self):
        return Room.objects.filter(pk=self.kwargs["pk"], members=self.request.user.pk).exists()

    def presence_meta(self):
        return {"name": self.request.user.username}

    def render_snapshot(self):
        room = Room.objects.get(pk=self.kwargs["pk"])
        return render_to_string("rooms/_messages.html", {"room": room})


def room_of(request, pk):
    return get_object_or_404(Room, pk=pk, members=request.user)


@login_required
def room(request, pk):
    return render(request, "rooms/room.html", {"room": room_of(request, pk)})


@require_POST
@login_required
def say(request, pk):
    room_of(request, pk).messages.create(author=request.user, text=request.POST["text"])
    return HttpResponse(status=204)


@require_POST
@login_required
def remove(request, pk, user_pk):
    room_of(request, pk).members.remove(user_pk)
    broadcast.disconnect(f"room-{pk}", user_pk)
    return HttpResponse(status=204)
