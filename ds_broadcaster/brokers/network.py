"""What the brokers over a network share: a listener for each hub, with a connection of its own."""

import asyncio
import contextlib
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any

from ..conf import History
from ..exceptions import BrokerUnavailable
from ..tally import Tally
from .base import Broker, Receiver

logger = logging.getLogger("ds_broadcaster")

# Seconds before a lost connection is tried again: doubled each time, with jitter so that processes do not all come at
# once.
RECONNECT = (0.1, 5.0)
# Seconds after which a connection counts as steady and the pause starts over: a server that accepts connections and
# drops them at once is not hammered.
STEADY = 1.0
# Seconds between two lines in the log about malformed messages.
MALFORMED_INTERVAL = 60


class MalformedLog:
    """Tells the log, now and then, of messages that were skipped because another program must have written them."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._tally = Tally(MALFORMED_INTERVAL)

    @contextlib.contextmanager
    def skipping(self, channel: str) -> Iterator[None]:
        """Note a ValueError of the block, which ends there. See note()."""
        try:
            yield
        except ValueError as error:
            self.note(channel, error)

    def note(self, channel: str, error: ValueError) -> None:
        """Note a skipped message on a channel, and what is wrong with it. Any thread may call this."""
        if count := self._tally.add():
            logger.error(
                "Skipped %d malformed messages in %s, the last on channel %r: %s Does another program write there?",
                count,
                self._server,
                channel[:100],
                str(error)[:200],
            )


class Listener(ABC):
    """Listens for one hub, on its loop: reconnects until closed.

    `server` is the server's name in messages, `failures` the errors of its library that mean it is away.
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
        """Stop carrying a channel."""

    @abstractmethod
    async def listen(self) -> None:
        """Connect, bring the hub up to date, and deliver what arrives until the connection ends."""

    @abstractmethod
    def begin_anew(self, receiver: Receiver, epoch: str) -> None:
        """Have the hub begin anew in another epoch, after the commands of the last. Any thread may call this."""

    async def cleanup(self) -> None:  # noqa: B027
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
                    await self.listen()
                except self._failures as error:
                    logger.warning("Lost the connection to %s; trying again: %r", self._server, error)
                except Exception:
                    logger.exception("Listening to %s failed; trying again.", self._server)
                if self.loop.time() - begin > STEADY:
                    pause = RECONNECT[0]
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, RECONNECT[1])
        finally:
            await self.cleanup()


class NetworkBroker(Broker):
    """A broker with a listener for each hub."""

    # The server's name in messages.
    server: str

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        super().__init__(location, options, history)
        self.epoch = ""
        self._listeners: dict[Receiver, Listener] = {}

    @abstractmethod
    def create_listener(self, receiver: Receiver) -> Listener:
        """Return a listener that delivers to a hub from now on; called on the hub's loop."""

    def on_epoch(self, epoch: str) -> bool:
        """Note the server's epoch. True for a new one: what went before cannot be continued."""
        if epoch == self.epoch:
            return False
        before, self.epoch = self.epoch, epoch
        if not before:
            return False
        logger.warning(
            "%s has begun a new epoch, for it may have lost events: every client starts from a snapshot.", self.server
        )
        for receiver, listener in list(self._listeners.items()):
            listener.begin_anew(receiver, epoch)
        return True

    def receivers(self) -> Collection[Receiver]:
        return list(self._listeners)

    def attach(self, receiver: Receiver) -> int:
        self._listeners[receiver] = self.create_listener(receiver)
        return 0  # Nothing is carried before subscribe().

    def detach(self, receiver: Receiver) -> None:
        listener = self._listeners.pop(receiver, None)
        if listener is not None:
            listener.close()

    async def subscribe(self, receiver: Receiver, channel: str) -> int:
        return await self._listeners[receiver].subscribe(channel)

    async def unsubscribe(self, receiver: Receiver, channel: str) -> None:
        listener = self._listeners.get(receiver)
        if listener is not None:
            await listener.unsubscribe(channel)

    def close(self) -> None:
        for receiver in self.receivers():
            self.detach(receiver)
