"""What all parts of the contract need: processes that share a broker."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from django.db import connections

from ..brokers import Broker
from ..ids import parse_id

T = TypeVar("T")


async def apart(function: Callable[..., T], *args: Any) -> T:
    """Call what may wait in a thread, as views and presence callbacks do; what it opens there is closed."""

    def call() -> T:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


class Cluster:
    """Makes brokers, as many as a test has processes."""

    def make_broker(self, **history: Any) -> Broker:
        """Return a broker that is one more process on the same cluster; `history` are fields of conf.History."""
        raise NotImplementedError("make_broker() must return the broker that is to be tested.")

    def interrupt(self) -> None:
        """Cut every connection that the brokers have to what is between them, where there is any."""

    def run(self, test: Coroutine[Any, Any, T]) -> T:
        """Run what needs an event loop, as a hub has one."""
        return asyncio.run(test)

    def publish(self, broker: Broker, channel: str, payload: bytes = b"x\n\n") -> int:
        """Publish outside of any transaction, and return the sequence."""
        sequence = broker.publish(channel, payload)
        assert sequence is not None, "publish() must return the sequence where no transaction is open."
        return sequence

    def epoch_of(self, broker: Broker) -> str:
        """Return the epoch that ids are of now."""
        parsed = parse_id(broker.cursor())
        assert parsed is not None, f"{broker.cursor()!r} is no id."
        return parsed[0]

    async def apublish(self, broker: Broker, channel: str, payload: bytes = b"x\n\n") -> int:
        """See publish()."""
        return await apart(self.publish, broker, channel, payload)
