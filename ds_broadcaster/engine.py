"""What runs in a process: its broker, its hubs, and the channels that it declared."""

import asyncio
import threading
from collections.abc import Callable, Iterable

from .brokers import Broker
from .conf import Settings, get_settings
from .hub.channel import PresenceCallback
from .hub.hub import Hub
from .hub.hubs import Hubs
from .ids import RESERVED
from .streams.audiences import render_event
from .streams.replayed_requests import render_own, still_allowed
from .streams.tabs import hub_settings


class Engine:
    """Makes the broker and the hubs when they are first asked for, and anew after a fork. Any thread may use it.

    `create_broker` and `create_hub` make the parts, `sender` is that of our signals, and `clock` gives monotonic
    seconds.
    """

    def __init__(
        self,
        create_broker: Callable[[Settings], Broker],
        create_hub: Callable[..., Hub],
        sender: type,
        clock: Callable[[], float],
    ) -> None:
        self._create_broker = create_broker
        self._create_hub = create_hub
        self._sender = sender
        self._clock = clock
        self.hubs = Hubs(self._make_hub, lambda hub: self.broker().detach(hub))
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a process that was just forked: the parent's streams and ids are not ours."""
        self._lock = threading.RLock()  # A thread of the parent may have held the old one.
        self._broker: Broker | None = None
        self.hubs.forget()
        # The channels that new() made, with their presence callbacks.
        self.declared: dict[str, PresenceCallback | None] = {}

    def broker(self) -> Broker:
        """Return the broker of the settings."""
        if self._broker is None:
            with self._lock:
                if self._broker is None:
                    self._broker = self._create_broker(get_settings())
        return self._broker

    def heard(self) -> int:
        """Return a sequence that has been given out by now, without waiting."""
        return 0 if self._broker is None else self._broker.heard()

    def listed(self, channels: Iterable[str]) -> list[str]:
        """Return these channels and the declared ones, each once, without those of the inspector."""
        return [name for name in dict.fromkeys([*channels, *list(self.declared)]) if not name.startswith(RESERVED)]

    def _make_hub(self, loop: asyncio.AbstractEventLoop) -> Hub:
        return self._create_hub(
            loop,
            self.broker(),
            hub_settings(),
            self.declared,
            sender=self._sender,
            still_allowed=still_allowed,
            render_own=render_own,
            render_event=render_event,
            clock=self._clock,
        )
