"""Connections: where each client stands in the logs of its channels, what it gets next, and how it ends.

A Connection has one write path. Opening frames, events, heartbeats, retry lines and farewells are chunks, and each goes
through `_write()`, which a carrier defines: streams/taken_over.py, streams/handoff.py and streams/plain.py.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from ..asgi_servers import limit_silence, probe_when_idle
from ..exceptions import Gap
from ..ids import format_id, listed
from ..present import Meta
from ..sse import id_frame, visible_heartbeat
from .channel import Channel, Chunk, Stop
from .compression import EMPTY_BLOCK, Mark
from .grant import Audience
from .replay import chunk_until, next_chunk

logger = logging.getLogger("ds_broadcaster")

# Seconds. A client that takes nothing for longer is aborted; it returns with its cursor.
STALL_LIMIT = 30
# Seconds. The log of a burst is held for a client that is still taking it, not for one that has stopped or is slow.
KEEPING_UP = 2
# Streams of a process that the kernel probes when they are idle, see probe_when_idle(). Clients of the others that go
# without a word are noticed by their next heartbeat.
PROBED = 1000
# Heartbeats are spread over the interval: each tick serves one slot of the connections.
SLOTS = 16


class Head:
    """The newest event that all connections have, or are about to get: its epoch and sequence."""

    __slots__ = ("epoch", "sequence")

    def __init__(self, epoch: str, sequence: int) -> None:
        self.epoch = epoch
        self.sequence = sequence

    @property
    def id(self) -> str:
        """The event's id."""
        return self.id_of(self.sequence)

    def id_of(self, sequence: int) -> str:
        """Return the id of an event of this epoch."""
        return format_id(self.epoch, sequence)


class Closing(NamedTuple):
    """How a stream ends: with the events up to the sequence `until`, then `farewell`, then HTTP's end if `clean`.

    A clean end is final for most clients; an unclean one, without HTTP's last chunk, makes all of them return. `why` is
    for people.
    """

    until: int
    farewell: bytes
    clean: bool
    why: str


# A heartbeat for an element whose cursor must stay.
SIGN_OF_LIFE = Chunk(visible_heartbeat(None))
# One for a client that takes gzip and knows the newest id.
GZIP_SIGN_OF_LIFE = Chunk(EMPTY_BLOCK)
ABORTED = Closing(0, b"", clean=False, why="aborted")


class Refresh:
    """The refreshes of one connection.

    `owed` are the channels whose refresh it has passed and not shown, and `job` the render that it waits for, which it
    stands still for when it `is_paused`. `digest` is that of the last snapshot, `cursor` the place at which it was
    shown, `rendered_at` the time.
    """

    __slots__ = ("cursor", "digest", "is_paused", "job", "looked_at", "owed", "rendered_at")

    def __init__(self) -> None:
        self.owed: set[str] = set()
        self.job: Any = None
        self.is_paused = False
        self.digest = b""
        self.cursor = 0
        self.rendered_at = -math.inf
        self.looked_at = -math.inf


class Connection:
    """What all carriers share: where the client stands, and what comes next. Lives on the hub's loop.

    `busy` means that nothing can be written now: the opening frames are not out yet, the transport is full, or the
    stream is over.
    """

    __slots__ = (
        "_farewell_sent",
        "_patient",
        "audience",
        "behind_since",
        "blocked_since",
        "busy",
        "can_refresh",
        "channels",
        "closing",
        "cursor",
        "element",
        "granted",
        "in_step_since",
        "is_present",
        "meta",
        "opened",
        "presence_at",
        "recheck",
        "refresh",
        "registry",
        "request",
        "sent",
        "slot",
        "tab",
        "transport",
        "user_id",
    )

    registry: "Connections"
    # For people: how the stream is carried.
    way = ""
    # Whether the carrier calls registry.on_lost() at the end, and not the block of Hub.stream().
    closes_itself = False

    def __init__(self, user_id: Any, transport: asyncio.Transport | None) -> None:
        self.user_id = user_id
        self.transport = transport
        # Of the grant.
        self.channels: tuple[Channel[Connection], ...] = ()
        self.cursor = 0
        self.granted = 0  # No command from before this sequence concerns the stream.
        self.opened = 0  # No transient event from before this sequence is for the client.
        self.tab: str | None = None
        self.element: str | None = None
        self.can_refresh = False
        self.audience: Audience | None = None
        self.meta: Meta | None = None
        self.is_present = False  # Whether its user counts as online by it.
        # Of the write path.
        self.presence_at: float = 0
        self.busy = True
        self.blocked_since = 0.0
        self.behind_since: float | None = None
        self.closing: Closing | None = None
        self._farewell_sent = False
        self._patient = False
        # What it was last sent as gzip, and from which offset of a tape on; None for a client that does not take it.
        self.sent: Mark | None = None
        self.in_step_since = 0
        # Of Refreshes, from the first one on.
        self.refresh: Refresh | None = None
        # Of Connections: those that share a turn for heartbeats, None while the connection is not open.
        self.slot: dict[Connection, None] | None = None
        # Of Rechecks: what the carrier keeps of the granted request, and the timer of the next re-check.
        self.request: Any = None
        self.recheck: asyncio.TimerHandle | None = None
        if transport is not None:
            limit_silence(transport)

    @property
    def is_open(self) -> bool:
        """Tell whether the connection is among the open ones of its hub."""
        return self.slot is not None

    # What a carrier defines.

    def _write(self, chunk: Chunk) -> bool:
        """Write a chunk. Return True when it is out; otherwise call _written() when it is, unless the stream ended."""
        raise NotImplementedError

    def _end(self) -> None:
        """End the stream, now that the farewell is out."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the stream at once; the client returns for what is still to be written."""
        raise NotImplementedError

    # The write path.

    def _put(self, chunk: Chunk) -> bool:
        """Write a chunk as the client takes it: what is written in another way must be no text. See _write()."""
        if self.sent is not None and chunk.body:
            chunk, self.sent, self.in_step_since = chunk.packed(self.sent, self.in_step_since)
        return self._write(chunk)

    def start(self, opening: Chunk | None) -> None:
        """Write the opening frames, then the events that came meanwhile, or the farewell of one that is to end."""
        self.busy = False
        if opening is None:
            self._say_farewell()
        elif self._put(opening):
            self.pump()

    def pump(self) -> None:
        """Write what is new, as far as the client takes it."""
        if self.busy:
            return
        if self.refresh is not None and self._is_paused():
            self.behind_since = None  # It has taken a heartbeat.
            return
        closing = self.closing
        try:
            while True:
                is_owing = self.refresh is not None and bool(self.refresh.owed)
                if closing is None:
                    chunk = next_chunk(self.channels, self.cursor, self.presence_at, self.tab, is_owing, self.opened)
                else:
                    chunk = chunk_until(closing.until, self.channels, self.cursor, self.tab, is_owing, self.opened)
                if chunk is None:
                    break
                if chunk.stop is not None and self._stops_at(chunk.stop):
                    if self._is_paused():
                        return
                    continue
                # A chunk is for clients at several places, of several channels.
                if chunk.cursor > self.cursor:
                    self.cursor = chunk.cursor
                if chunk.presence_at > self.presence_at:
                    self.presence_at = chunk.presence_at
                if chunk.body and not self._put(chunk):  # Transient events of others leave nothing to write.
                    return
                if not chunk.more:
                    break
        except Gap:
            if closing is None:
                self.fall_behind()
                return
            # The stream is over all the same: a client that returned would escape what ended it.
        self.behind_since = None
        if closing is not None:
            self._say_farewell()
        elif self.refresh is not None and self.refresh.owed and self.refresh.job is None:
            self.registry.on_owing(self)

    # Refreshes.

    def _is_paused(self) -> bool:
        return self.refresh is not None and self.refresh.is_paused and self.closing is None

    def _stops_at(self, stop: Stop) -> bool:
        """Have what stands at a stop rendered for this client; return False where it cannot be."""
        is_audience = stop.frame.facts.is_audience
        if not (self.can_refresh or (is_audience and self.closing is None)):
            return False
        if self.refresh is None:
            self.refresh = Refresh()
        if self.closing is not None and not stop.frame.facts.is_transient:
            self.refresh.owed.add(stop.channel)  # The client shows it when it returns.
        if is_audience and self.closing is None and not self.refresh.owed:
            self.registry.on_stop(self, stop)  # Which takes the cursor on.
            return True
        self.cursor = stop.sequence
        if not is_audience and self.closing is None:
            self.registry.on_stop(self, stop)
        return True

    def see_as(self, audience: Audience | None) -> None:
        """Belong to an audience; to another one than before, the page shows what that one sees."""
        if self.audience == audience:
            return
        self.audience = audience
        if self.can_refresh and self.is_open:
            if self.refresh is None:
                self.refresh = Refresh()
            self.refresh.owed.update(channel.name for channel in self.channels)
            self.pump()

    def pause(self) -> None:
        """Write no events. The logs keep them: the client has all that it may have, and keeps up."""
        assert self.refresh is not None
        self.refresh.is_paused = True
        self.behind_since = None
        for channel in self.channels:
            channel.blocked[self] = None

    def resume(self) -> None:
        """Be paused no longer. What comes next is written by pump() or go_on()."""
        assert self.refresh is not None
        if self.refresh.is_paused:
            self.refresh.is_paused = False
            if self not in self.registry.blocked:
                self._release_logs()

    def _release_logs(self) -> None:
        for channel in self.channels:
            channel.blocked.pop(self, None)

    def go_on(self, chunk: Chunk) -> None:
        """Write what was rendered at a stop, and what came meanwhile."""
        self.cursor = chunk.cursor
        if not chunk.body or self._put(chunk):
            self.pump()

    def beat(self, chunk: Chunk) -> None:
        """Write a heartbeat, unless the client is busy anyway. It never moves a cursor back."""
        if self.busy or self.closing is not None:
            return
        # A connection that is neither busy nor paused is caught up. A page's cursor may be ahead of what this hub has
        # heard.
        owes = self.refresh is not None and (self.refresh.owed or self.refresh.is_paused)
        if self.cursor <= chunk.cursor and not owes:
            if self.cursor == chunk.cursor and self.sent is not None and self.sent.tells_id and self.element is None:
                self._write(GZIP_SIGN_OF_LIFE)
                return
            self.cursor = chunk.cursor
            self._put(chunk)
        elif self.element is not None:
            self._put(SIGN_OF_LIFE)

    def end(self, why: str, farewell: bytes = b"", *, clean: bool = True, until: int | None = None) -> None:
        """End the stream after everything published so far, or up to the sequence `until`. See Closing."""
        if self.closing is None:
            self.closing = Closing(self.registry.head.sequence if until is None else until, farewell, clean, why)
            self.pump()

    def fall_behind(self) -> None:
        """Abort, because the log no longer has what comes next; the client returns and is told of the gap."""
        names = listed(channel.name for channel in self.channels)
        logger.info("A client on %s fell behind its history and has to return.", names)
        self.abort()

    def _say_farewell(self) -> None:
        assert self.closing is not None
        self._farewell_sent = True
        if self._put(Chunk(self.closing.farewell, last=self.closing.clean)):
            self._end()

    def _written(self) -> None:
        """Go on after a chunk that had to wait."""
        self.busy = False
        self._unblock()
        if self._farewell_sent:
            self._end()
        elif self.is_open or self.closing is not None:  # Otherwise the client left meanwhile.
            self.pump()

    # Stalls.

    def keeps_up(self) -> bool:
        """Tell whether the client had everything a moment ago. Reading a little all the time does not keep up."""
        return self.behind_since is None or self.registry.loop.time() - self.behind_since < KEEPING_UP

    def be_patient(self) -> None:
        """Let the kernel wait for a stalled client as long as the hub does."""
        if not self._patient and self.transport is not None:
            self._patient = True
            limit_silence(self.transport, STALL_LIMIT)

    def _block(self) -> None:
        self.blocked_since = self.registry.loop.time()
        if self.behind_since is None:
            self.behind_since = self.blocked_since
        self.registry.blocked[self] = None
        for channel in self.channels:
            channel.blocked[self] = None

    def _unblock(self) -> None:
        self.registry.blocked.pop(self, None)
        if not self._is_paused():
            self._release_logs()
        if self._patient and self.transport is not None:
            self._patient = False
            limit_silence(self.transport)


class Connections:
    """The open connections of a hub, and the one timer for heartbeats and stalls, which runs while there are any.

    `blocked` holds the connections whose transport is full, in the order in which that began; among them may be one
    that was told to end and is no longer open. `on_tick` is called at each tick of the timer, `on_interval` once in a
    heartbeat interval. `on_stop` is called with a connection that comes to a refresh, or to an event that is rendered
    for each audience; `on_owing` with one that has all that there is, and a refresh to show;
    `on_lost` with one that closes itself, when it is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        head: Head,
        interval: float,
        *,
        on_tick: Callable[[], None],
        on_interval: Callable[[], None],
        on_stop: Callable[[Connection, Stop], None],
        on_owing: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.head = head
        self.interval = interval
        self.count = 0
        self.ways = Counter[str]()
        self.blocked: dict[Connection, None] = {}
        self.all_closed = asyncio.Event()
        self.on_stop = on_stop
        self.on_owing = on_owing
        self.on_lost = on_lost
        self._on_tick = on_tick
        self._on_interval = on_interval
        # A slot for each second of the interval, and no fewer than SLOTS.
        slots = max(SLOTS, math.ceil(interval))
        self._tick_length = interval / slots
        self._slots: list[dict[Connection, None]] = [{} for _ in range(slots)]
        self._added = 0
        self._tick_number = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        """Open a connection."""
        connection.slot = self._slots[self._added % len(self._slots)]
        connection.slot[connection] = None
        self._added += 1
        if self.count < PROBED and connection.transport is not None:
            probe_when_idle(connection.transport)
        self.count += 1
        self.ways[connection.way] += 1
        self.all_closed.clear()
        if self._timer is None:
            self._timer = self.loop.call_later(self._tick_length, self._tick)

    def remove(self, connection: Connection) -> bool:
        """Close a connection; return False for one that is not open."""
        if connection.slot is None:
            return False
        del connection.slot[connection]
        connection.slot = None
        self.count -= 1
        self.ways[connection.way] -= 1
        if not self.count:
            self.all_closed.set()
        return True

    def all(self) -> list[Connection]:
        """Return every open connection."""
        return [connection for slot in self._slots for connection in slot]

    def is_idle(self) -> bool:
        """Tell whether there is no connection, and no timer."""
        return not self.count and not self.all() and not self.blocked and self._timer is None

    def _tick(self) -> None:
        if not self.count and not self.blocked:
            self._timer = None
            return
        self._timer = self.loop.call_later(self._tick_length, self._tick)
        self._tick_number = (self._tick_number + 1) % len(self._slots)
        heartbeat = Chunk(id_frame(self.head.id), self.head.sequence)
        visible = Chunk(visible_heartbeat(self.head.id), self.head.sequence)
        for connection in tuple(self._slots[self._tick_number]):
            if connection.transport is not None and connection.transport.is_closing():
                connection.abort()  # A server may not report a client that leaves while its transport is full.
            else:
                connection.beat(heartbeat if connection.element is None else visible)
        now = self.loop.time()
        for connection in tuple(self.blocked):
            if now - connection.blocked_since > STALL_LIMIT:
                connection.abort()
            elif now - connection.blocked_since > KEEPING_UP:
                connection.be_patient()
            else:
                break
        if self._tick_number == 0:
            self._on_interval()
        self._on_tick()
