from django.conf import settings
from django.db import models

from ds_broadcaster import BroadcastOnSave


class Notification(BroadcastOnSave):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notifications")
    text = models.CharField(max_length=200)
    read = models.BooleanField(default=False)

    broadcast_target, broadcast_mode = "#notifications", "prepend"

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return self.user

    def broadcast_created(self):
        return self.render_broadcast(), {"unread": unread(self.user)}

    def broadcast_updated(self):
        return self.broadcast_created()


def unread(user):
    return user.notifications.filter(read=False).count()
