"""What pages are shown that no model holds: who is here, who is typing, where somebody points."""

from ds_broadcaster import broadcast


def cards(user):
    memberships = user.memberships.select_related("room", "room__owner").order_by("-room__pk")
    return memberships.prefetch_related("room__memberships__user")


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


def show_count(room):
    """Keep the number of people in a room right on every list of rooms."""
    broadcast.signals("rooms", {"_here": {f"r{room.pk}": room.here}})


def show_typing(room, user, typing=True):
    context = {"user": user, "typing": typing}
    broadcast.template(room.live_channel, "rooms/_typing.html", context, mode="replace")


def show_pointer(room, user, position=None):
    broadcast.template(room.live_channel, "rooms/_pointer.html", {"user": user, "position": position})
