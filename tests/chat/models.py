# mypy: ignore-errors
"""Models of each kind: with defaults, named fields, hooks and composite keys; inherited, proxied and bound ones."""

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
    """A proxy: the same element and the same template."""

    class Meta:
        proxy = True


class Letter(Message):
    """A child with a table of its own, but no template."""

    stamp = models.CharField(max_length=20, default="")


class Reply(BroadcastOnSave):
    """Broadcast to the room of its message: a cascade must not delete the message first."""

    message = models.ForeignKey(Message, models.CASCADE)
    text = models.TextField()

    broadcast_template_name = "chat/_reply.html"
    broadcast_select_related = ("message__room",)

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return [f"room-{self.message.room_id}", self.message]


class Article(BroadcastOnSave):
    """Broadcast when one of the named fields changes."""

    title = models.CharField(max_length=50)
    views = models.IntegerField(default=0)
    tags = models.JSONField(default=list)
    room = models.ForeignKey(Room, models.SET_NULL, null=True)
    file = models.FileField(blank=True)

    broadcast_fields = {"title", "tags", "room", "file"}  # noqa: RUF012

    class Meta:
        # Without it a system check asks the database, even in tests without database access.
        required_db_features = {"supports_json_field"}  # noqa: RUF012

    def __str__(self):
        return self.title

    def broadcast_channel(self):
        return "articles"


class Job(BroadcastOnSave):
    """Its hooks return what a test sets, a value or a function of the instance."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    state = models.CharField(max_length=20, default="new")
    code = models.CharField(max_length=20, db_default=Upper(models.Value("abc")))

    hooks = {}  # noqa: RUF012
    broadcast_target = "#jobs"
    broadcast_mode = "prepend"

    def __str__(self):
        return self.state

    def broadcast_channel(self):
        return self._result("channel", lambda: "jobs")

    def render_broadcast(self):
        return self._result("render", lambda: f"<p>{self.state} {self.code}</p>")

    def broadcast_created(self):
        return self._result("created", super().broadcast_created)

    def broadcast_updated(self):
        return self._result("updated", super().broadcast_updated)

    def broadcast_deleted(self):
        return self._result("deleted", super().broadcast_deleted)

    def _result(self, hook, default):
        if hook not in self.hooks:
            return default()
        result = self.hooks[hook]
        return result(self) if callable(result) else result


class Seat(BroadcastOnSave):
    """With a composite key."""

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
    """Without a channel."""

    text = models.TextField(default="")

    broadcast_template_name = "chat/_message.html"

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return None


class Label(models.Model):
    name = models.CharField(max_length=20)

    def __str__(self):
        return self.name


class Note(models.Model):
    """Not broadcast by itself: tests bind it."""

    text = models.TextField(default="")
    extra = models.TextField(default="")
    room = models.ForeignKey(Room, models.CASCADE, null=True)
    labels = models.ManyToManyField(Label)
    friends = models.ManyToManyField("self")

    def __str__(self):
        return self.text


class StickyNote(Note):
    class Meta:
        proxy = True


class UrgentNote(StickyNote):
    """A proxy of a proxy."""

    class Meta:
        proxy = True


class LongNote(Note):
    more = models.TextField(default="")
