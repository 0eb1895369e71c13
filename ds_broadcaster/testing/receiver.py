"""A hub's place in the tests of a broker."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ..brokers import EVERYWHERE, GONE, Command, Frame, PresenceChange
from ..ids import new_epoch

# Seconds that an event may take from one process to another.
PATIENCE = 5
# What stands in place of a sequence where an RecordingReceiver was told something that has none.
MISSED, RESET, ATTENDED = -1, -2, -3


class RecordingReceiver:
    """A receiver that remembers: what a broker sees of a hub, for one process of a test."""

    def __init__(self) -> None:
        self.process = f"ear:{new_epoch()}"
        self.heard: list[tuple[str, int, Frame | Command]] = []
        # The newest sequence up to which everything was said to be heard.
        self.reached_to = 0
        self._present: dict[str, list[Any]] = {}
        self._more = threading.Condition()

    def deliver(self, channel: str, sequence: int, item: Frame | Command) -> None:
        with self._more:
            self.heard.append((channel, sequence, item))
            self._more.notify_all()

    def on_position(self, sequence: int) -> None:
        with self._more:
            self.reached_to = max(self.reached_to, sequence)
            self._more.notify_all()

    def on_gap(self, channel: str) -> None:
        self.deliver(channel, MISSED, Command("missed"))

    def reset(self, epoch: str) -> None:
        self.deliver(EVERYWHERE, RESET, Command("reset"))

    def throttle(self) -> None:
        pass

    def on_presence(self, channel: str) -> None:
        self.deliver(channel, ATTENDED, Command("attended"))

    def users(self, channel: str) -> list[Any]:
        return list(self._present.get(channel, ()))

    def connections(self, channel: str) -> int:
        return len(self._present.get(channel, ()))

    def channels(self) -> list[str]:
        return [channel for channel, users in self._present.items() if users]

    async def reaches(self, sequence: int) -> None:
        """Wait until everything up to this sequence was said to be heard; raises AssertionError when it is not."""
        await self.until(lambda: self.reached_to >= sequence, f"Nothing was said of {sequence}")

    def becomes(self, channel: str, *users: Any) -> list[PresenceChange]:
        """Have these users on a channel, each as often as they are named; return what a hub tells of that."""
        before = {*self._present.get(channel, ())}
        self._present[channel] = list(users)
        changes = [PresenceChange(channel, None, len(users) or GONE)]
        return changes + [PresenceChange(channel, user, users.count(user) or GONE) for user in {*before, *users}]

    def sequences(self, channel: str) -> list[int]:
        """Return the sequences heard on a channel, in their order."""
        return [sequence for name, sequence, _ in list(self.heard) if name == channel]

    async def hears(self, channel: str, sequence: int) -> None:
        """Wait until this sequence has come; raises AssertionError when it does not."""
        await self.until(lambda: sequence in self.sequences(channel), f"{sequence} on {channel!r} did not arrive")

    async def until(self, condition: Callable[[], object], complaint: str) -> None:
        """Wait until something that it hears makes a condition true; raises AssertionError when nothing does."""

        def wait() -> bool:
            with self._more:
                return bool(self._more.wait_for(condition, PATIENCE))

        assert await asyncio.to_thread(wait), f"{complaint} within {PATIENCE} s; there was {self.heard}."
