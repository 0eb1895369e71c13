from typing import Any

from django.dispatch import receiver

from ds_broadcaster import BroadcasterError, BrokerUnavailable, EventTooLarge, broadcast
from ds_broadcaster.asgi import HandoffApplication, get_asgi_application
from ds_broadcaster.signals import connection_closed, connection_opened, user_away, user_back, user_joined, user_left

application: HandoffApplication = get_asgi_application()


@receiver([user_joined, user_left, user_away, user_back, connection_opened, connection_closed])
def count(sender: type, channel: str, user_id: int | None, **kwargs: Any) -> None:
    try:
        broadcast.signals("counts", {channel: len(broadcast.get_users(channel))})
    except EventTooLarge as error:
        print(error.size - error.limit)
    except BrokerUnavailable as error:
        print(error)
    except BroadcasterError:
        raise
