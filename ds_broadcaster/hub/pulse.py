"""What happens by the clock: heartbeats, and an eye on clients who take nothing."""

import asyncio
import math
from typing import TYPE_CHECKING

from ..ids import format_id
from ..sse import id_frame
from .connections import KEEPING_UP, STALL_LIMIT, Connection

if TYPE_CHECKING:
    from .hub import Hub

# Heartbeats are spread over the interval: each tick serves one slot of the connections.
SLOTS = 16


class Pulse:
    """The open connections of a hub, in slots, and its one timer, which runs while there is anybody.

    `blocked` holds those whose transport is full, in the order in which that began; one that was told to end may be
    among them though it is no longer open.
    """

    def __init__(self, hub: "Hub", interval: float) -> None:
        self._hub = hub
        # A slot for each second of the interval, and no fewer than SLOTS.
        slots = max(SLOTS, math.ceil(interval))
        self._tick_length = interval / slots
        self._slots: list[dict[Connection, None]] = [{} for _ in range(slots)]
        self._added = 0
        self._tick_number = 0
        self._timer: asyncio.TimerHandle | None = None
        self.count = 0
        self.blocked: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Take a connection in."""
        connection.slot = self._slots[self._added % len(self._slots)]
        connection.slot[connection] = None
        self._added += 1
        self.count += 1
        if self._timer is None:
            self._timer = self._hub.loop.call_later(self._tick_length, self._tick)

    def remove(self, connection: Connection) -> bool:
        """Let a connection go; False when it is not here."""
        if connection.slot is None:
            return False
        del connection.slot[connection]
        connection.slot = None
        self.count -= 1
        return True

    def connections(self) -> list[Connection]:
        """Return every open connection."""
        return [connection for slot in self._slots for connection in slot]

    def _tick(self) -> None:
        if not self.count and not self.blocked:
            self._timer = None
            return
        self._timer = self._hub.loop.call_later(self._tick_length, self._tick)
        self._tick_number = (self._tick_number + 1) % len(self._slots)
        head = self._hub.head
        body = id_frame(format_id(self._hub.epoch, head))
        message = {"type": "http.response.body", "body": body, "more_body": True}
        for connection in tuple(self._slots[self._tick_number]):
            if connection.transport is not None and connection.transport.is_closing():
                connection.abort()  # Servers do not report everybody who left while the transport was full.
            else:
                connection.beat(message, head)
        now = self._hub.now()
        for connection in tuple(self.blocked):
            if now - connection.blocked_since > STALL_LIMIT:
                connection.abort()
            elif now - connection.blocked_since > KEEPING_UP:
                connection.be_patient()
            else:
                break
        if self._tick_number == 0:
            self._hub.trim()
        self._hub.broker.sweep()
