"""What would be a flood of lines in the log: one in so many seconds, with the number since the last."""

import math
import threading
import time
from collections.abc import Callable


class Tally:
    """Counts, and tells when a line in the log is due. Any thread may use it.

    `seconds` lie between two lines; `clock` gives monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._told_at = -math.inf

    def add(self) -> int:
        """Count one more. Return the number since the last line when another is due, 0 otherwise."""
        with self._lock:
            self._count += 1
            now = self._clock()
            if now - self._told_at < self._seconds:
                return 0
            count, self._count, self._told_at = self._count, 0, now
            return count
