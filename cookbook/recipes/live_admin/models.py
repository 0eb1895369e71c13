from django.db import models

from ds_broadcaster import BroadcastOnSave


class Order(BroadcastOnSave):
    customer = models.CharField(max_length=100)
    total = models.DecimalField(max_digits=8, decimal_places=2)
    status = models.CharField(
        max_length=10, choices=[(name, name) for name in ("open", "paid", "sent")], default="open"
    )

    broadcast_refreshes = True

    def __str__(self):
        return f"Order {self.pk}"

    def broadcast_channel(self):
        return "orders"
