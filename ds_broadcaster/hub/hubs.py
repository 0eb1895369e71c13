"""The hubs of a process: one for each event loop that serves streams, which is one in nearly all of them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .hub import Hub


class Hubs:
    """Makes a hub when the first stream of a loop opens. Any thread may look.

    `create` makes a hub for a loop; `discard` is called with each whose loop was closed.
    """

    def __init__(self, create: Callable[[asyncio.AbstractEventLoop], Hub], discard: Callable[[Hub], None]) -> None:
        self._create = create
        self._discard = discard
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a process that was just forked: the parent's hubs are not ours."""
        self._lock = threading.Lock()  # A thread of the parent may have held the old one.
        self._of_loop: dict[asyncio.AbstractEventLoop, Hub] = {}

    def __iter__(self) -> Iterator[Hub]:
        return iter(list(self._of_loop.values()))

    def current(self) -> Hub:
        """Return the hub of the running event loop."""
        loop = asyncio.get_running_loop()
        hub = self._of_loop.get(loop)
        if hub is None:
            with self._lock:
                for old in [each for each in self._of_loop if each.is_closed()]:
                    self._discard(self._of_loop.pop(old))
                hub = self._of_loop[loop] = self._create(loop)
        return hub

    def is_closing(self) -> bool:
        """Tell whether the server that runs here is about to stop."""
        return any(hub.closing and not hub.loop.is_closed() for hub in self)

    def refuse(self, user_id: Any, tab: str | None, element: str | None) -> str | None:
        """Return the limit that one more stream is over. See Limits.refuse()."""
        return next(filter(None, (hub.limits.refuse(user_id, tab, element) for hub in self)), None)
