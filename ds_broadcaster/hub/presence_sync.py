"""Tells the other processes who is here, over a broker that has others, for as long as this one lives."""

import asyncio
import contextlib
import logging
import os
import socket
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..brokers import GONE, PresenceChange
from ..exceptions import BrokerUnavailable
from ..ids import new_epoch

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("ds_broadcaster")

# Seconds. News of many changes go out together: a thousand people who join are some twenty messages.
TOGETHER = 0.05
# What is told is told again so often in a lease; one that fails has a second try before it ends.
RENEWALS = 3
# Seconds. The clients of a server that stops come back within five, to another process: until then they are shown.
ON_THEIR_WAY = 5.0
# Seconds that the last of it may take.
LAST_WORD = 1.0


def new_process_name() -> str:
    """Return what tells this process from every other: readable, and never given again."""
    return f"{socket.gethostname()}:{os.getpid()}:{new_epoch()}"


class PresenceSync:
    """The part of a hub that tells what it holds, and hears who joined or left in the whole cluster by that."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        # Whose connections changed, by channel: what has not been told yet, and what is being told.
        self._untold: dict[str, dict[Any, None]] = {}
        self._telling: dict[str, dict[Any, None]] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def changed(self, channel: str, user: Any) -> None:
        """Tell soon that a user, or None for somebody anonymous, came to a channel or left it."""
        self._untold.setdefault(channel, {None: None})[user] = None
        self._news.set()
        if self._task is None:
            self._task = self._hub.loop.create_task(self._run(), context=Context())

    def is_settling(self, channel: str) -> bool:
        """Tell whether something about a channel has not been told yet."""
        return channel in self._untold or channel in self._telling

    async def close(self) -> None:
        """Tell the last, and that it holds until the clients have come back to another process."""
        if self._task is None:
            return
        self._closing.set()
        self._news.set()
        _, unfinished = await asyncio.wait([self._task], timeout=LAST_WORD)
        for task in unfinished:
            task.cancel()

    async def _run(self) -> None:
        renewal = self._hub.broker.lease / RENEWALS
        pause = 0.0
        is_away = is_last = False
        while not is_last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            await asyncio.sleep(TOGETHER)
            self._news.clear()
            # Here, once: what is told while the end begins is not the last.
            is_last = self._closing.is_set()
            try:
                if is_last:
                    await self._tell(ON_THEIR_WAY + self._hub.settings.presence_grace)
                else:
                    pause = min(renewal, await self._tell(self._hub.broker.lease))
                is_away = False
            except Exception as error:
                self._merge_back()
                pause = min(renewal, 1.0)
                if not is_away:
                    trouble = None if isinstance(error, BrokerUnavailable) else error
                    logger.warning("Who is here could not be told, but will be: %s", error, exc_info=trouble)
                is_away = True

    async def _tell(self, lease: float) -> float:
        """Tell what changed, or everything where nothing is known of this hub; return when the next lease ends."""
        self._telling, self._untold = self._untold, {}
        answer = await self._hub.broker.sync(self._hub, self._changes(), lease)
        self._settle(answer.joined, answer.left)
        if answer.is_forgotten:
            for channel in list(self._hub.known.values()):
                self._telling[channel.name] = dict.fromkeys([None, *channel.roster.online()])
            answer = await self._hub.broker.sync(self._hub, self._changes(), lease)
            self._settle(answer.joined, answer.left)
        return answer.next_end

    def _changes(self) -> list[PresenceChange]:
        found = []
        for name, users in self._telling.items():
            channel = self._hub.known.get(name)
            for user in users:
                if channel is None:
                    count = None
                elif user is None:
                    count = len(channel.connections) or None
                else:
                    count = channel.roster.connections(user)
                found.append(PresenceChange(name, user, GONE if count is None else count))
        return found

    def _settle(self, joined: list[tuple[str, Any]], left: list[tuple[str, Any]]) -> None:
        for name, user in joined:
            self._hub.attendance.joined(name, user)
        for name, user in left:
            self._hub.attendance.left(name, user)
        told, self._telling = self._telling, {}
        for name in told:
            channel = self._hub.known.get(name)
            if channel is not None:
                self._hub.retire(channel)

    def _merge_back(self) -> None:
        for name, users in self._telling.items():
            self._untold.setdefault(name, {}).update(users)
        self._telling = {}
