from django.db import models

from ds_broadcaster import BroadcastOnSave


class Task(BroadcastOnSave):
    text = models.CharField(max_length=200)
    done = models.BooleanField(default=False)

    broadcast_target = "#tasks"

    class Meta:
        ordering = ("pk",)

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return "tasks"
