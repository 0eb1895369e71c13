"""Broadcasts of state that no model holds: presence, typing and pointers."""

from django.db.models import F, OuterRef, Subquery

from ds_broadcaster import broadcast

from .models import Message


def cards(user):
    """Return the memberships of a user with the newest message of each room; rooms with news come first."""
    newest = Message.objects.filter(room=OuterRef("room")).order_by("-pk")
    memberships = user.memberships.select_related("room__owner").prefetch_related("room__memberships__user")
    return memberships.annotate(
        newest=Subquery(newest.values("pk")[:1]),
        newest_author=Subquery(newest.values("author__first_name")[:1]),
        newest_text=Subquery(newest.values("text")[:1]),
    ).order_by(F("newest").desc(nulls_first=True), "-room")


def roster(room, present, viewer_id=None):
    """Return the template context of the members, in a fixed order so that no button moves.

    A page's viewer is here, though its stream is not open yet.
    """
    memberships = room.memberships.select_related("user").order_by("user__first_name")
    by_user = {each.user_id: each for each in present}
    for membership in memberships:
        present = by_user.get(membership.user_id, membership.user_id == viewer_id)
        membership.present = not membership.kicked and present
    return {"room": room, "roster": memberships}


def show_roster(room):
    """Show the members again after a change other than a join or leave."""
    context = roster(room, broadcast.get_presence(room.channel))
    broadcast.template(room.channel, "rooms/_presence.html", context)


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
