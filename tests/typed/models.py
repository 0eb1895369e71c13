from typing import assert_type

from django.contrib.auth.models import Group
from django.db import models

from ds_broadcaster import BroadcastOnSave, bind_broadcasts, broadcast_saved, suppress_broadcasts


class Room(models.Model):
    name = models.CharField(max_length=40)


class Message(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE)
    text = models.TextField()

    broadcast_template_name = "chat/_message.html"
    broadcast_target, broadcast_mode = "#messages", "append"
    broadcast_fields = {"text"}
    broadcast_select_related = ("room",)
    broadcast_exclude_sender = True

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
    bind_broadcasts(Room, channel="rooms", target=lambda room: f"#rooms-{room.pk}", fields={"name"})


def add_many(texts: list[str], room: Room) -> None:
    messages = Message.objects.bulk_create(Message(room=room, text=text) for text in texts)
    broadcast_saved(messages)
    broadcast_saved(Message.objects.filter(room=room), created=False)
    with suppress_broadcasts():
        room.save()
    with suppress_broadcasts(Message, Room):
        room.delete()


@suppress_broadcasts(Message)
def import_messages(count: int) -> list[int]:
    return list(range(count))


assert_type(import_messages(3), list[int])
