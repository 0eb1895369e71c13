"""A limit on the time of calls that block: one thread for all of them, where threading.Timer starts one for each."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable


class Watched:
    """A call, and what is to be done when it takes too long."""

    __slots__ = ("deadline", "end")

    def __init__(self, deadline: float, end: Callable[[], object]) -> None:
        self.deadline = deadline
        self.end: Callable[[], object] | None = end


class Watchdog:
    """Ends calls that take longer than `seconds`. Any thread may use it.

    Its thread is there while there are calls, and sees to it about once in this time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        # The earliest first.
        self._calls: deque[Watched] = deque()
        self._is_watching = False

    def watch(self, end: Callable[[], object]) -> Watched:
        """Have `end` called in another thread after the time, unless release() is called before."""
        with self._lock:
            call = Watched(time.monotonic() + self._seconds, end)
            self._calls.append(call)
            if not self._is_watching:
                threading.Thread(target=self._watch, name="ds_broadcaster-watchdog", daemon=True).start()
                self._is_watching = True
        return call

    def release(self, call: Watched) -> None:
        """Note that a call has returned: it is not ended after this."""
        with self._lock:
            call.end = None
            while self._calls and self._calls[0].end is None:
                self._calls.popleft()

    def _watch(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                while self._calls and self._calls[0].deadline <= now:
                    end = self._calls.popleft().end
                    if end is not None:
                        end()
                if not self._calls:
                    self._is_watching = False
                    return
                pause = self._calls[0].deadline - now
            time.sleep(pause)
