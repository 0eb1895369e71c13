"""The broker of a test: it reaches the streams of the test alone, and can be away."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from ..brokers.memory import MemoryBroker
from ..exceptions import BrokerUnavailable

M = TypeVar("M", bound=Callable[..., Any])


def _asking(method: M) -> M:
    """Have a method raise BrokerUnavailable while its broker is away."""

    @wraps(method)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.outages:
            raise BrokerUnavailable("The broker is away, because the test says so: broadcaster_outage().")
        return method(self, *args, **kwargs)

    return cast(M, ask)


class StageBroker(MemoryBroker):
    """The memory broker, which can be away as one on a server can."""

    # It is of one process, whatever the command line of the tests says.
    serves = True
    warns_of_workers = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outages = 0

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be away for the time of a block."""
        self.outages += 1
        try:
            yield
        finally:
            self.outages -= 1

    publish = _asking(MemoryBroker.publish)
    command = _asking(MemoryBroker.command)
    commands = _asking(MemoryBroker.commands)
    cursor = _asking(MemoryBroker.cursor)
    locate = _asking(MemoryBroker.locate)
    read = _asking(MemoryBroker.read)
    subscribe = _asking(MemoryBroker.subscribe)
    users = _asking(MemoryBroker.users)
    present = _asking(MemoryBroker.present)
    channels = _asking(MemoryBroker.channels)
    holdings = _asking(MemoryBroker.holdings)
