"""The live site, with a line in the log for each user who joins or leaves. It is a ROOT_URLCONF."""

import os

from django.dispatch import receiver

from ds_broadcaster import signals
from tests.project.live_site import urlpatterns  # noqa: F401


@receiver([signals.user_joined, signals.user_left])
def told(signal, channel, user_id, **kwargs):
    verb = "joined" if signal is signals.user_joined else "left"
    # At once: print() writes word by word, and another worker, or a reader of the log, may come between them.
    os.write(1, f"attendance {verb} {channel} {user_id}\n".encode())
