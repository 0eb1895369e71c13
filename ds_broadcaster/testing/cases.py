"""The testing kit for unittest."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .broadcasts import Broadcasts, recorded
from .hidden import __tracebackhide__, __unittest  # noqa: F401
from .kit import alive_page, aopen_stream, assert_may_listen, assert_refused, live_page, open_stream, staged
from .stage import Clock
from .stream import Stream

if TYPE_CHECKING:
    import unittest

    from .live_page import LivePage

    Base = unittest.TestCase
else:
    Base = object


class BroadcastTestMixin(Base):
    """What the fixtures give, for a TestCase:

    >>> class MessageTests(BroadcastTestMixin, TestCase):
    ...     def test_message_reaches_the_room(self):
    ...         Message.objects.create(room=self.room, text="hi")
    ...         self.broadcasts.assert_sent(f"room-{self.room.pk}", contains="hi")

    It comes before the class of Django; a setUp() of your own calls super().setUp() first. `broadcasts` holds what was
    sent since then, and `broadcaster_clock` moves the time of streams.
    """

    if TYPE_CHECKING:
        broadcasts: Broadcasts
        broadcaster_clock: Clock

    def __getattr__(self, name: str) -> Any:
        """Tell what is missing where setUp() has not run."""
        if name not in ("broadcasts", "broadcaster_clock", "_stage"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise AttributeError(
            f"{type(self).__name__} has no broadcasts yet: write BroadcastTestMixin before TestCase, and call "
            "super().setUp() first in a setUp() of your own."
        )

    def setUp(self) -> None:
        super().setUp()
        self._stage = self.enterContext(staged())
        self.broadcasts = self.enterContext(recorded())
        self.broadcaster_clock = Clock(self._stage)

    def open_stream(self, to: Any, /, *args: Any, **kwargs: Any) -> Stream:
        """Open the stream of a view: see the fixture of this name."""
        return open_stream(self._stage, to, *args, **kwargs)

    async def aopen_stream(self, to: Any, /, *args: Any, **kwargs: Any) -> Stream:
        """See open_stream()."""
        return await aopen_stream(self._stage, to, *args, **kwargs)

    def live_page(self, to: Any, /, *args: Any, **kwargs: Any) -> "LivePage":
        """Open a page, with its streams: see the fixture of this name."""
        return live_page(self._stage, to, *args, **kwargs)

    async def alive_page(self, to: Any, /, *args: Any, **kwargs: Any) -> "LivePage":
        """See live_page()."""
        return await alive_page(self._stage, to, *args, **kwargs)

    def broadcaster_outage(self) -> AbstractContextManager[None]:
        """Have the broker away for the time of a block."""
        return self._stage.broker.away()

    def assertMayListen(self, user: Any, to: Any, /, *args: Any, **kwargs: Any) -> None:
        """See assert_may_listen()."""
        assert_may_listen(user, to, *args, **kwargs)

    def assertRefused(self, user: Any, to: Any, /, *args: Any, **kwargs: Any) -> None:
        """See assert_refused()."""
        assert_refused(user, to, *args, **kwargs)
