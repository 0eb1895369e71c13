from typing import assert_type

from django.contrib.auth.models import Group
from django.db import models

from ds_broadcaster import (
    BroadcastOnSave,
    bind_broadcasts,
    broadcast_saved,
    dom_id,
    dom_selector,
    render_broadcast,
    suppress_broadcasts,
)
from ds_broadcaster.models import Face


class Room(models.Model):
    name = models.CharField(max_length=40)


class Poll(BroadcastOnSave):
    broadcast_refreshes = True
    broadcast_audience = False

    def broadcast_channel(self) -> str:
        return "polls"


class Message(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE)
    text = models.TextField()

    broadcast_template_name = "chat/_message.html"
    broadcast_target, broadcast_mode = "#messages", "append"
    broadcast_fields = {"text"}
    broadcast_select_related = ("room",)
    broadcast_exclude_sender = True
    broadcast_moves = {"room"}
    broadcast_limit = 200
    broadcast_touches = {"room": "message_set"}
    broadcast_faces = [Face(channel=lambda message: message, template_name="chat/_page.html", limit=None)]

    def broadcast_shown(self) -> bool:
        return self.text != ""

    def broadcast_channel(self) -> str | None:
        return f"room-{self.room.pk}"

    def broadcast_created(self) -> tuple[str, dict[str, int]]:
        return self.render_broadcast(), {"unread": 1}

    def broadcast_updated(self) -> str:
        return self.render_broadcast()

    def broadcast_deleted(self) -> None:
        return None


def name_of(group: Group) -> str:
    return group.name


def ready() -> None:
    bind_broadcasts(Group, channel=name_of, template_name="chat/_group.html", target="#groups", mode="prepend")
    bind_broadcasts(Group, channel="groups", name="refreshed", refreshes=True, subclasses=True, moves=["name"])
    bind_broadcasts(Room, channel="rooms", target=lambda room: f"#rooms-{room.pk}", fields={"name"})


def mistakes() -> None:
    """What a type checker says of arguments that are no modes, no channels and no hooks."""
    bind_broadcasts(Room, channel="rooms", mode="remove")  # type: ignore[arg-type]
    bind_broadcasts(Room, channel=7)  # type: ignore[arg-type]
    bind_broadcasts(Room, channel=lambda room: room.nmae)  # type: ignore[attr-defined]
    bind_broadcasts(Room, channel=lambda room: room, created=lambda room: room.pk > 1)  # type: ignore[arg-type, return-value]


def add_many(texts: list[str], room: Room) -> None:
    messages = Message.objects.bulk_create(Message(room=room, text=text) for text in texts)
    broadcast_saved(messages)
    broadcast_saved(Message.objects.filter(room=room), created=False)
    with suppress_broadcasts():
        room.save()
    with suppress_broadcasts(Message, Room):
        room.delete()


def texts_of(message: Message, group: Group) -> list[str]:
    return [dom_id(message), dom_selector(group), render_broadcast(message), render_broadcast(group, name="refreshed")]


@suppress_broadcasts(Message)
def import_messages(count: int) -> list[int]:
    return list(range(count))


assert_type(import_messages(3), list[int])
