"""The hub: where the broker's events meet the connections of this process, on the loop that serves them.

Every method runs on that loop, except those of brokers.base.Receiver, which any thread may call.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

from .. import signals
from ..asgi_servers import before_shutdown
from ..brokers import EVERYWHERE, Broker, Command
from ..conf import Settings
from ..exceptions import BrokerUnavailable, Gap
from ..log import HELD
from ..present import UserPart
from ..sse import Frame, farewell, retry_frame
from .admission import Admission
from .channel import Channel, Chunk, PresenceCallback
from .channels import Channels
from .compression import NOT_BEGUN
from .connections import Connection, Connections, Head
from .grant import StreamGrant
from .limits import Limits
from .presence import Presence
from .presence_sync import new_process_name
from .rechecks import Rechecks
from .refreshes import Refreshes, RenderOwn
from .replay import begin_of, missed_data, opening_chunk
from .tabs import TabStreams
from .threads import Threads, call_soon

logger = logging.getLogger("ds_broadcaster")

# Events, and their bytes, that may wait for the loop before a publisher in another thread has to wait, and for how many
# seconds.
BACKLOG = 2000
BACKLOG_BYTES = 16 << 20
BACKLOG_WAIT = 1.0
# Turns of the loop in which a flush that is due has its turn.
FLUSH_TURNS = 3

# Milliseconds. At a shutdown a page returns after one second or more; a thousand pages are spread over four.
SHUTDOWN_RETRY = 1000
SHUTDOWN_SPREAD = 4000
# Seconds that the last bytes may take before the connections that are left are aborted.
SHUTDOWN_TIMEOUT = 0.5

# Why a command ends a stream, and why a re-check does.
WHY = {"disconnect": "broadcast.disconnect() closed it", "kill": "broadcast.kill() closed its channel"}
REFUSED = "a re-check refused it"

# What is handed to a hub: an event's frame, a command on a channel, or the sequence alone.
Item = Frame | Command | None
# Queued after an epoch's last event; the channel field carries the new epoch.
RESET = Command("reset")
# Queued where events of the channel are missing.
MISSED = Command("missed")


class Hub:
    """One process's meeting point.

    `declared` holds the channels that broadcast.new() made, with their presence callbacks. `sender` is that of our
    signals. `still_allowed` asks whether a connection would be granted its stream now, and returns None where the
    answer says nothing; `render_own` does so for the snapshot of a connection as well, and `render_event` renders an
    event's payload for the value of an audience. `clock` is the one of the grants.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        broker: Broker,
        settings: Settings,
        declared: dict[str, PresenceCallback | None],
        *,
        sender: type,
        still_allowed: Callable[[Connection], Awaitable[bool | None]],
        render_own: RenderOwn,
        render_event: Callable[[bytes, Any], bytes],
        clock: Callable[[], float] = time.monotonic,
        threads: Threads | None = None,
    ) -> None:
        self.loop = loop
        self.process = new_process_name()
        self.closing = False
        # Since the start: events for connections here, and those times the number of their connections.
        self.events = 0
        self.deliveries = 0
        self._broker = broker
        self._clock = clock
        self._thread = threading.get_ident()
        self._incoming: deque[tuple[str, int, Item]] = deque()
        # The bytes of all events that came in, counted by the broker's thread, and of those taken out, counted by ours.
        self._bytes_in = self._bytes_out = 0
        self._flush_is_due = False
        self._drained = threading.Event()

        self._head = Head("", 0)
        self._threads = threads if threads is not None else Threads(sender)
        self._channels = Channels(
            loop,
            settings.history,
            declared,
            subscribe=partial(broker.subscribe, self),
            unsubscribe=partial(broker.unsubscribe, self),
            floor=broker.floor,
        )
        self._rechecks = Rechecks(loop, settings.recheck_interval, still_allowed, end=self._end_refused)
        self._refreshes = Refreshes(
            loop,
            self._head,
            settings.refresh_interval,
            self._threads,
            render_own=render_own,
            render_event=render_event,
            end=self._end_refused,
            look=self._rechecks.look,
        )
        self._connections = Connections(
            loop,
            self._head,
            settings.heartbeat_interval,
            on_tick=broker.sweep,
            on_interval=self._channels.trim,
            on_stop=self._refreshes.stop_at,
            on_owing=self._refreshes.catch_up,
            on_lost=self.close,
        )
        self._tabs = TabStreams(loop, self._head, close=self._close_at_once)
        self._admission = Admission(broker, clock, self._rechecks, apply_to=self._apply_to)
        self.limits = Limits(settings, self._connections, self._rechecks.connections_of, clock)
        self._presence = Presence(
            loop,
            self._channels,
            self._threads,
            settings,
            receiver=self,
            store=broker.presence,
            connections_of=self._rechecks.connections_of,
            close=self.close,
        )
        self._head.sequence = broker.attach(self)
        self._head.epoch = broker.epoch
        before_shutdown(loop, self.shutdown)

    # What the broker calls, from any thread.

    def deliver(self, channel: str, sequence: int, item: Item) -> None:
        if self.loop.is_closed():  # And with it every stream.
            self._incoming.clear()
            return
        if isinstance(item, Frame):
            self._bytes_in += len(item.data)
        self._incoming.append((channel, sequence, item))
        if not self._flush_is_due:
            self._flush_is_due = True
            # A turn later than need be, so that a burst from a thread is one write, without one for its first event.
            call_soon(self.loop, self.loop.call_soon, self._flush)

    def on_position(self, sequence: int) -> None:
        self.deliver("", sequence, None)

    def on_gap(self, channel: str) -> None:
        # Queued with the events: an event from after the gap would hide it.
        self.deliver(channel, 0, MISSED)

    def reset(self, epoch: str) -> None:
        # Queued with the events: those before it are of the old epoch.
        self.deliver(epoch, 0, RESET)

    def throttle(self) -> None:
        if self._is_far_behind() and threading.get_ident() != self._thread:
            self._drained.clear()
            self._drained.wait(BACKLOG_WAIT)

    async def athrottle(self) -> None:
        for _ in range(FLUSH_TURNS):
            if not self._is_far_behind() or threading.get_ident() != self._thread:
                return
            await asyncio.sleep(0)

    def _is_far_behind(self) -> bool:
        return len(self._incoming) > BACKLOG or self._bytes_in - self._bytes_out > BACKLOG_BYTES

    def on_presence(self, channel: str) -> None:
        call_soon(self.loop, self._presence.remote_changed, channel)

    def on_tab_closed(self, user: Any, tab: str) -> None:
        call_soon(self.loop, self._presence.close_tab, user, tab)

    def users(self, channel: str) -> list[Any]:
        found = self._channels.find(channel)
        return found.roster.users() if found is not None else []

    def parts(self, channel: str) -> list[UserPart]:
        return self._presence.parts(channel)

    def part(self, channel: str, user: Any) -> UserPart | None:
        return self._presence.part(channel, user)

    def connections(self, channel: str) -> int:
        found = self._channels.find(channel)
        return len(found.connections) if found is not None else 0

    def channels(self) -> list[str]:
        return [channel.name for channel in self.live()]

    # What any thread may look at.

    def live(self) -> list[Channel[Connection]]:
        """Return the channels that have a connection here."""
        return [channel for channel in self._channels if channel.connections]

    def channel(self, name: str) -> Channel[Connection] | None:
        """Return a channel as it is here, None for one without a connection and without a grace."""
        return self._channels.find(name)

    @property
    def count(self) -> int:
        """The number of open connections."""
        return self._connections.count

    @property
    def ways(self) -> Counter[str]:
        """The number of open connections for each way in which they are carried."""
        return self._connections.ways.copy()  # Any thread may look.

    def owes(self) -> bool:
        """Tell whether a client waits for a refresh, or a command for the answer to a re-check."""
        refreshes = (each.refresh for each in self._connections.all())
        return self._rechecks.has_questions() or any(each and (each.owed or each.job) for each in refreshes)

    def is_idle(self) -> bool:
        """Tell whether nothing is left: no channel, connection, timer or task, and nothing that waits."""
        parts = (self._channels, self._connections, self._tabs, self._rechecks, self._refreshes, self._presence)
        return not self._incoming and all(part.is_idle() for part in parts)

    # Events.

    def _flush(self) -> None:
        """Take what came in since the last turn of the loop, and write it."""
        self._flush_is_due = False
        head = self._head
        now = self.loop.time()
        changed: dict[Channel[Connection], None] = {}
        for _ in range(len(self._incoming)):
            name, sequence, item = self._incoming.popleft()
            if sequence > head.sequence:
                head.sequence = sequence
            if item is None:
                continue
            if item is RESET:
                head.epoch, head.sequence = name, 0
                self._channels.restart(self._channels)
                self._presence.renew()
                changed = {}
                continue
            channel = self._channels.find(name)
            if isinstance(item, Command):
                self._channels.pump(changed)
                changed = {}
                if item is MISSED:
                    self._channels.restart([] if channel is None else [channel])
                elif channel is not None or name == EVERYWHERE:
                    self._obey(channel, item, sequence)
            else:
                self._bytes_out += len(item.data)
                if channel is not None and self._channels.append(channel, sequence, item, now):
                    changed[channel] = None
                    self.events += 1
                    self.deliveries += len(channel.connections)
        self._channels.pump(changed)
        self._drained.set()

    # Streams.

    def stream(self, connection: Connection, grant: StreamGrant) -> "_Stream":
        """Carry a granted stream for the time of a block:

            async with hub.stream(connection, grant) as frames:
                connection.start(frames)
                ...

        `frames` begin the stream. A connection that closes itself stays open after the block. Entering raises Gap when
        what the grant relies on is gone or the broker is away: the client should return.
        """
        connection.registry = self._connections
        return _Stream(self, connection, grant)

    def _open(self, connection: Connection, grant: StreamGrant) -> None:
        """Put a connection on its channels. See stream()."""
        channels = tuple(self._channels.get(name) for name in grant.channels)
        other = next(iter(channels[0].connections), None)
        # One object for many streams.
        connection.channels = other.channels if other is not None and other.channels == channels else channels
        connection.cursor = grant.cursor
        connection.granted = grant.granted
        connection.tab, connection.element, connection.meta = grant.tab, grant.element, grant.meta
        connection.can_refresh, connection.audience = grant.can_refresh, grant.audience
        connection.sent = NOT_BEGUN if grant.is_compressed else None
        self._connections.add(connection)
        for channel in connection.channels:
            channel.connections[connection] = None
        self._rechecks.watch(connection, grant.recheck_interval)

    def _enter(self, connection: Connection, grant: StreamGrant) -> None:
        """Count the connection's user as present, now that nothing keeps the stream from opening."""
        connection.is_present = True
        user = connection.user_id
        for channel in connection.channels:
            if grant.presence_callback is not None:
                channel.presence_callback = grant.presence_callback
            self._threads.send(signals.connection_opened, channel.name, user)
            if grant.attendance_hook is not None:
                channel.attendance_hook = grant.attendance_hook
            self._presence.came(channel, connection)

    async def _opening(self, connection: Connection, grant: StreamGrant) -> Chunk | None:
        """Return the frames that begin a stream, and put its cursor after them; None for one that is to end.

        Raises Gap. See stream().
        """
        if self.closing:
            self._send_away(connection)
            return None
        try:
            for channel in connection.channels:
                async with channel.subscribing:
                    if channel.log is None and connection.closing is None:
                        await self._channels.subscribe(channel)
                if channel.log is None:
                    return None
            if not await self._admission.admit(connection, grant):
                return None
            # The logs of a few channels hold no more than a client may.
            if len(connection.channels) <= HELD and not (grant.gaps or grant.refreshed):
                for channel in connection.channels:
                    await self._channels.fill(channel, grant.cursor, self._read)
            begin = begin_of(connection.channels, grant)
            missed = await missed_data(self._broker, grant, begin, self._channels.limits.max_bytes * HELD)
        except BrokerUnavailable as error:
            # Unless it is logged here, the server logs an error of its own for each client that comes meanwhile.
            logger.warning("A stream of channel %r could not begin: %s", grant.channels[0], error)
            raise Gap(str(error)) from error
        if not grant.epoch == self._head.epoch == self._broker.epoch:
            raise Gap("The broker has begun anew meanwhile.")
        if connection.closing is not None:
            return None
        connection.cursor, connection.opened = missed.cursor, max(self._head.sequence, grant.granted)
        if missed.cursor < begin:
            # More than one client may hold: it returns for the rest.
            connection.end("it has missed more than is sent at once", clean=False, until=missed.cursor)
        self._refreshes.begin(connection, grant.snapshot, missed.refreshed)
        self._enter(connection, grant)
        return opening_chunk(grant, missed, self._tabs.replace(connection), self._connections.interval)

    async def _read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        """Return what the broker has on a channel after a cursor of this epoch; raises Gap and BrokerUnavailable."""
        events = await self._broker.read(channel, cursor)
        if self._head.epoch != self._broker.epoch:
            raise Gap("The broker has begun anew meanwhile.")
        return events

    def close(self, connection: Connection, *, grace: bool = True) -> None:
        """Take a connection off its channels. Its user stays there for the grace, or is away, unless told otherwise."""
        if not self._connections.remove(connection):
            return
        self._tabs.forget(connection)
        self._rechecks.forget(connection)
        self._refreshes.forget(connection)
        for channel in connection.channels:
            del channel.connections[connection]
            if connection.is_present:
                self._threads.send(signals.connection_closed, channel.name, connection.user_id)
                self._presence.went(channel, connection, at_once=not grace)
            self._channels.retire(channel)

    def _close_at_once(self, connection: Connection) -> None:
        self.close(connection, grace=False)

    # Commands. Each concerns the connections that were granted before it.

    def _obey(self, channel: Channel[Connection] | None, command: Command, sequence: int) -> None:
        """Carry out a command on a channel (None: on all), after the events that came before it."""
        self._presence.forget_hidden(channel, command)
        if channel is not None:
            connections = list(channel.connections)
        elif command.user_id is not None:
            connections = self._rechecks.connections_of(command.user_id)
        else:
            connections = self._connections.all()
        for connection in connections:
            if connection.granted < sequence:
                self._apply_to(connection, command)
        if channel is None or not command.ends:
            return
        self._presence.dismiss(channel, command)
        self._channels.retire(channel)

    def _apply_to(self, connection: Connection, command: Command) -> None:
        """Carry out what a command means for one connection."""
        if not command.concerns(connection.user_id):
            return
        if not command.ends:
            self._rechecks.ask(connection, is_urgent=command.verb == "recheck")
        else:
            connection.end(WHY[command.verb], farewell(connection.element))
            self._close_at_once(connection)

    def _end_refused(self, connection: Connection) -> None:
        """End the stream of a connection that a re-check refused."""
        # The client is to return and ask for itself, with the cookies it has by now. Those of our own element always
        # do; of others some only after an end that is not clean. What it has not read by now, it may not have.
        connection.end(REFUSED, clean=connection.element is not None, until=connection.cursor)
        self._presence.refuse(connection)
        self._close_at_once(connection)

    # Shutdown.

    def shutdown(self) -> Awaitable[None]:
        """End every stream so that its client returns, spread over some seconds; done when the last byte is out."""
        self.closing = True
        self._flush()
        self._rechecks.stop()
        self._refreshes.stop()
        self._presence.stop()
        for connection in self._connections.all():
            self._send_away(connection)
        return self.loop.create_task(self._finish())

    def _send_away(self, connection: Connection) -> None:
        """Tell a client when to return: the more there are, the more time they share."""
        spread = min(500 + 4 * self._connections.count, SHUTDOWN_SPREAD)
        retry = retry_frame(SHUTDOWN_RETRY + random.randint(0, spread))
        connection.end("the server is about to stop", retry, clean=False)

    async def _finish(self) -> None:
        if self._connections.count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._connections.all_closed.wait(), SHUTDOWN_TIMEOUT)
        for connection in self._connections.all():
            connection.abort()
        await self._presence.close()
        self._broker.detach(self)
        self._threads.close()


class _Stream:
    """See Hub.stream(). A class, because a generator would keep its frame for as long as the stream lives."""

    __slots__ = ("_connection", "_grant", "_hub")

    def __init__(self, hub: Hub, connection: Connection, grant: StreamGrant) -> None:
        self._hub = hub
        self._connection = connection
        self._grant: StreamGrant | None = grant

    async def __aenter__(self) -> Chunk | None:
        assert self._grant is not None
        grant, self._grant = self._grant, None  # Its snapshot may be large, and the stream is long.
        if self._hub.limits.refuse(grant.user_id, grant.tab, grant.element) is not None:
            raise Gap("Others have opened meanwhile, as many as may be.")
        try:
            self._hub._open(self._connection, grant)
            return await self._hub._opening(self._connection, grant)
        except BaseException:
            self._hub.close(self._connection)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None or not self._connection.closes_itself:
            self._hub.close(self._connection)
