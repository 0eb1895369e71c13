"""The live site, with a line in the log for each user who joins or leaves. It is a ROOT_URLCONF."""

from django.dispatch import receiver

from ds_broadcaster import signals
from tests.project.live_site import urlpatterns  # noqa: F401


@receiver([signals.user_joined, signals.user_left])
def told(signal, channel, user_id, **kwargs):
    print("attendance", "joined" if signal is signals.user_joined else "left", channel, user_id, flush=True)
