"""What a view grants, and how that reaches whoever carries it out."""

from typing import Any, NamedTuple

from .channel import AttendanceHook, PresenceCallback

# The header by which the wrapper knows a response that it is to take over; it never leaves the process.
HANDOFF_HEADER = "X-Ds-Broadcaster-Handoff"
# Where the wrapper keeps the streams of a request, in the ASGI scope.
SCOPE_KEY = "ds_broadcaster.handoff"
# Set in the scope of a request that is only asked whether it would still be granted its stream.
RECHECK_KEY = "ds_broadcaster.recheck"


class StreamGrant(NamedTuple):
    """What a view grants: for whom, and where on each of its channels the stream begins.

    `cursor` is where the client is; channels in `gaps` cannot serve it from there and begin at `granted`, the
    newest sequence at that moment, in this `epoch`. `snapshot` is sent in place of what is missing. `tab` is the id of
    the tab that asks and `element` the one of the element that carries the stream, where `{% broadcast_connect %}`
    made it.
    `recheck_interval` is in seconds.
    """

    channels: tuple[str, ...]
    user_id: Any
    epoch: str
    cursor: int
    granted: int
    gaps: frozenset[str] = frozenset()
    snapshot: bytes = b""
    presence_callback: PresenceCallback | None = None
    attendance_hook: AttendanceHook | None = None
    tab: str | None = None
    element: str | None = None
    recheck_interval: float | None = None
