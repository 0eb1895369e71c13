from django.db import models

from ds_broadcaster import BroadcastOnSave


class Note(BroadcastOnSave):
    text = models.CharField(max_length=200)

    broadcast_target = "#notes"

    def __str__(self):
        return self.text

    def broadcast_channel(self):
        return "wall"
