"""A broker that does not answer keeps one caller waiting, not each of them."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from ..exceptions import BrokerUnavailable

P = ParamSpec("P")
T = TypeVar("T")

# Seconds. A call that fails sooner keeps nobody waiting.
SLOW = 0.5
# Seconds until the broker is asked again: doubled each time.
OPEN = (1.0, 5.0)


class Circuit:
    """Opens after a call that waited in vain: calls fail at once until one of them, a while later, tries again.

    `clock` gives monotonic seconds. Any thread may use it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause = 0.0
        self._open_until = 0.0

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the broker and return its answer. Raises BrokerUnavailable, at once while the circuit is open."""
        begin = self._begin()
        try:
            answer = function(*args, **kwargs)
        except BrokerUnavailable:
            self._fail(begin)
            raise
        self._pause = self._open_until = 0.0
        return answer

    async def acall(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """See call()."""
        begin = self._begin()
        try:
            answer = await function(*args, **kwargs)
        except BrokerUnavailable:
            self._fail(begin)
            raise
        self._pause = self._open_until = 0.0
        return answer

    def _begin(self) -> float:
        begin = self._clock()
        if begin < self._open_until:
            raise BrokerUnavailable("The broker did not answer a moment ago, and will be asked again in some seconds.")
        if self._pause:
            self._open_until = begin + OPEN[1]  # The others do not wait for this caller's try.
        return begin

    def _fail(self, begin: float) -> None:
        now = self._clock()
        self._pause = min(2 * self._pause or OPEN[0], OPEN[1]) if now - begin > SLOW else 0.0
        self._open_until = now + self._pause
