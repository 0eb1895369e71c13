"""The exceptions of ds_broadcaster."""


class BroadcasterError(Exception):
    """The base of all exceptions here."""


class EventTooLarge(BroadcasterError, ValueError):
    """An event is larger than DS_BROADCASTER_MAX_EVENT_BYTES.

    `size` and `limit` are in bytes of the encoded event.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The event takes {size} bytes and DS_BROADCASTER_MAX_EVENT_BYTES allows {limit}. "
            "Send a smaller fragment, or raise the setting."
        )
        self.size = size
        self.limit = limit


class BrokerUnavailable(BroadcasterError, ConnectionError):
    """The broker could not be reached in time. What was being sent may or may not have arrived there."""


class Gap(BroadcasterError):
    """A cursor points at events that the log no longer has."""
