"""A hub's stand-in in the tests of a broker."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ...brokers import EVERYWHERE, GONE, Command, Frame, PresenceChange
from ...ids import new_epoch
from ...present import UserPart

# Seconds that an event may take from one process to another.
PATIENCE = 5
# In place of a sequence, for calls that have none: on_gap(), reset() and on_presence().
GAP, RESET, PRESENCE = -1, -2, -3


class RecordingReceiver:
    """A receiver that remembers what it was told, for one process of a test."""

    def __init__(self) -> None:
        self.process = f"recording:{new_epoch()}"
        self.heard: list[tuple[str, int, Frame | Command]] = []
        # The newest sequence of on_position().
        self.position = 0
        # What on_tab_closed() was told.
        self.closed_tabs: list[tuple[Any, str]] = []
        # What part() returns for a channel and a user, where it is more than a number of connections.
        self.said: dict[tuple[str, Any], UserPart] = {}
        self._present: dict[str, list[Any]] = {}
        self._more = threading.Condition()

    # The protocol of brokers.Receiver.

    def deliver(self, channel: str, sequence: int, item: Frame | Command) -> None:
        with self._more:
            self.heard.append((channel, sequence, item))
            self._more.notify_all()

    def on_position(self, sequence: int) -> None:
        with self._more:
            self.position = max(self.position, sequence)
            self._more.notify_all()

    def on_gap(self, channel: str) -> None:
        self.deliver(channel, GAP, Command("gap"))

    def reset(self, epoch: str) -> None:
        self.deliver(EVERYWHERE, RESET, Command("reset"))

    async def athrottle(self) -> None:
        pass

    def throttle(self) -> None:
        pass

    def on_presence(self, channel: str) -> None:
        self.deliver(channel, PRESENCE, Command("presence"))

    def on_tab_closed(self, user: Any, tab: str) -> None:
        with self._more:
            self.closed_tabs.append((user, tab))
            self._more.notify_all()

    def users(self, channel: str) -> list[Any]:
        return list(self._present.get(channel, ()))

    def parts(self, channel: str) -> list[UserPart]:
        found = (self.part(channel, user) for user in dict.fromkeys(self.users(channel)))
        return [part for part in found if part is not None]

    def part(self, channel: str, user: Any) -> UserPart | None:
        connections = self.users(channel).count(user)
        found = UserPart(user, 1.0, others=connections) if connections else None
        return self.said.get((channel, user), found)

    def connections(self, channel: str) -> int:
        return len(self._present.get(channel, ()))

    def channels(self) -> list[str]:
        return [channel for channel, users in self._present.items() if users]

    # For tests.

    def set_users(self, channel: str, *users: Any) -> list[PresenceChange]:
        """Have these users on a channel, each as often as named; return what a hub tells about the change."""
        before = {*self._present.get(channel, ())}
        self._present[channel] = list(users)
        changes = [PresenceChange(channel, None, len(users) or GONE)]
        return changes + [PresenceChange(channel, user, users.count(user) or GONE) for user in {*before, *users}]

    def held(self) -> list[PresenceChange]:
        """Return what a hub tells a store that knows nothing of it."""
        return [each for channel in self.channels() for each in self.set_users(channel, *self._present[channel])]

    def sequences(self, channel: str) -> list[int]:
        """Return the sequences heard on a channel, in their order."""
        return [sequence for name, sequence, _ in list(self.heard) if name == channel]

    def frames(self, channel: str) -> list[Frame]:
        """Return the frames heard on a channel, in their order."""
        return [item for name, _, item in list(self.heard) if name == channel and isinstance(item, Frame)]

    async def hears(self, channel: str, sequence: int) -> None:
        """Wait for a sequence on a channel; raises AssertionError when it does not come."""
        await self.until(lambda: sequence in self.sequences(channel), f"{sequence} on {channel!r} did not arrive")

    async def reaches(self, sequence: int) -> None:
        """Wait for on_position() with this sequence or a later one; raises AssertionError when it does not come."""
        await self.until(lambda: self.position >= sequence, f"No position {sequence}")

    async def until(self, condition: Callable[[], object], complaint: str) -> None:
        """Wait until a condition about what was heard is true; raises AssertionError when it stays false."""

        def wait() -> bool:
            with self._more:
                return bool(self._more.wait_for(condition, PATIENCE))

        assert await asyncio.to_thread(wait), f"{complaint} within {PATIENCE} s; heard {self.heard}."
