"""The streams of the two pages: their permissions, presence and snapshots."""

from django.template.loader import render_to_string
from django.utils.functional import cached_property

from ds_broadcaster import BroadcastChannelView, broadcast

from . import live
from .models import Room


# section: home
class HomeChannel(BroadcastChannelView):
    """The list of rooms, which each refresh renders for each viewer: their own rooms, in the order of now."""

    url_path = "rooms/"

    def channel_name(self):
        return "rooms"

    def render_snapshot(self):
        return render_to_string("rooms/_cards.html", {"cards": live.cards(self.request.user)})


# end: home


# section: room
class RoomChannel(BroadcastChannelView):
    url_path = "rooms/<int:pk>/"

    @cached_property
    def room(self):
        return Room.objects.filter(pk=self.kwargs["pk"]).first()

    def channel_name(self):
        return [self.room.channel, self.room.personal_channel(self.request.user.pk)]

    def has_permission(self):
        return self.room is not None and self.room.is_open_to(self.request.user)

    def render_presence(self, user_ids):
        """Show who of the members is here and who is away, and hide the pointers of all others."""
        if self.room is None or self.channel != self.room.channel:
            return None
        return render_to_string("rooms/_presence.html", live.roster(self.room, self.present))

    def render_snapshot(self):
        """Return the messages, for a page that was away too long or during a restart of the server."""
        return render_to_string("rooms/_messages.html", {"messages": self.room.history()})

    def on_join(self, user_id):
        broadcast.refresh("rooms")  # Each card has the number of people in its room.

    on_leave = on_join


# end: room
