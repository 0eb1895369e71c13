"""What the brokers over a network share: their hubs listen, each on a connection of its own."""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeVar

from ..conf import History
from ..exceptions import BrokerUnavailable
from ..ids import format_id
from ..sse import PLAIN, Facts
from .base import Broker, Command, Position, ProcessHoldings, Receiver, holdings_of

logger = logging.getLogger("ds_broadcaster")

T = TypeVar("T")

# Seconds before a lost connection is tried again: doubled each time, with jitter, so that not all come at once.
RECONNECT = (0.1, 5.0)
# Seconds that a connection lasts, or is waited for, unless the server lets us in and goes away at once.
STEADY = 1.0


class Listener(ABC):
    """What listens for one hub, on its loop: one connection after the other, as long as it is not closed.

    `server` is what the server is called in messages, and `failures` are what its library raises when it is away.
    """

    def __init__(self, server: str, failures: tuple[type[Exception], ...]) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._failures: tuple[type[Exception], ...] = (*failures, OSError, BrokerUnavailable)
        self._task = self.loop.create_task(self._run(), context=Context())

    @abstractmethod
    async def subscribe(self, channel: str) -> int:
        """Carry a channel; return a sequence after which nothing on it will be missed."""

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Carry a channel no longer."""

    @abstractmethod
    def forget(self) -> None:
        """Take note that the sequences begin again."""

    @abstractmethod
    async def hear(self) -> None:
        """Connect, bring the hub up to date, and hear what comes until the connection ends."""

    async def let_go(self) -> None:  # noqa: B027
        """Close what outlives a connection."""

    def close(self) -> None:
        """Stop listening."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        pause = RECONNECT[0]
        try:
            while True:
                begin = self.loop.time()
                try:
                    await self.hear()
                except self._failures as error:
                    logger.warning("The connection to %s is lost and will be tried again: %r", self._server, error)
                except Exception:
                    logger.exception("Listening to %s failed, and will be tried again.", self._server)
                if self.loop.time() - begin > STEADY:
                    pause = RECONNECT[0]
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, RECONNECT[1])
        finally:
            await self.let_go()


class NetworkBroker(Broker):
    """A broker with a listener for each hub. What is asked in a thread has an async twin that asks in one."""

    # What this is called in messages.
    server: str

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        self.epoch = ""
        self._listeners: dict[Receiver, Any] = {}

    @abstractmethod
    def listen(self, receiver: Receiver) -> Listener:
        """Return what listens for a hub from now on; called on its loop."""

    @abstractmethod
    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call what may wait in a thread where it may."""

    @abstractmethod
    def users_but(self, channel: str, processes: list[str]) -> list[Any]:
        """Return the user of each connection that the other processes have told of."""

    @abstractmethod
    def holdings_but(self, processes: list[str]) -> list[ProcessHoldings]:
        """Return what the other processes hold."""

    def know(self, epoch: str) -> bool:
        """Take note of the epoch that the server is in; True for another one, after which nothing can go on."""
        if epoch == self.epoch:
            return False
        before, self.epoch = self.epoch, epoch
        if not before:
            return False
        logger.warning("%s has lost its memory, or some of it: every client starts from a snapshot.", self.server)
        for receiver, listener in list(self._listeners.items()):
            listener.forget()
            receiver.reset(epoch)
        return True

    # The async twins.

    async def apublish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        return await self.in_thread(self.publish, channel, payload, facts)

    async def acommand(self, channel: str, command: Command) -> None:
        await self.in_thread(self.command, channel, command)

    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Position:
        return await self.in_thread(self.locate, channels, event_id)

    def cursor(self) -> str:
        place = self.locate((), None)
        return format_id(place.epoch, place.granted)

    async def acursor(self) -> str:
        return await self.in_thread(self.cursor)

    async def ausers(self, channel: str) -> list[Any]:
        return await self.in_thread(self.users, channel)

    async def achannels(self) -> list[str]:
        return await self.in_thread(self.channels)

    # Hubs.

    def attach(self, receiver: Receiver) -> int:
        self._listeners[receiver] = self.listen(receiver)
        return 0  # Nothing is carried before subscribe().

    def detach(self, receiver: Receiver) -> None:
        listener = self._listeners.pop(receiver, None)
        if listener is not None:
            listener.close()

    async def subscribe(self, receiver: Receiver, channel: str) -> int:
        begin: int = await self._listeners[receiver].subscribe(channel)
        return begin

    async def unsubscribe(self, receiver: Receiver, channel: str) -> None:
        listener = self._listeners.get(receiver)
        if listener is not None:
            await listener.unsubscribe(channel)

    def close(self) -> None:
        for receiver in list(self._listeners):
            self.detach(receiver)

    # Who is there: the hubs of this process know it for themselves, and newer than they have told it.

    def users(self, channel: str) -> list[Any]:
        here = list(self._listeners)
        found = [user for receiver in here for user in receiver.users(channel)]
        return found + self.users_but(channel, [receiver.process for receiver in here])

    def channels(self) -> list[str]:
        return list(dict.fromkeys(name for share in self.holdings() for name in share.channels))

    def holdings(self) -> list[ProcessHoldings]:
        here = list(self._listeners)
        return [*map(holdings_of, here), *self.holdings_but([receiver.process for receiver in here])]
