"""The hub: where the broker's events meet the connections of this process, on the loop that serves them.

Every method runs on that loop, but for those of brokers.base.Receiver, which any thread may call.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable
from typing import Any

from django.dispatch import Signal

from .. import signals
from ..asgi_servers import before_shutdown
from ..brokers import EVERYWHERE, Broker, Command
from ..conf import Settings
from ..sse import Frame
from .channel import Channel, PresenceCallback
from .connections import Connection
from .ending import Ending
from .grant import StreamGrant
from .orders import Orders
from .presence import Presence
from .presence_sync import PresenceSync, new_process_name
from .pulse import Pulse
from .rechecks import Rechecks
from .replay import Beginning
from .tabs import TabStreams
from .threads import Threads

logger = logging.getLogger("ds_broadcaster")

# Milliseconds after which a page that lost its stream comes back.
RETRY = (1000, 2000)
# Events that may wait for the loop before a publisher in another thread has to wait, and how many seconds.
BACKLOG = 2000
BACKLOG_WAIT = 1.0


# What is handed to a hub: an event's frame or a command on a channel, or news of the sequence alone.
Item = Frame | Command | None
# Stands behind the last event of an epoch, in place of a channel's with the name of the next one.
RESET = Command("reset")
# Stands where some events of a channel should, which are gone.
MISSED = Command("missed")


class Hub:
    """One process's meeting point. `declared` holds the channels that broadcast.new() made, with their callbacks."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        broker: Broker,
        settings: Settings,
        declared: dict[str, PresenceCallback | None],
        sender: type,
    ) -> None:
        self.loop = loop
        self.now = loop.time
        self.broker = broker
        self.settings = settings
        self.process = new_process_name()
        self.closing = False
        # Since the start: events that somebody here was to get, and those times how many they were.
        self.events = 0
        self.deliveries = 0
        # Every channel that has a connection here, or somebody who is kept for the grace.
        self.known: dict[str, Channel] = {}
        self._declared = declared
        self._sender = sender
        self._incoming: deque[tuple[str, int, Item]] = deque()
        self._flush_is_due = False
        self._drained = threading.Event()
        self._thread = threading.get_ident()
        self.workers = Threads()
        self._tasks: set[asyncio.Task[None]] = set()
        self.pulse = Pulse(self, settings.heartbeat_interval)
        self.rechecks = Rechecks(self)
        self.attendance = Presence(self)
        self.sharing = PresenceSync(self)
        self.orders = Orders(self)
        self.duplicates = TabStreams(self)
        self._beginning = Beginning(self)
        self.ending = Ending(self)
        # The newest sequence that all connections have been given, or are about to be, and its epoch.
        self.head = broker.attach(self)
        self.epoch = broker.epoch
        before_shutdown(loop, self.shutdown)

    # What the broker calls, from any thread.

    def deliver(self, channel: str, sequence: int, item: Item) -> None:
        if self.loop.is_closed():  # And with it every stream.
            self._incoming.clear()
            return
        self._incoming.append((channel, sequence, item))
        if not self._flush_is_due:
            self._flush_is_due = True
            # A turn later than need be: a burst from a thread is one write then, not one for its first event too.
            self.soon(self.loop.call_soon, self._flush)

    def on_position(self, sequence: int) -> None:
        self.deliver("", sequence, None)

    def on_gap(self, channel: str) -> None:
        # In the line of the events too: with one from behind the gap nobody could tell that there was one.
        self.deliver(channel, 0, MISSED)

    def reset(self, epoch: str) -> None:
        # In the line of the events: those before it are of the old epoch.
        self.deliver(epoch, 0, RESET)

    def throttle(self) -> None:
        if len(self._incoming) > BACKLOG and threading.get_ident() != self._thread:
            self._drained.clear()
            self._drained.wait(BACKLOG_WAIT)

    def users(self, channel: str) -> list[Any]:
        known = self.known.get(channel)
        return known.roster.users() if known is not None else []

    def connections(self, channel: str) -> int:
        known = self.known.get(channel)
        return len(known.connections) if known is not None else 0

    def on_presence(self, channel: str) -> None:
        self.soon(self.attendance.look_again, channel)

    def channels(self) -> list[str]:
        return [channel.name for channel in self.live()]

    # What any thread may look at.

    def live(self) -> list[Channel]:
        """Return the channels that have a connection here."""
        return [channel for channel in list(self.known.values()) if channel.connections]

    # Streams open and close.

    async def open(self, connection: Connection, opening: StreamGrant) -> bytes:
        """Put a connection on its channels; return the frames that begin its stream.

        Raises Gap when what was there a moment ago is gone: the client should come again.
        Whoever calls this calls close() in the end, whatever happens.
        """
        connection.channels = tuple(self._channel(name) for name in opening.channels)
        connection.cursor = opening.cursor
        connection.granted = opening.granted
        connection.tab, connection.element = opening.tab, opening.element
        self.pulse.add(connection)
        user = opening.user_id
        for channel in connection.channels:
            channel.connections[connection] = None
            if opening.presence_callback is not None:
                channel.presence_callback = opening.presence_callback
            self.signal(signals.connection_opened, channel.name, user)
            if opening.attendance_hook is not None:
                channel.attendance_hook = opening.attendance_hook
            self.attendance.came(channel, user, user is not None and channel.roster.join(user))
        self.rechecks.watch(connection, opening.recheck_interval)

        return await self._beginning.frames(connection, opening)

    def close(self, connection: Connection, *, grace: bool = True) -> None:
        """Take a connection off its channels; its user stays online for the grace, unless told otherwise."""
        if not self.pulse.remove(connection):
            return
        self.duplicates.forget(connection)
        self.rechecks.forget(connection)
        until = self.now() + self.settings.presence_grace if grace and self.settings.presence_grace else None
        for channel in connection.channels:
            del channel.connections[connection]
            user = connection.user_id
            self.signal(signals.connection_closed, channel.name, user)
            self.attendance.went(channel, user, user is not None and channel.roster.leave(user, until))
            self.attendance.expect_leaves(channel)
            self.retire(channel)
        if not self.pulse.count:
            self.ending.nobody_is_left()

    def lost(self, connection: Connection) -> None:
        """Abort a connection that fell off the log: it comes back with its cursor, and is told of the gap."""
        names = ", ".join(channel.name for channel in connection.channels)
        logger.info("A client on %s fell behind what is kept and has to come back.", names)
        connection.abort()

    def shutdown(self) -> Awaitable[None]:
        """End every stream so that its client returns, spread over some seconds; done when the last byte is out."""
        self.closing = True
        self._flush()
        return self.ending.begin()

    # Events.

    def _flush(self) -> None:
        """Take what came in since the last turn of the loop, and write it."""
        self._flush_is_due = False
        now = self.now()
        changed: dict[Channel, None] = {}
        for _ in range(len(self._incoming)):
            name, sequence, item = self._incoming.popleft()
            self.head = max(self.head, sequence)
            channel = self.known.get(name)
            if item is None:
                continue
            if item is RESET:
                self.epoch, self.head = name, 0
                self.orders.start_anew(list(self.known))
                changed = {}
            elif isinstance(item, Command):
                self._pump(changed)
                changed = {}
                if item is MISSED:
                    self.orders.start_anew([name])
                elif channel is not None or name == EVERYWHERE:
                    self.orders.obey(channel, item, sequence)
            elif channel is not None and channel.append(sequence, item, now):
                changed[channel] = None
                self.events += 1
                self.deliveries += len(channel.connections)
        self._pump(changed)
        self._drained.set()

    def _pump(self, channels: dict[Channel, None]) -> None:
        """Let every connection on these channels write; only then trim the logs."""
        for channel in channels:
            for connection in tuple(channel.connections):
                connection.pump()
        for channel in channels:
            if channel.log is not None:
                channel.log.trim(self.settings.history, self.now(), channel.held())

    def trim(self) -> None:
        """Let go of what has grown too old on channels where nothing happens."""
        for channel in self.known.values():
            if channel.log is not None:
                channel.log.trim(self.settings.history, self.now(), channel.held())

    # Channels and presence.

    def _channel(self, name: str) -> Channel:
        channel = self.known.get(name)
        if channel is None:
            channel = self.known[name] = Channel(name)
            channel.presence_callback = self._declared.get(name)
        return channel

    def retire(self, channel: Channel) -> None:
        """Forget a channel that nobody is connected to, once the graces on it are over."""
        if channel.connections:
            return
        self._declared.pop(channel.name, None)
        if channel.roster.online() or self.known.get(channel.name) is not channel:
            return
        if self.sharing.is_settling(channel.name):  # Whoever left is still to be told to the channel's hook.
            return
        del self.known[channel.name]
        for handle in (channel.expiry, channel.render):
            if handle is not None:
                handle.cancel()
        task = self.loop.create_task(self._unsubscribe(channel.name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unsubscribe(self, name: str) -> None:
        if name not in self.known:  # Somebody may have come again before this task had its turn.
            await self.broker.unsubscribe(self, name)

    def soon(self, *call: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be closed by now.
            self.loop.call_soon_threadsafe(*call)

    def signal(self, signal: Signal, channel: str, user: Any) -> None:
        self.workers.send(signal, sender=self._sender, channel=channel, user_id=user)
