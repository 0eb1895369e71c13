"""What the streams show: one place for every fragment that is sent to more than one page."""

from django.dispatch import receiver
from django.template.loader import render_to_string

from ds_broadcaster import broadcast
from ds_broadcaster.signals import user_joined, user_left

from .models import Room


def home_channels(user_pk):
    """What a list of rooms listens to: news for all, and news for its owner."""
    return ["rooms", f"home-{user_pk}"]


def home_snapshot(request, channel):
    return render_to_string("rooms/_cards.html", {"cards": cards(request.user)})


def cards(user):
    memberships = user.memberships.select_related("room", "room__owner").order_by("-room__pk")
    return memberships.prefetch_related("room__memberships__user")


def show_card(membership, mode="outer"):
    """Bring one card on one person's list of rooms up to date, or add it there."""
    selector = "#rooms" if mode == "prepend" else None
    channel = home_channels(membership.user_id)[1]
    broadcast.template(channel, "rooms/_card.html", {"membership": membership}, selector=selector, mode=mode)


@receiver([user_joined, user_left])
def show_count(channel, **kwargs):
    """Keep the number of people in a room right on every list of rooms."""
    room = room_of(channel)
    if room is not None:
        broadcast.signals("rooms", {"_here": {f"r{room.pk}": room.here}})


def room_of(channel):
    """The room whose main channel this is; a stream carries other channels too."""
    _, _, pk = channel.partition("room-")
    return Room.objects.filter(pk=pk).first() if pk.isdecimal() else None


def room_presence(channel, user_ids):
    """Presence callback: who is here, and no pointer left behind by somebody who is not."""
    room = room_of(channel)
    if room is None:
        return None
    return render_to_string("rooms/_presence.html", roster(room, user_ids))


def room_snapshot(request, channel):
    """Snapshot callback: what a page needs that was away for too long, or across a restart of the server."""
    room = room_of(channel)
    if room is None:
        return None
    return render_to_string("rooms/_messages.html", {"messages": room.history()})


def roster(room, user_ids):
    """Template context: who belongs to the room, always in one order, so that no button moves away."""
    memberships = room.memberships.select_related("user").order_by("user__first_name")
    for membership in memberships:
        membership.here = membership.user_id in user_ids and not membership.kicked
    return {"room": room, "roster": memberships}


def show_roster(room):
    """Show the roster again after a change that is not a coming or going."""
    context = roster(room, broadcast.get_users(room.channel))
    broadcast.template(room.channel, "rooms/_presence.html", context)


def show_message(message):
    """Append a message, once: a page that was rendered with it already does not match the selector."""
    before = message.room.messages.filter(pk__lt=message.pk).order_by("-pk").first()
    message.continues = message.follows(before)
    broadcast.template(
        message.room.channel,
        "rooms/_message.html",
        {"message": message},
        selector=f"#messages:not(:has(#message-{message.pk}))",
        mode="append",
    )


def show_typing(room, user, typing=True):
    context = {"user": user, "typing": typing}
    broadcast.template(room.live_channel, "rooms/_typing.html", context, mode="replace")


def show_pointer(room, user, position=None):
    broadcast.template(room.live_channel, "rooms/_pointer.html", {"user": user, "position": position})
