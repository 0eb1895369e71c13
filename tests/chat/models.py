# mypy: ignore-errors
"""Models of each kind: with all defaults, with fields that are news, with overrides, inherited, proxied, bound."""

import uuid

from django.db import models
from django.db.models.functions import Upper

from ds_broadcaster import BroadcastOnSave
from ds_broadcaster.ids import dom_id


class Room(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self):
        return self.name


class Message(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE)
    text = models.TextField()
    likes = models.IntegerField(default=0)

    broadcast_target = "#messages"

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return f"room-{self.room_id}"


class LoudMessage(Message):
    """A proxy: it shows the same element, by the same template."""

    class Meta:
        proxy = True


class Letter(Message):
    """A child with a table of its own, and without a template of its own."""

    stamp = models.CharField(max_length=20, default="")


class Reply(BroadcastOnSave):
    """Broadcast where its message's room is: the channel needs what a cascade deletes first."""

    message = models.ForeignKey(Message, models.CASCADE)
    text = models.TextField()

    broadcast_template_name = "chat/_reply.html"
    broadcast_select_related = ("message__room",)

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return [f"room-{self.message.room_id}", self.message]


class Article(BroadcastOnSave):
    """Only some fields are news."""

    title = models.CharField(max_length=50)
    views = models.IntegerField(default=0)
    tags = models.JSONField(default=list)
    room = models.ForeignKey(Room, models.SET_NULL, null=True)
    file = models.FileField(blank=True)

    broadcast_fields = {"title", "tags", "room", "file"}  # noqa: RUF012

    class Meta:
        # Or a system check asks the database, which tests without one run too.
        required_db_features = {"supports_json_field"}  # noqa: RUF012

    def __str__(self):
        return self.title

    def broadcast_channel(self):
        return "articles"


class Job(BroadcastOnSave):
    """What is sent is said by a function that a test sets."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    state = models.CharField(max_length=20, default="new")
    code = models.CharField(max_length=20, db_default=Upper(models.Value("abc")))

    hooks = {}  # noqa: RUF012
    broadcast_target = "#jobs"
    broadcast_mode = "prepend"

    def __str__(self):
        return self.state

    def broadcast_channel(self):
        return self._say("channel", lambda: "jobs")

    def render_broadcast(self):
        return self._say("render", lambda: f"<p>{self.state} {self.code}</p>")

    def broadcast_created(self):
        return self._say("created", super().broadcast_created)

    def broadcast_updated(self):
        return self._say("updated", super().broadcast_updated)

    def broadcast_deleted(self):
        return self._say("deleted", super().broadcast_deleted)

    def _say(self, what, default):
        if what not in self.hooks:
            return default()
        answer = self.hooks[what]
        return answer(self) if callable(answer) else answer


class Seat(BroadcastOnSave):
    """Its key is made of two."""

    pk = models.CompositePrimaryKey("room_id", "number")
    room = models.ForeignKey(Room, models.CASCADE)
    number = models.IntegerField()
    taken_by = models.CharField(max_length=20, default="")

    broadcast_target = "#seats"
    broadcast_select_related = ("room",)

    def __str__(self):
        return f"{self.number} {self.taken_by}"

    def broadcast_channel(self):
        return self.room

    def render_broadcast(self):
        return f'<p id="{dom_id(self)}">{self.room}: {self}</p>'


class Silent(BroadcastOnSave):
    """Nobody is told."""

    text = models.TextField(default="")

    broadcast_template_name = "chat/_message.html"

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return None


class Note(models.Model):
    """Somebody else's: tests bind it."""

    text = models.TextField(default="")
    extra = models.TextField(default="")
    room = models.ForeignKey(Room, models.CASCADE, null=True)

    def __str__(self):
        return self.text


class StickyNote(Note):
    class Meta:
        proxy = True


class LongNote(Note):
    more = models.TextField(default="")
