from django.conf import settings
from django.db import models

from ds_broadcaster import BroadcastOnSave


class Room(models.Model):
    name = models.CharField(max_length=50)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="rooms")

    def __str__(self):
        return self.name

    def history(self):
        return self.messages.select_related("author").order_by("pk")


class Message(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    text = models.CharField(max_length=200)

    broadcast_target = "#messages"
    broadcast_select_related = ("author",)

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return f"room-{self.room_id}"

    def broadcast_created(self):
        return self.render_broadcast(), {"count": self.room.messages.count()}
