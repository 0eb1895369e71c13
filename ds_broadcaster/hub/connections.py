"""A connection: where a client stands in the logs of its channels, and how it ends.

There are two kinds, one for each way a stream meets Django: see handoff.py and plain.py. Both belong to the hub's
loop.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..asgi_servers import notice_dead_peers
from .channel import Channel, Chunk, merged_chunk

if TYPE_CHECKING:
    from .hub import Hub

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

# Seconds. A client that takes nothing for longer is aborted; it returns with its cursor.
STALL_LIMIT = 30
# Seconds. The log of a burst is held for a client that is still taking it, not for one that has stopped.
KEEPING_UP = 2


class Origin(NamedTuple):
    """The request that was granted a stream, and the ASGI application that answered it."""

    application: Callable[[Message, Receive, Send], Awaitable[None]]
    scope: Message


class Connection:
    """What both kinds share: where the client stands and what comes next."""

    __slots__ = (
        "_patient",
        "blocked_since",
        "busy",
        "channels",
        "cursor",
        "element",
        "ending",
        "granted",
        "hub",
        "origin",
        "presence_at",
        "recheck",
        "slot",
        "tab",
        "transport",
        "until",
        "user_id",
    )

    def __init__(self, hub: "Hub", user_id: Any, transport: asyncio.Transport | None) -> None:
        self.hub = hub
        self.user_id = user_id
        self.transport = transport
        self.channels: tuple[Channel, ...] = ()
        self.cursor = 0
        self.presence_at: float = 0
        # Those that share a turn for heartbeats; None before hub.open() and after hub.close().
        self.slot: dict[Connection, None] | None = None
        self.busy = True  # Until the opening frames are out.
        self.blocked_since = 0.0
        self._patient = False
        # Once set, only what was published up to `until` and these last bytes go out. The flag: a clean end?
        self.ending: tuple[bytes, bool] | None = None
        self.until = 0
        # What {% broadcast_connect %} tells: the tab that the stream is for, and the element that carries it.
        self.tab: str | None = None
        self.element: str | None = None
        # The request that was granted the stream, and when it is asked again.
        self.origin: Origin | None = None
        self.recheck: asyncio.TimerHandle | None = None
        # The newest sequence when the view granted the stream: no command from before concerns it.
        self.granted = 0
        if transport is not None:
            notice_dead_peers(transport)

    def next_chunk(self) -> Chunk | None:
        """Return what to write next and move the cursor there; raises Gap when the client is too far behind."""
        if self.ending is not None:
            chunk = merged_chunk(self.channels, self.cursor, math.inf, self.until, self.tab)
        elif len(self.channels) == 1 and not self.channels[0].excludes(self.tab, self.cursor):
            chunk = self.channels[0].next_chunk(self.cursor, self.presence_at)
        else:
            chunk = merged_chunk(self.channels, self.cursor, self.presence_at, tab=self.tab)
        if chunk is not None:
            self.cursor = chunk.cursor
            self.presence_at = chunk.presence_at
        return chunk

    def stop_at(self, farewell: bytes, clean: bool) -> bool:
        """Take nothing in that is newer than now; False when the end was decided before."""
        if self.ending is not None:
            return False
        self.ending = (farewell, clean)
        self.until = self.hub.head
        return True

    def keeps_up(self) -> bool:
        """Tell whether a blocked connection was writing a moment ago."""
        return self.hub.now() - self.blocked_since < KEEPING_UP

    def pump(self) -> None:
        """Write what is new, as far as the client takes it."""
        raise NotImplementedError

    def beat(self, message: Message, sequence: int) -> None:
        """Write a heartbeat that moves the client's cursor to `sequence`, unless the client is busy anyway."""
        raise NotImplementedError

    def end(self, farewell: bytes = b"", *, clean: bool = True) -> None:
        """End the stream behind everything published so far.

        A clean end is final for most clients; an unclean one, without HTTP's last chunk, makes all of them return.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """End the stream at once, whatever is still to be written."""
        raise NotImplementedError

    def be_patient(self) -> None:
        """Let the kernel wait for a stalled client as long as the hub does."""
        if not self._patient and self.transport is not None:
            self._patient = True
            notice_dead_peers(self.transport, user_timeout=STALL_LIMIT)

    def _block(self) -> None:
        self.hub.pulse.blocked.pop(self, None)  # It is in the order of time.
        self.blocked_since = self.hub.now()
        self.hub.pulse.blocked[self] = None
        for channel in self.channels:
            channel.blocked[self] = None

    def _unblock(self) -> None:
        self.hub.pulse.blocked.pop(self, None)
        for channel in self.channels:
            channel.blocked.pop(self, None)
        if self._patient and self.transport is not None:
            self._patient = False
            notice_dead_peers(self.transport)
