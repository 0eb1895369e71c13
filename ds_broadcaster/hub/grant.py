"""What a view grants to a client: the one thing that passes from a request to the hub."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ..present import Meta
from .channel import AttendanceHook, PresenceCallback


class Audience:
    """Those who see the same: streams of one view with one `value` of its audience().

    Audiences with the same `key` are equal. `render` returns the frames of their snapshot; None without one.
    """

    __slots__ = ("_hash", "_key", "render", "value")

    def __init__(self, value: Hashable, key: Hashable, render: Callable[[], bytes] | None) -> None:
        self.value = value
        self._key = key
        self._hash = hash(key)  # Here, and not on the loop: values are of the project's classes.
        self.render = render

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, Audience) and bool(self._key == other._key)
        except Exception:  # No audience is another's by mistake.
            return False

    def __hash__(self) -> int:
        return self._hash


class Arrival(NamedTuple):
    """When a request came in: seconds on the broadcaster's clock, and a sequence that had been given out by then."""

    time: float
    sequence: int


class StreamGrant(NamedTuple):
    """A granted stream: for which user, and where it begins on each of its channels.

    `cursor` is where the client is. Channels in `gaps` cannot serve it from there and begin at `granted`, the newest
    sequence at that moment, in this `epoch`. On those in `refreshed` it missed a refresh. `snapshot` stands for
    what it missed. `tab` is the id of the tab that asks, `element` that of the element which carries the stream, as
    `{% broadcast_connect %}` made it. `meta` is what the stream says about itself in presence. `recheck_interval` is in
    seconds. `arrival` is that of its request, `granted_at` the time of the grant. Its client
    takes gzip where it `is_compressed`. A stream that `can_refresh` has a
    snapshot, which those of its `audience` share.
    """

    channels: tuple[str, ...]
    user_id: Any
    epoch: str
    cursor: int
    granted: int
    arrival: Arrival
    granted_at: float
    gaps: frozenset[str] = frozenset()
    refreshed: frozenset[str] = frozenset()
    snapshot: bytes = b""
    presence_callback: PresenceCallback | None = None
    attendance_hook: AttendanceHook | None = None
    tab: str | None = None
    element: str | None = None
    recheck_interval: float | None = None
    can_refresh: bool = False
    audience: Audience | None = None
    meta: Meta | None = None
    is_compressed: bool = False
