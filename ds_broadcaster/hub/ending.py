"""The end of a hub: its server is about to stop, and every client is to come back, to whichever process is there."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ..sse import retry_frame
from .connections import Connection

if TYPE_CHECKING:
    from .hub import Hub

# Milliseconds. A page comes back after one second or more; a herd of a thousand is spread over four.
RETRY = 1000
SPREAD = 4000
# Seconds that the last bytes may take before what is left is aborted.
PATIENCE = 0.5


class Ending:
    """The part of a hub that ends every stream."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._empty = asyncio.Event()

    def begin(self) -> Awaitable[None]:
        """End all streams; what is returned is done when the last byte is out, and the others know."""
        self._empty.clear()
        for connection in self._hub.pulse.connections():
            self.end(connection)
        return self._hub.loop.create_task(self._finish())

    def end(self, connection: Connection) -> None:
        """Tell a client when to come back: the more there are, the more time they share."""
        spread = min(500 + 4 * self._hub.pulse.count, SPREAD)
        connection.end(retry_frame(RETRY + random.randint(0, spread)), clean=False)

    def nobody_is_left(self) -> None:
        """Take note that no stream is open."""
        self._empty.set()

    async def _finish(self) -> None:
        if self._hub.pulse.count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), PATIENCE)
        for connection in self._hub.pulse.connections():
            connection.abort()
        await self._hub.sharing.close()
        self._hub.broker.detach(self._hub)
        self._hub.workers.close()
