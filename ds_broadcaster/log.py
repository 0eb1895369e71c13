"""A channel's log: the frames that are kept, in order, for all clients with an older cursor.

Live, slow and returning clients read the same way: from a cursor on. A cursor is the sequence of the last event that a
client has. A log knows from which cursor on it is complete (`floor`); an older cursor is a gap.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from .conf import History
from .exceptions import Gap
from .sse import PLAIN, Facts, Frame, without_id

# One read returns at most about this much, so a client that cannot keep up never has more than this waiting in
# its transport. It is also what uvicorn and asyncio let a transport hold before they ask for a pause.
READ_BYTES = 1 << 16

# A kept frame costs its bytes and about this much for the objects around it (measured with tracemalloc).
FRAME_OVERHEAD = 120
# An empty log costs about this much, with its place in a table of logs (measured likewise, on Python 3.13).
LOG_OVERHEAD = 460

# Over a cap on all logs, they are cut to this share of it, so that not every event has to cut.
CUT_TO = 0.9
# A client that keeps up is still reading what a channel's limits would drop. This many times the limit in bytes is the
# most that is held for it.
HELD = 4


class Log:
    """Frames with their sequences, ascending, complete after `floor`.

    `last` is the newest sequence seen (`floor` in a new log), `refreshed_at` that of the newest refresh, `size` the
    bytes held.
    """

    __slots__ = (
        "_data",
        "_excluding",
        "_facts",
        "_refreshes",
        "_sequences",
        "_stamps",
        "floor",
        "last",
        "refreshed_at",
        "size",
    )

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.last = floor
        self.size = 0
        self.refreshed_at = 0
        self._sequences: list[int] = []
        self._stamps: list[float] = []
        self._data: list[bytes] = []
        # By sequence, for the few frames that have any; and the newest frame that each tab does not get.
        self._facts: dict[int, Facts] = {}
        self._excluding: dict[str, int] = {}
        self._refreshes: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._data)

    def append(self, sequence: int, frame: Frame, now: float) -> bool:
        """Add a frame; return False for one that is already here or older than the floor."""
        if sequence <= self.last:
            return False
        self._sequences.append(sequence)
        self._stamps.append(now)
        self._data.append(frame.data)
        if frame.facts is not PLAIN:
            self._facts[sequence] = frame.facts
            if frame.facts.exclude is not None:
                self._excluding[frame.facts.exclude] = sequence
            if frame.facts.is_refresh:
                self._refreshes[sequence] = None
                self.refreshed_at = sequence
        self.last = sequence
        self.size += len(frame.data) + FRAME_OVERHEAD
        return True

    def covers(self, cursor: int) -> bool:
        """Tell whether everything after `cursor` is still here."""
        return cursor >= self.floor

    def excludes(self, tab: str | None, cursor: int) -> bool:
        """Tell whether some frame after `cursor` is not for this tab."""
        return tab is not None and self._excluding.get(tab, 0) > cursor

    def after(self, cursor: int) -> list[tuple[int, Frame]]:
        """Return every (sequence, frame) after `cursor`; raises Gap when some are gone."""
        begin = self._begin_of(cursor)
        facts = self._facts
        return [
            (sequence, Frame(data, facts.get(sequence, PLAIN)))
            for sequence, data in zip(self._sequences[begin:], self._data[begin:], strict=True)
        ]

    def read(
        self, cursor: int, limit: int = READ_BYTES, *, is_bare: bool = False, before: float = math.inf
    ) -> tuple[bytes, int]:
        """Return the frames after `cursor`, joined, and the cursor after them; raises Gap.

        Takes at least one frame, if there is one before the sequence `before`, and stops before it exceeds `limit`
        bytes. Frames that are bare have no ids.
        """
        begin = self._begin_of(cursor)
        data = self._data
        count = len(data) if before > self.last else bisect_left(self._sequences, before)
        if begin >= count:
            return b"", cursor
        end = begin + 1
        size = len(data[begin])
        while end < count and size + len(data[end]) <= limit:
            size += len(data[end])
            end += 1
        frames = map(without_id, data[begin:end]) if is_bare else data[begin:end]
        return b"".join(frames), self._sequences[end - 1]

    def next_stop(self, cursor: int) -> tuple[int, Frame | None]:
        """Return the first refresh after `cursor` and its sequence, None where there is none."""
        for sequence in self._refreshes:
            if sequence > cursor:
                place = bisect_left(self._sequences, sequence)
                return sequence, Frame(self._data[place], self._facts[sequence])
        return self.last + 1, None

    def _begin_of(self, cursor: int) -> int:
        if cursor < self.floor:
            raise Gap(f"The log begins after {self.floor}; the cursor {cursor} is older.")
        return bisect_right(self._sequences, cursor)

    def trim(self, limits: History, now: float, held: float = math.inf, floor: int = 0) -> int:
        """Drop what exceeds the limits in count, bytes or age, and frames up to `floor`; return the bytes freed.

        Frames after `held` stay up to HELD times the limit in bytes: a client that keeps up is still reading there.
        """
        drop = 0
        size = self.size
        count = len(self._data)
        oldest = now - limits.max_age
        most = limits.max_bytes * HELD
        while drop < count and (
            (
                count - drop > limits.max_events
                or size > limits.max_bytes
                or self._stamps[drop] <= oldest
                or self._sequences[drop] <= floor
            )
            and (self._sequences[drop] <= held or size > most)
        ):
            size -= len(self._data[drop]) + FRAME_OVERHEAD
            drop += 1
        return self.drop(drop)

    def drop(self, count: int = 1) -> int:
        """Drop the oldest `count` frames; return the bytes freed."""
        if not count:
            return 0
        freed = sum(map(len, self._data[:count])) + count * FRAME_OVERHEAD
        self.floor = self._sequences[count - 1]
        if self._facts:
            for sequence in self._sequences[:count]:
                self._forget_facts(sequence)
        del self._sequences[:count], self._stamps[:count], self._data[:count]
        self.size -= freed
        return freed

    def _forget_facts(self, sequence: int) -> None:
        facts = self._facts.pop(sequence, PLAIN)
        self._refreshes.pop(sequence, None)
        if facts.exclude is not None and self._excluding.get(facts.exclude) == sequence:
            del self._excluding[facts.exclude]

    def oldest(self) -> float:
        """Return the sequence of the oldest frame held, infinity when there is none."""
        return self._sequences[0] if self._sequences else math.inf


def drop_oldest(logs: Iterable[Log], excess: int) -> int:
    """Drop the oldest frames of all logs until `excess` bytes are freed; return the bytes freed."""
    heap = [(log.oldest(), number, log) for number, log in enumerate(logs) if log]
    heapq.heapify(heap)
    freed = 0
    while heap and freed < excess:
        _, number, log = heap[0]
        freed += log.drop()
        if log:
            heapq.heapreplace(heap, (log.oldest(), number, log))
        else:
            heapq.heappop(heap)
    return freed
