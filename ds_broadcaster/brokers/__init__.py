"""Brokers carry events between processes. The setting DS_BROADCASTER_BROKER names one."""

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import Settings
from ..sse import PLAIN, Facts, Frame
from .base import (
    COMMANDS_KEPT,
    EVERYWHERE,
    GONE,
    LEASE,
    Broker,
    Command,
    Event,
    GivenCommand,
    Position,
    PresenceChange,
    PresenceDiff,
    PresenceStore,
    ProcessHoldings,
    Receiver,
    frame,
    holdings_of,
    sequence_of,
)

__all__ = [
    "COMMANDS_KEPT",
    "EVERYWHERE",
    "GONE",
    "LEASE",
    "PLAIN",
    "Broker",
    "Command",
    "Event",
    "Facts",
    "Frame",
    "GivenCommand",
    "Position",
    "PresenceChange",
    "PresenceDiff",
    "PresenceStore",
    "ProcessHoldings",
    "Receiver",
    "create_broker",
    "frame",
    "holdings_of",
    "sequence_of",
]


def create_broker(settings: Settings) -> Broker:
    """Return the broker that DS_BROADCASTER_BROKER names; raises ImproperlyConfigured when it names none."""
    backend = settings.broker.BACKEND
    try:
        broker_class = import_string(backend)
    except ImportError as error:
        if not all(map(str.isidentifier, backend.split("."))):
            # It may be a URL with a password.
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['BACKEND'] must be the path of a class, such as "
                '"ds_broadcaster.brokers.redis.RedisBroker". The URL of a server goes into LOCATION.'
            ) from None
        raise ImproperlyConfigured(
            f"DS_BROADCASTER_BROKER['BACKEND'] = {backend!r} cannot be imported: {error}"
        ) from error
    if not (isinstance(broker_class, type) and issubclass(broker_class, Broker)):
        raise ImproperlyConfigured(
            f"DS_BROADCASTER_BROKER['BACKEND'] = {backend!r} is not a subclass of ds_broadcaster.brokers.Broker."
        )
    return broker_class(settings.broker.LOCATION, settings.broker.OPTIONS, settings.history)
