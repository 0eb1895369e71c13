"""The way of an event from a verb to the broker."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .brokers import Broker, Event
from .brokers.circuit import Circuit
from .ids import channel_name, channel_names
from .observers import observers
from .sse import Facts

if TYPE_CHECKING:
    from django.db.models import Model

    ChannelLike = str | Model
    Channels = ChannelLike | Iterable[ChannelLike]


class Waiting(threading.local):
    """What a thread has to publish before anything else: what it sends now may be newer."""

    publish: Callable[[], None] | None = None


waiting = Waiting()


class Sender:
    """Publishes encoded events. While the broker does not answer, one caller waits for it, not each of them.

    `broker` returns the broker, and `clock` gives monotonic seconds.
    """

    def __init__(self, broker: Callable[[], Broker], clock: Callable[[], float]) -> None:
        self._broker = broker
        self._clock = clock
        self.forget()

    def send(self, channel: "Channels", payload: bytes, facts: Facts) -> None:
        """Publish an event on a channel, or on several in one step of the broker."""
        names = [channel_name(channel)] if isinstance(channel, str) else channel_names(channel)
        if waiting.publish is not None:
            waiting.publish()
        if len(names) == 1:
            self._circuit.call(self._broker().publish, names[0], payload, facts)
            if observers:
                _tell(Event(names[0], payload, facts))
        else:
            self.send_all([Event(name, payload, facts) for name in names])

    async def asend(self, channel: "Channels", payload: bytes, facts: Facts) -> None:
        """See send()."""
        names = [channel_name(channel)] if isinstance(channel, str) else channel_names(channel)
        if len(names) == 1:
            await self._circuit.acall(self._broker().apublish, names[0], payload, facts)
            if observers:
                _tell(Event(names[0], payload, facts))
        else:
            events = [Event(name, payload, facts) for name in names]
            await self._circuit.acall(self._broker().apublish_all, events)
            _tell(*events)

    def send_all(self, events: Sequence[Event]) -> None:
        """Publish events in one step of the broker."""
        self._circuit.call(self._broker().publish_all, events)
        _tell(*events)

    def forget(self) -> None:
        """Begin anew, as in a process that was just forked."""
        self._circuit = Circuit(self._clock)  # Not for commands: to end a stream is worth a wait.


def _tell(*events: Event) -> None:
    for each in observers:
        for event in events:
            each.sent(event.channel, event.payload, event.facts)
