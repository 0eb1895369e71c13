from datetime import timedelta
from itertools import pairwise

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.functional import cached_property

from ds_broadcaster import BroadcastOnSave, broadcast
from ds_broadcaster.models import Face

User = settings.AUTH_USER_MODEL


# section: room
class Room(BroadcastOnSave):
    name = models.CharField(max_length=40)
    topic = models.CharField(max_length=100, blank=True)
    owner = models.ForeignKey(User, models.CASCADE, related_name="owned_rooms")
    members = models.ManyToManyField(User, through="Membership", related_name="rooms")

    broadcast_refreshes = True

    def broadcast_channel(self):
        return "rooms"

    # end: room

    def __str__(self):
        return self.name

    @property
    def channel(self):
        return f"room-{self.pk}"

    def personal_channel(self, user_id):
        """Return the channel for events in this room that only one user gets."""
        return f"room-{self.pk}-user-{user_id}"

    @property
    def people(self):
        """The number of people in the room now, those who are away too."""
        return len(broadcast.get_presence(self.channel))

    def is_open_to(self, user):
        return self.memberships.filter(user=user.pk, kicked=False).exists()

    def history(self, limit=100):
        """The newest messages, oldest first."""
        messages = list(self.messages.select_related("author").order_by("-pk")[:limit])[::-1]
        for before, message in pairwise([None, *messages]):
            message.continues = message.follows(before)
        return messages


class Membership(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    kicked = models.BooleanField(default=False)

    broadcast_refreshes = True

    class Meta:
        constraints = (models.UniqueConstraint(fields=("room", "user"), name="one_membership_each"),)

    def __str__(self):
        return f"{self.user} in {self.room}"

    def broadcast_channel(self):
        return "rooms"


# section: message
class Message(BroadcastOnSave):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(User, models.CASCADE, related_name="messages")
    text = models.TextField(max_length=2000)
    sent = models.DateTimeField(default=timezone.now)

    broadcast_target = "#messages"  # the template is rooms/_message.html
    broadcast_select_related = ("author",)
    broadcast_faces = (Face(channel="rooms", refreshes=True),)  # in the list of rooms, those with news come first

    def __str__(self):
        return self.text[:40]

    def broadcast_channel(self):
        return f"room-{self.room_id}"

    # end: message

    @cached_property
    def continues(self):
        """Whether to show this under the previous message. history() sets it without a query."""
        return self.follows(self.room.messages.filter(pk__lt=self.pk).order_by("-pk").first())

    def follows(self, before):
        """Return whether to show this under `before`: it has the same author and came soon after."""
        return (
            before is not None and before.author_id == self.author_id and self.sent - before.sent < timedelta(minutes=5)
        )
