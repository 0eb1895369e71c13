"""The channels of a hub: those with a connection here, and those with a user who is kept for the grace."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator

from ..conf import History
from ..exceptions import BrokerUnavailable, Gap
from ..log import CUT_TO, Log, drop_oldest
from ..sse import Frame
from .channel import Channel, PresenceCallback
from .connections import Connection

# Seconds for which a log has what was before its time, for clients that return together.
FILLED = 30
# Bytes that the tapes of all channels hold at most: many channels have one client each.
TAPES_KEPT = 16 << 20

logger = logging.getLogger("ds_broadcaster")


class Channels:
    """The table of channels. `declared` holds those that broadcast.new() made, with their presence callbacks.

    `subscribe` has the broker carry a channel to this hub and returns a sequence after which nothing on it is missed;
    `unsubscribe` undoes that. `floor` returns up to where the broker has dropped a channel's history.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: History,
        declared: dict[str, PresenceCallback | None],
        *,
        subscribe: Callable[[str], Awaitable[int]],
        unsubscribe: Callable[[str], Awaitable[None]],
        floor: Callable[[str], int],
    ) -> None:
        self._loop = loop
        self.limits = limits
        self._declared = declared
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._floor = floor
        self._size = 0
        self._known: dict[str, Channel[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Channel[Connection]]:
        # A list, because any thread may ask.
        return iter(list(self._known.values()))

    def find(self, name: str) -> Channel[Connection] | None:
        """Return a channel, None where there is none."""
        return self._known.get(name)

    def get(self, name: str) -> Channel[Connection]:
        """Return a channel; a new one where there is none."""
        channel = self._known.get(name)
        if channel is None:
            channel = self._known[name] = Channel(name, self._declared.get(name))
        return channel

    async def subscribe(self, channel: Channel[Connection]) -> None:
        """Have the broker carry a channel here, unless it does; raises Gap when the broker is away."""
        try:
            channel.begin(Log(await self._subscribe(channel.name)))
        except BrokerUnavailable as error:
            # The other connections wait for this subscription in line; each would find it out after its own timeout.
            logger.warning("The streams of channel %r could not begin: %s", channel.name, error)
            self.restart([channel])
            raise Gap(str(error)) from error

    async def fill(
        self,
        channel: Channel[Connection],
        cursor: int,
        read: Callable[[str, int], Awaitable[list[tuple[int, Frame]]]],
    ) -> None:
        """Have the log of a channel begin after `cursor`: clients that return together then share what they read.

        `read` returns the history of a channel after a cursor. Where some of it is rendered for each client, the log
        stays as it is. Raises Gap and BrokerUnavailable.
        """
        log = channel.log
        if log is None or log.floor <= cursor:
            return
        async with channel.subscribing:
            log = channel.log
            if log is None or log.floor <= cursor:
                return
            floor = log.floor
            older = [(sequence, frame) for sequence, frame in await read(channel.name, cursor) if sequence <= floor]
            is_same = channel.log is log and log.floor == floor and self._known.get(channel.name) is channel
            if not is_same or any(frame.facts.is_refresh for _, frame in older):
                return
            now = self._loop.time()
            filled = log.with_older(older, cursor, now - max(0, self.limits.max_age - FILLED))
            channel.log = filled
            channel.chunks.clear()
            self._size += filled.size - log.size
            self._cut()

    def restart(self, channels: Iterable[Channel[Connection]]) -> None:
        """Have all clients of these channels return: the logs and what comes next do not join."""
        for channel in channels:
            self._size -= 0 if channel.log is None else channel.log.size
            channel.begin(None)
            for connection in list(channel.connections):
                connection.fall_behind()

    def append(self, channel: Channel[Connection], sequence: int, frame: Frame, now: float) -> bool:
        """Add an event to a channel's log; return False for one that is already there."""
        log = channel.log
        if log is None:
            return False
        before = log.size
        is_new = channel.append(sequence, frame, now)
        self._size += log.size - before
        return is_new

    def pump(self, channels: Iterable[Channel[Connection]]) -> None:
        """Let every connection on these channels write; only then trim the logs."""
        for channel in channels:
            for connection in tuple(channel.connections):
                connection.pump()
        for channel in channels:
            self._trim(channel)
        self._cut()

    def _cut(self) -> None:
        if self._size > self.limits.max_total_bytes:
            logs = [channel.log for channel in self._known.values() if channel.log is not None]
            self._size -= drop_oldest(logs, self._size - int(self.limits.max_total_bytes * CUT_TO))

    def trim(self) -> None:
        """Drop events that grew too old on quiet channels, and what tapes hold beyond TAPES_KEPT."""
        for channel in self._known.values():
            self._trim(channel)
        tapes = [channel.tape for channel in self._known.values() if channel.tape.size]
        excess = sum(tape.size for tape in tapes) - TAPES_KEPT
        for tape in sorted(tapes, key=lambda tape: not tape.is_quiet):
            if excess > 0:
                excess -= tape.size
                tape.forget()
            tape.is_quiet = True

    def _trim(self, channel: Channel[Connection]) -> None:
        channel.chunks.clear()
        log = channel.log
        if log is not None:
            self._size -= log.trim(
                self.limits,
                self._loop.time(),
                channel.held(),
                self._floor(channel.name),
                is_waited_for=bool(channel.blocked),
            )

    def retire(self, channel: Channel[Connection]) -> None:
        """Forget a channel without connections, once its graces are over and the other processes know its roster."""
        if channel.connections:
            return
        self._declared.pop(channel.name, None)
        if not channel.roster.is_empty() or channel.unsynced or self._known.get(channel.name) is not channel:
            return
        del self._known[channel.name]
        if channel.log is not None:  # Connections that were told to end still read there.
            self._size -= channel.log.size
        for handle in (channel.expiry, channel.render):
            if handle is not None:
                handle.cancel()
        task = self._loop.create_task(self._let_go(channel.name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_go(self, name: str) -> None:
        if name not in self._known:  # A connection may have come again before this task had its turn.
            await self._unsubscribe(name)

    def is_idle(self) -> bool:
        """Tell whether there is no channel, no task, and no byte of a log."""
        return not self._known and not self._tasks and not self._size
