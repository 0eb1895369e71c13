"""Make Django pages live: `from ds_broadcaster import broadcast`."""

from .broadcaster import Broadcaster
from .exceptions import BroadcasterError, BrokerUnavailable, EventTooLarge

__all__ = ["BroadcasterError", "BrokerUnavailable", "EventTooLarge", "broadcast"]

broadcast = Broadcaster()
