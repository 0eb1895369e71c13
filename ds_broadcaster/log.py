"""A channel's log: the frames that are kept, in order, for all clients with an older cursor.

Live, slow and returning clients read the same way: from a cursor on. A cursor is the sequence of the last event that a
client has. A log knows from which cursor on it is complete (`floor`); an older cursor is a gap.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

from .compaction import NOTHING, Wholes
from .conf import History
from .exceptions import Gap
from .sse import PLAIN, Facts, Frame, owing

# One read returns at most about this much, so a client that cannot keep up never has more than this waiting in
# its transport. It is also what uvicorn and asyncio let a transport hold before they ask for a pause.
READ_BYTES = 1 << 16

# A kept frame costs its bytes and about this much for the objects around it (measured with tracemalloc).
FRAME_OVERHEAD = 120
# One with facts costs about this much more (measured likewise).
FACTS_OVERHEAD = 250
# An empty log costs about this much, with its place in a table of logs (measured likewise, on Python 3.13).
LOG_OVERHEAD = 610

# Over a cap on all logs, they are cut to this share of it, so that not every event has to cut.
CUT_TO = 0.9
# A client that keeps up is still reading what a channel's limits would drop. This many times the limit in bytes is the
# most that is held for it.
HELD = 4
# Seconds that a transient event is kept where no client is slow: for a stream whose opening frames are on their way.
TRANSIENT_AGE = 1.0

# Not worth to be kept: it is about earlier events.
_NOTHING = Facts(replaces=NOTHING)
# In place of what most logs never have.
_NONE: dict[Any, Any] = {}


class Log:
    """Frames with their sequences, ascending, complete after `floor`: but for those that a later one makes superfluous.

    Transient events are among them until all clients may have them, and are no part of the history. `last` is the
    newest sequence seen (`floor` in a new log), `refreshed_at` that of the newest refresh, `size` the bytes held.
    """

    __slots__ = (
        "_data",
        "_excluding",
        "_facts",
        "_keys",
        "_refreshes",
        "_sequences",
        "_stamps",
        "_superfluous",
        "_transient_size",
        "_transients",
        "_uncompressed",
        "_wholes",
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
        # By sequence, for the few frames that have any; and by tab the newest frame that left it out, in their order.
        self._facts: dict[int, Facts] = {}
        self._excluding: dict[str, int] = {}
        self._refreshes: dict[int, None] = _NONE
        self._uncompressed: dict[int, None] = _NONE
        # What later events make superfluous, and the sequences of those to be dropped.
        self._wholes: Wholes | None = None
        self._superfluous: list[int] = []
        # Transient events by their sequences, the newest of each key, and the bytes of all.
        self._transients: dict[int, None] = _NONE
        self._keys: dict[str, int] = _NONE
        self._transient_size = 0

    def __len__(self) -> int:
        return len(self._data)

    def append(self, sequence: int, frame: Frame, now: float) -> bool:
        """Add a frame; return False for one that is already here or older than the floor."""
        if sequence <= self.last:
            return False
        facts = frame.facts
        if not facts.is_transient and (facts.replaces or self._wholes is not None):
            if self._wholes is None:
                self._wholes = Wholes()
            if superfluous := self._wholes.note(sequence, facts):
                self._superfluous += superfluous
        self._sequences.append(sequence)
        self._stamps.append(now)
        self._data.append(frame.data)
        self.last = sequence
        if facts is not PLAIN:
            self._note_facts(sequence, facts, len(frame.data))
        self.size += len(frame.data) + FRAME_OVERHEAD
        return True

    def with_older(self, frames: Iterable[tuple[int, Frame]], floor: int, now: float) -> "Log":
        """Return a log with these frames before its own, complete after `floor`."""
        log = Log(floor)
        for sequence, frame in frames:
            log.append(sequence, frame, now)
        for sequence, stamp, data in zip(self._sequences, self._stamps, self._data, strict=True):
            log.append(sequence, Frame(data, self._facts.get(sequence, PLAIN)), stamp)
        log.last = self.last
        return log

    def _note_facts(self, sequence: int, facts: Facts, size: int) -> None:
        if facts == _NOTHING:
            return
        self._facts[sequence] = facts
        self.size += FACTS_OVERHEAD
        if facts.exclude is not None:
            self._excluding.pop(facts.exclude, None)
            self._excluding[facts.exclude] = sequence
        if facts.is_refresh:
            if self._refreshes is _NONE:
                self._refreshes = {}
            self._refreshes[sequence] = None
            self.refreshed_at = sequence
        if facts.is_uncompressed:
            if self._uncompressed is _NONE:
                self._uncompressed = {}
            self._uncompressed[sequence] = None
        if facts.is_transient:
            if self._transients is _NONE:
                self._transients, self._keys = {}, {}
            self._transients[sequence] = None
            self._transient_size += size + FRAME_OVERHEAD + FACTS_OVERHEAD
            if facts.key is not None:
                if facts.key in self._keys:
                    self._superfluous.append(self._keys[facts.key])
                self._keys[facts.key] = sequence

    def _remove(self, sequence: int) -> int:
        """Take out a frame that no client needs, and return its bytes: where the log begins stays as it is."""
        place = bisect_left(self._sequences, sequence)
        if place == len(self._sequences) or self._sequences[place] != sequence:
            return 0
        freed = self._cost(place)
        self._forget_facts(sequence, freed)
        del self._sequences[place], self._stamps[place], self._data[place]
        self.size -= freed
        return freed

    def _cost(self, place: int) -> int:
        facts = FACTS_OVERHEAD if self._sequences[place] in self._facts else 0
        return len(self._data[place]) + FRAME_OVERHEAD + facts

    def has_transients(self, cursor: int) -> bool:
        """Tell whether some frame after `cursor` is a transient event."""
        return any(sequence > cursor for sequence in self._transients)

    def has_uncompressed(self, cursor: int, until: int) -> bool:
        """Tell whether some frame after `cursor`, up to the sequence `until`, must not be compressed."""
        return any(cursor < sequence <= until for sequence in self._uncompressed)

    def covers(self, cursor: int) -> bool:
        """Tell whether everything after `cursor` is still here."""
        return cursor >= self.floor

    def excludes(self, tab: str | None, cursor: int) -> bool:
        """Tell whether some frame after `cursor` may not be for this tab."""
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
        self, cursor: int, limit: int = READ_BYTES, *, is_owing: bool = False, before: float = math.inf
    ) -> tuple[bytes, int]:
        """Return the frames after `cursor`, joined, and the cursor after them; raises Gap.

        Takes at least one frame, if there is one before the sequence `before`, and stops before it exceeds `limit`
        bytes. With `is_owing` their ids say that a refresh is owed.
        """
        begin = self._begin_of(cursor)
        data = self._data
        count = len(data) if before > self.last else bisect_left(self._sequences, before)
        if begin >= count:
            # The newest frames may be gone, as transient ones are in a moment.
            return b"", max(cursor, self.last) if before > self.last else cursor
        end = begin + 1
        size = len(data[begin])
        while end < count and size + len(data[end]) <= limit:
            size += len(data[end])
            end += 1
        frames = map(owing, data[begin:end]) if is_owing else data[begin:end]
        return b"".join(frames), self._sequences[end - 1]

    def first_after(self, cursor: int) -> int:
        """Return the sequence of the first frame after `cursor`, one that is yet to come where there is none.

        Clients read on alike from all cursors for which it is the same. Raises Gap.
        """
        begin = self._begin_of(cursor)
        return self._sequences[begin] if begin < len(self._sequences) else self.last + 1

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

    def trim(
        self, limits: History, now: float, held: float = math.inf, floor: int = 0, *, is_waited_for: bool = False
    ) -> int:
        """Drop what is superfluous, what exceeds the limits, and frames up to `floor`; return the bytes freed.

        Frames after `held` stay up to HELD times the limit in bytes: a client that keeps up is still reading there.
        Transient events have the same limits to themselves; where no client is slow, so that none of them
        `is_waited_for`, they are dropped within a second.
        """
        freed = sum(map(self._remove, self._superfluous))
        self._superfluous.clear()
        freed += self._trim_transients(limits, math.inf if is_waited_for else now - TRANSIENT_AGE)
        drop = place = 0
        size = self.size - self._transient_size
        count = len(self._data) - len(self._transients)
        oldest = now - limits.max_age
        most = limits.max_bytes * HELD
        while count:
            sequence = self._sequences[place]
            if sequence not in self._transients:
                is_over = (
                    count > limits.max_events
                    or size > limits.max_bytes
                    or self._stamps[place] <= oldest
                    or sequence <= floor
                )
                if not is_over or (sequence > held and size <= most):
                    break
                size -= self._cost(place)
                count -= 1
                drop = place + 1
            place += 1
        freed += self.drop(drop)
        self._forget_excluding()
        return freed

    def _trim_transients(self, limits: History, oldest: float) -> int:
        freed = 0
        while self._transients:
            first = next(iter(self._transients))
            if (
                len(self._transients) <= limits.max_events
                and self._transient_size <= limits.max_bytes
                and (oldest == math.inf or self._stamps[bisect_left(self._sequences, first)] > oldest)
            ):
                break
            freed += self._remove(first)
        return freed

    def drop_transients(self) -> int:
        """Drop all transient events; return the bytes freed."""
        return sum(self._remove(sequence) for sequence in list(self._transients))

    def drop(self, count: int = 1) -> int:
        """Drop the oldest `count` frames; return the bytes freed."""
        if not count:
            return 0
        freed = 0
        for place in range(count):
            sequence = self._sequences[place]
            cost = self._cost(place)
            freed += cost
            if sequence not in self._transients:
                self.floor = sequence
            if sequence in self._facts:
                self._forget_facts(sequence, cost)
        del self._sequences[:count], self._stamps[:count], self._data[:count]
        self.size -= freed
        return freed

    def _forget_facts(self, sequence: int, cost: int) -> None:
        facts = self._facts.pop(sequence, PLAIN)
        if facts.is_refresh:
            del self._refreshes[sequence]
        if facts.is_uncompressed:
            del self._uncompressed[sequence]
        if facts.is_transient:
            del self._transients[sequence]
            self._transient_size -= cost
            if facts.key is not None and self._keys.get(facts.key) == sequence:
                del self._keys[facts.key]
        elif facts.replaces and self._wholes is not None:
            self._wholes.forget(sequence, facts)

    def _forget_excluding(self) -> None:
        # Not with its frame, which may be taken out of the middle: an older one may leave out the same tab.
        oldest = self.oldest()
        while self._excluding:
            tab, sequence = next(iter(self._excluding.items()))
            if sequence >= oldest:
                break
            del self._excluding[tab]

    def oldest(self) -> float:
        """Return the sequence of the oldest frame held, infinity when there is none."""
        return self._sequences[0] if self._sequences else math.inf


def drop_oldest(logs: Iterable[Log], excess: int) -> int:
    """Drop frames until `excess` bytes are freed: transient ones, then the oldest of all. Return the bytes freed."""
    logs = list(logs)
    freed = sum(log.drop_transients() for log in logs) if excess > 0 else 0
    heap = [(log.oldest(), number, log) for number, log in enumerate(logs) if log]
    heapq.heapify(heap)
    while heap and freed < excess:
        _, number, log = heap[0]
        freed += log.drop()
        if log:
            heapq.heapreplace(heap, (log.oldest(), number, log))
        else:
            heapq.heappop(heap)
    return freed
