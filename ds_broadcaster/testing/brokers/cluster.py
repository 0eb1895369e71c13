"""What all parts of the contract share: processes on one broker, and tests that run on a loop."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, TypeVar

from django.db import connections

from ...brokers import LEASE, Broker, PresenceChange, PresenceDiff, PresenceStore
from ...brokers.ledger import Ledger
from ...ids import parse_id
from .receiver import PATIENCE, RecordingReceiver

T = TypeVar("T")
C = TypeVar("C", bound="Cluster")

EVENT = b"x\n\n"


async def apart(function: Callable[..., T], *args: Any) -> T:
    """Call a function that may block in a thread, as for views and presence callbacks; close its connections."""

    def call() -> T:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


class Process:
    """A process of a test: a broker, and a hub that it carries to."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.receiver = RecordingReceiver()
        self.ledger = Ledger()
        broker.attach(self.receiver)

    async def subscribe(self, *channels: str) -> int:
        """Subscribe to channels; return a sequence after which nothing on them is missed."""
        return max([await self.broker.subscribe(self.receiver, channel) for channel in channels])

    async def publish(self, channel: str, payload: bytes = EVENT) -> int:
        """Publish outside any transaction; return the sequence."""
        return await apart(publish, self.broker, channel, payload)

    async def set_users(self, channel: str, *users: Any, lease: float = LEASE) -> PresenceDiff:
        """Have these users on a channel, each as often as named, and tell the presence store, if there is one."""
        return await self.sync(self.receiver.set_users(channel, *users), lease)

    async def sync(self, changes: Sequence[PresenceChange] = (), lease: float = LEASE) -> PresenceDiff:
        """Tell the presence store, if there is one."""
        if self.broker.presence is None:
            return PresenceDiff([], [])
        return await self.broker.presence.sync(self.receiver, changes, lease, self.ledger.memory)

    async def tell(self, channel: str = "", *users: Any, lease: float = LEASE) -> PresenceDiff:
        """Have these users on a channel, unless it has no name, and tell the presence store as a hub does.

        Everything is told again where the store lost it. Return all joins and leaves.
        """
        diff = PresenceDiff([], [])
        changes = self.receiver.set_users(channel, *users) if channel else []
        if not self.ledger.is_behind:
            diff = await self._tell(changes, lease)
        if self.ledger.is_behind:
            again = await self._tell(self.ledger.everything(self.receiver.held()), lease)
            diff = again._replace(joined=diff.joined + again.joined, left=diff.left + again.left)
        return diff

    async def _tell(self, changes: Sequence[PresenceChange], lease: float) -> PresenceDiff:
        diff = await self.sync(changes, lease)
        self.ledger.note(changes, diff)
        return diff

    async def remote_users(self, channel: str) -> list[Any]:
        """Return the users that other processes have on a channel, sorted."""
        assert self.broker.presence is not None
        return sorted(await apart(self.broker.presence.remote_users, self.receiver, channel))


class Cluster:
    """Makes as many brokers as a test has processes."""

    def make_broker(self, **history: Any) -> Broker:
        """Return a broker that is one more process on the same cluster; `history` are fields of conf.History."""
        raise NotImplementedError("make_broker() must return the broker to test.")

    def interrupt(self) -> None:
        """Cut every connection of the brokers to their server. Override it where there are any."""

    def forget(self) -> None:
        """Have the server lose what it knows of presence, as a crash may. Override it where there is any."""

    @property
    def can_forget(self) -> bool:
        """Tell whether forget() is there."""
        return type(self).forget is not Cluster.forget

    async def settle(self, lease: float = 0.01) -> PresenceDiff:
        """Wait until a presence store tells of joins and leaves: see PresenceDiff.is_settled.

        `lease` is that of the calls. Return the joins and leaves that waited.
        """
        process = self.start()
        try:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                diff = await process.sync(lease=lease)
                await asyncio.sleep(lease)
                if diff.is_settled:
                    return diff
            raise AssertionError("is_settled must be True one lease after the store learned of its loss.")
        finally:
            process.broker.detach(process.receiver)

    def run(self, test: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on an event loop, as a hub has one."""
        return asyncio.run(test)

    def start(self, **history: Any) -> Process:
        """Start one more process; called on a loop."""
        return Process(self.make_broker(**history))


def on_loop(test: Callable[[C], Coroutine[Any, Any, None]]) -> Callable[[C], None]:
    """Run an async test with Cluster.run()."""

    @wraps(test)
    def run(self: C) -> None:
        self.run(test(self))

    return run


def between_processes(test: Callable[[C, Process, Process], Coroutine[Any, Any, None]]) -> Callable[[C], None]:
    """Run an async test of presence with two processes. Brokers without a presence store have nothing to test."""

    async def run(self: C) -> None:
        one, other = self.start(), self.start()
        if one.broker.presence is not None:
            await test(self, one, other)

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return on_loop(run)


def with_parts(test: Callable[[C, Process, Process], Coroutine[Any, Any, None]]) -> Callable[[C], None]:
    """Run a test of what a presence store knows of a user beside the connections, where it keeps that."""

    async def run(self: C, one: Process, other: Process) -> None:
        if type(one.broker.presence).parts is not PresenceStore.parts:  # type: ignore[union-attr]
            await test(self, one, other)

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return between_processes(run)


def publish(broker: Broker, channel: str, payload: bytes = EVENT) -> int:
    """Publish outside any transaction; return the sequence."""
    sequence = broker.publish(channel, payload)
    assert sequence is not None, "publish() must return the sequence where no transaction is open."
    return sequence


def epoch_of(broker: Broker) -> str:
    """Return the epoch of the id of now."""
    parsed = parse_id(broker.cursor())
    assert parsed is not None, f"{broker.cursor()!r} is no id."
    return parsed[0]
