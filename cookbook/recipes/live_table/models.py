from django.db import models

from ds_broadcaster import BroadcastOnSave


class Label(models.Model):
    name = models.CharField(max_length=30, unique=True)

    def __str__(self):
        return self.name


class Ticket(BroadcastOnSave):
    title = models.CharField(max_length=100)
    votes = models.PositiveIntegerField(default=0)
    closed = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    labels = models.ManyToManyField(Label, blank=True)

    broadcast_refreshes = True

    def __str__(self):
        return self.title

    def broadcast_channel(self):
        return "tickets"

    @property
    def label_names(self):
        return [label.name for label in self.labels.all()]
