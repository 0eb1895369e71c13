"""A channel's log: the frames that are kept, in order, for everybody whose cursor is behind.

Live, slow and returning clients all read the same way: from a cursor on. A cursor is the sequence of the last event
its owner has. A log knows from which cursor on it is complete (`floor`); an older cursor is a gap.
"""

import math
from bisect import bisect_right

from .conf import History
from .exceptions import Gap

# One read returns at most about this much, so a client that cannot keep up never has more than this waiting in
# its transport. It is also what uvicorn and asyncio let a transport hold before they ask for a pause.
READ_BYTES = 1 << 16

# A kept frame costs its bytes and about this much for the objects around it (measured with tracemalloc).
FRAME_OVERHEAD = 120


class Log:
    """Frames with their sequences, ascending, complete after `floor`.

    `last` is the newest sequence seen (`floor` while nothing was), `size` the bytes held.
    """

    __slots__ = ("_frames", "_sequences", "_stamps", "floor", "last", "size")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.last = floor
        self.size = 0
        self._sequences: list[int] = []
        self._stamps: list[float] = []
        self._frames: list[bytes] = []

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, sequence: int, frame: bytes, now: float) -> bool:
        """Add a frame; one that is here already, or is from before the floor, is passed over (False)."""
        if sequence <= self.last:
            return False
        self._sequences.append(sequence)
        self._stamps.append(now)
        self._frames.append(frame)
        self.last = sequence
        self.size += len(frame) + FRAME_OVERHEAD
        return True

    def covers(self, cursor: int) -> bool:
        """Tell whether everything after `cursor` is still here."""
        return cursor >= self.floor

    def after(self, cursor: int) -> list[tuple[int, bytes]]:
        """Return every (sequence, frame) after `cursor`; raises Gap when some are gone."""
        if cursor < self.floor:
            raise Gap(f"The log begins after {self.floor}; the cursor {cursor} is older.")
        start = bisect_right(self._sequences, cursor)
        return list(zip(self._sequences[start:], self._frames[start:], strict=True))

    def read(self, cursor: int, limit: int = READ_BYTES) -> tuple[bytes, int]:
        """Return the frames after `cursor`, joined, and the cursor behind them; raises Gap.

        Takes at least one frame and stops before it exceeds `limit` bytes.
        """
        if cursor < self.floor:
            raise Gap(f"The log begins after {self.floor}; the cursor {cursor} is older.")
        start = bisect_right(self._sequences, cursor)
        frames = self._frames
        count = len(frames)
        if start == count:
            return b"", cursor
        end = start + 1
        size = len(frames[start])
        while end < count and size + len(frames[end]) <= limit:
            size += len(frames[end])
            end += 1
        return b"".join(frames[start:end]), self._sequences[end - 1]

    def trim(self, limits: History, now: float, held: float = math.inf) -> int:
        """Drop what exceeds the limits in count, bytes or age, oldest first; return the bytes freed.

        Frames after `held` stay whatever the limits: somebody who keeps up is still reading there.
        """
        drop = 0
        size = self.size
        count = len(self._frames)
        oldest = now - limits.max_age
        while (
            drop < count
            and self._sequences[drop] <= held
            and (count - drop > limits.max_events or size > limits.max_bytes or self._stamps[drop] <= oldest)
        ):
            size -= len(self._frames[drop]) + FRAME_OVERHEAD
            drop += 1
        return self.drop(drop)

    def drop(self, count: int = 1) -> int:
        """Drop the oldest `count` frames; return the bytes freed."""
        if not count:
            return 0
        freed = sum(map(len, self._frames[:count])) + count * FRAME_OVERHEAD
        self.floor = self._sequences[count - 1]
        del self._sequences[:count], self._stamps[:count], self._frames[:count]
        self.size -= freed
        return freed

    def oldest(self) -> float:
        """Return the sequence of the oldest frame held, infinity when there is none."""
        return self._sequences[0] if self._sequences else math.inf
