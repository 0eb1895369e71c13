"""Hidden tabs: their streams ended, and their pages did not say that they close.

The Datastar client ends the stream of a tab that is hidden and opens it again when the tab is shown. The page of our
element tells when it is closed for good. So a stream that ends without that word leaves a hidden tab, for a while: a
browser that was killed never says anything.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from ..present import Meta
from .channel import Channel
from .connections import Connection

# The most hidden tabs of one user on a hub; of more, the one that was hidden first is given up.
MOST = 50


class HiddenTabs:
    """The hidden tabs of each user, each with its channels and with what its streams said about themselves there.

    `on_end` is called with a channel and a user when the time of a tab there is over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[Channel[Connection], Any], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._tabs: dict[Any, dict[str, dict[Channel[Connection], Meta | None]]] = {}
        # When the time of each is over. All have the same time, so the order of arrival is the order of the ends.
        self._ends: OrderedDict[tuple[Any, str], float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, channel: Channel[Connection], connection: Connection, until: float) -> None:
        """Keep the tab of a connection that ends, on one of its channels, until that time of the loop."""
        user, tab = connection.user_id, connection.tab
        assert tab is not None
        tabs = self._tabs.setdefault(user, {})
        tabs.setdefault(tab, {})[channel] = connection.meta
        self._ends[user, tab] = until
        self._ends.move_to_end((user, tab))
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._expire)
        if len(tabs) > MOST:
            self._end(user, next(iter(tabs)))

    def show(self, channel: Channel[Connection], user: Any, tab: str | None) -> None:
        """Forget a tab on a channel, where it has a stream again."""
        tabs = self._tabs.get(user)
        if tabs is not None and tab is not None and tab in tabs:
            tabs[tab].pop(channel, None)
            if not tabs[tab]:
                self.close(user, tab)

    def close(self, user: Any, tab: str) -> Iterable[Channel[Connection]]:
        """Forget a tab; return the channels it was on."""
        tabs = self._tabs.get(user, {})
        channels = tabs.pop(tab, {})
        if not tabs:
            self._tabs.pop(user, None)
        self._ends.pop((user, tab), None)
        if not self._ends and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return channels

    def drop(self, user: Any, channel: Channel[Connection] | None) -> Iterable[Channel[Connection]]:
        """Forget the tabs of a user on a channel, None for all; return the channels they were on."""
        found: dict[Channel[Connection], None] = {}
        for tab, channels in list(self._tabs.get(user, {}).items()):
            if channel is None:
                found |= dict.fromkeys(self.close(user, tab))
            elif channel in channels:
                found[channel] = None
                self.show(channel, user, tab)
        return found

    def users(self) -> list[Any]:
        """Return the users who have a hidden tab."""
        return list(self._tabs)

    def on(self, channel: Channel[Connection], user: Any) -> list[tuple[str, Meta | None]]:
        """Return a user's hidden tabs on a channel, and what they said about themselves. Any thread may ask."""
        tabs = list(self._tabs.get(user, {}).items())
        return [(tab, channels.get(channel)) for tab, channels in tabs if channel in channels]

    def is_idle(self) -> bool:
        """Tell whether there is no hidden tab, and no timer."""
        return not self._tabs and not self._ends and self._timer is None

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._ends:
            (user, tab), until = next(iter(self._ends.items()))
            if until > now:
                self._timer = self._loop.call_at(until, self._expire)
                return
            self._end(user, tab)

    def _end(self, user: Any, tab: str) -> None:
        for channel in self.close(user, tab):
            self._on_end(channel, user)
