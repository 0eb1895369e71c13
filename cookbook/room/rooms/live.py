"""Broadcasts of state that no model holds: presence, typing and pointers."""

from ds_broadcaster import broadcast


def cards(user):
    memberships = user.memberships.select_related("room", "room__owner").order_by("-room__pk")
    return memberships.prefetch_related("room__memberships__user")


def roster(room, user_ids):
    """Return the template context of the members, in a fixed order so that no button moves."""
    memberships = room.memberships.select_related("user").order_by("user__first_name")
    for membership in memberships:
        membership.here = membership.user_id in user_ids and not membership.kicked
    return {"room": room, "roster": memberships}


def show_roster(room):
    """Show the members again after a change other than a join or leave."""
    context = roster(room, broadcast.get_users(room.channel))
    broadcast.template(room.channel, "rooms/_presence.html", context)


def show_count(room):
    """Update the number of people in a room on every list of rooms."""
    broadcast.signals("rooms", {"_here": {f"r{room.pk}": room.here}})


# section: transient
def show_typing(room, user, typing=True):
    context = {"user": user, "typing": typing}
    key = f"typing-{user.pk}"
    broadcast.template(room.channel, "rooms/_typing.html", context, mode="replace", transient=True, key=key)


def show_pointer(room, user, position):
    """Move a user's pointer: for a client that is slow, the newest position is enough."""
    context = {"user": user, "position": position}
    broadcast.template(room.channel, "rooms/_pointer.html", context, transient=True, key=f"pointer-{user.pk}")


def hide_pointer(room, user):
    """Hide a pointer that has left, also on pages that are hidden now and return later."""
    broadcast.template(room.channel, "rooms/_pointer.html", {"user": user})


# end: transient
