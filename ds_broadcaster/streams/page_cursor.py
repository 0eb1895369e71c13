"""The id of the moment at which a page is rendered: its stream starts there."""

import logging
from collections.abc import Awaitable, Callable

from django.core.exceptions import SynchronousOnlyOperation

from ..exceptions import BrokerUnavailable

logger = logging.getLogger("ds_broadcaster")

# Seconds for which pages do not ask a broker that was away for their cursor.
AWAY = 5.0


class PageCursor:
    """Asks for the id of now, unless the broker is away: a page is worth more than the events before its stream opens.

    One page waits for the broker, and those of the next seconds do not. `cursor` and `acursor` ask the broker, and
    `clock` gives monotonic seconds.
    """

    def __init__(
        self, cursor: Callable[[], str], acursor: Callable[[], Awaitable[str]], clock: Callable[[], float]
    ) -> None:
        self._cursor = cursor
        self._acursor = acursor
        self._clock = clock
        self.away_until = 0.0

    def get(self) -> str | None:
        """Return the id of now, None while the broker is away."""
        if self._clock() < self.away_until:
            return None
        try:
            return self._cursor()
        except BrokerUnavailable:
            self.away_until = self._clock() + AWAY
        except SynchronousOnlyOperation:
            logger.warning(
                "A page was rendered in an async view, where the broker cannot be asked: it may miss what happens "
                "before its stream opens. Add ds_broadcaster.middleware.BroadcasterMiddleware."
            )
        return None

    async def aget(self) -> str | None:
        """See get()."""
        if self._clock() < self.away_until:
            return None
        try:
            return await self._acursor()
        except BrokerUnavailable:
            self.away_until = self._clock() + AWAY
        return None
