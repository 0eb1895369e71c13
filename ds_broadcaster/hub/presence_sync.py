"""Tells the other processes which users are on this hub, for as long as this process lives.

Application shutdown: the last call tells the roster with a lease of RECONNECT_GRACE. The clients of a stopping server
return within five seconds, to another process; until then their users are shown as online.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any

from ..brokers import GONE, PresenceChange, PresenceDiff
from ..brokers.ledger import Ledger
from ..exceptions import BrokerUnavailable
from ..ids import new_epoch
from .channel import Channel
from .channels import Channels
from .connections import Connection

logger = logging.getLogger("ds_broadcaster")

# Seconds in which changes are collected: a thousand joins are some twenty messages.
COLLECT_FOR = 0.05
# Renewals in a lease, so that one that fails has a second try before the lease ends.
RENEWALS = 3
# Seconds.
RECONNECT_GRACE = 5.0
# Seconds that the last call may take.
CLOSE_TIMEOUT = 1.0

Tell = Callable[[Sequence[PresenceChange], float, str | None], Awaitable[PresenceDiff]]


def new_process_name() -> str:
    """Return a readable name for this process that no other has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{new_epoch()}"


class PresenceSync:
    """Keeps a lease on what this hub holds, and hears of the joins and leaves in the whole cluster.

    `tell` writes changes down for a number of seconds and says which memory it knew (see PresenceStore.sync()), `lease`
    is that number while the process lives; `on_diff` takes the answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channels: Channels,
        tell: Tell,
        lease: float,
        presence_grace: float,
        *,
        on_diff: Callable[[PresenceDiff], None],
    ) -> None:
        self._loop = loop
        self._channels = channels
        self._tell = tell
        self._lease = lease
        self._last_lease = RECONNECT_GRACE + presence_grace
        self._on_diff = on_diff
        # The users whose connections changed, by channel: those not told yet, and those being told.
        self._untold: dict[Channel[Connection], dict[Any, None]] = {}
        self._telling: dict[Channel[Connection], dict[Any, None]] = {}
        self._ledger = Ledger()
        self._has_changes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def changed(self, channel: Channel[Connection], user: Any) -> None:
        """Tell soon that the connections of a user, None for an anonymous one, changed."""
        channel.unsynced = True
        self._untold.setdefault(channel, {None: None})[user] = None
        self._has_changes.set()
        if self._task is None:
            self._task = self._loop.create_task(self._run(), context=Context())

    def renew(self) -> None:
        """Renew the lease soon: the store may have lost its memory, which it learns from a hub that knew it."""
        self._has_changes.set()

    async def close(self) -> None:
        """Tell the last changes, with a lease that lasts until the clients are back in another process."""
        if self._task is None:
            return
        self._is_closing = True
        self._has_changes.set()
        _, unfinished = await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT)
        for task in unfinished:
            task.cancel()

    async def _run(self) -> None:
        renewal = self._lease / RENEWALS
        pause = 0.0
        is_away = is_last = False
        is_first = True
        while not is_last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._has_changes.wait()
            collecting = asyncio.sleep(COLLECT_FOR)
            await (asyncio.gather(collecting, self._learn_memory()) if is_first else collecting)
            is_first = False
            self._has_changes.clear()
            # Read once: a call that is under way when close() begins is not the last.
            is_last = self._is_closing
            try:
                next_end = await self._tell_changes(self._last_lease if is_last else self._lease)
                pause = min(renewal, next_end)
                is_away = False
            except Exception as error:
                self._merge_back()
                pause = min(renewal, 1.0)
                if not is_away:
                    trouble = None if isinstance(error, BrokerUnavailable) else error
                    logger.warning("Presence could not be synced and will be later: %s", error, exc_info=trouble)
                is_away = True

    async def _learn_memory(self) -> None:
        """Hear of the store's memory: if that is lost before the first change is told, what others told is not news."""
        if not self._is_closing:
            with contextlib.suppress(Exception):  # The next call says that the store is away.
                await self._call([], self._lease)

    async def _tell_changes(self, lease: float) -> float:
        """Tell what changed, or everything to a store that forgot this hub; return when the next lease ends."""
        self._telling, self._untold = self._untold, {}
        next_end = 0.0
        if not self._ledger.is_behind:
            next_end = await self._call(self._changes(), lease)
        if self._ledger.is_behind:
            for channel in self._channels:
                channel.unsynced = True
                self._telling[channel] = dict.fromkeys([None, *channel.roster.online()])
            next_end = await self._call(self._ledger.everything(self._changes()), lease)
        told, self._telling = self._telling, {}
        for channel in told:
            channel.unsynced = channel in self._untold
            self._channels.retire(channel)
        return next_end

    async def _call(self, changes: list[PresenceChange], lease: float) -> float:
        """Tell changes, and pass on what they mean for the cluster; return when the next lease ends."""
        diff = await self._tell(changes, lease, self._ledger.memory)
        self._ledger.note(changes, diff)
        self._on_diff(diff)
        return diff.next_end

    def _changes(self) -> list[PresenceChange]:
        changes = []
        for channel, users in self._telling.items():
            for user in users:
                count = (len(channel.connections) or None) if user is None else channel.roster.connections(user)
                changes.append(PresenceChange(channel.name, user, GONE if count is None else count))
        return changes

    def _merge_back(self) -> None:
        for channel, users in self._telling.items():
            self._untold.setdefault(channel, {}).update(users)
        self._telling = {}
