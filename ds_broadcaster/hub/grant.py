"""What a view grants to a client: the one thing that passes from a request to the hub."""

from typing import Any, NamedTuple

from .channel import AttendanceHook, PresenceCallback


class Arrival(NamedTuple):
    """When a request came in: seconds on the broadcaster's clock, and a sequence that had been given out by then."""

    time: float
    sequence: int


class StreamGrant(NamedTuple):
    """A granted stream: for which user, and where it begins on each of its channels.

    `cursor` is where the client is. Channels in `gaps` cannot serve it from there and begin at `granted`, the newest
    sequence at that moment, in this `epoch`. `snapshot` is sent in place of the missing events. `tab` is the id of the
    tab that asks, `element` that of the element which carries the stream, as `{% broadcast_connect %}` made it.
    `recheck_interval` is in seconds. `arrival` is that of its request, `granted_at` the time of the grant.
    """

    channels: tuple[str, ...]
    user_id: Any
    epoch: str
    cursor: int
    granted: int
    arrival: Arrival
    granted_at: float
    gaps: frozenset[str] = frozenset()
    snapshot: bytes = b""
    presence_callback: PresenceCallback | None = None
    attendance_hook: AttendanceHook | None = None
    tab: str | None = None
    element: str | None = None
    recheck_interval: float | None = None
