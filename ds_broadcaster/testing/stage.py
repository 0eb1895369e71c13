"""The stage of a test: a process of its own, with a broker, a hub and a clock, that does nothing by itself."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, TypeVar, cast

from asgiref.sync import sync_to_async

from ..broadcaster import broadcast
from ..conf import Settings
from ..hub.channel import Channel
from ..hub.connections import Connection
from ..hub.hub import Hub
from ..hub.threads import Threads
from ..observers import Observer, observers
from .broker import StageBroker
from .commits import commits_run
from .hidden import __tracebackhide__, __unittest  # noqa: F401
from .loop import Running, StillLoop, as_outermost, plain_code_at_home

T = TypeVar("T")

logger = logging.getLogger("ds_broadcaster")

# Events that may wait for the loop. Fewer than the shortest history of a test should have.
BACKLOG = 50
# Seconds on the clock. What is due so soon is on its way.
SOON = 0.1
# Seconds on the clock for which a request may wait for a timer of its own, such as that of asyncio.sleep().
LONGEST_REQUEST = 60.0


class StageHub(Hub):
    """A hub on a loop that stands still: a publisher makes it run before logs are full."""

    def throttle(self) -> None:
        loop: Any = self.loop
        if len(self._incoming) > BACKLOG and not loop.is_running() and threading.get_ident() == loop.home:
            loop.rest()

    async def athrottle(self) -> None:
        self.throttle()


class Stage(Observer):
    """Where the streams of a test run, from start() to end().

    Meanwhile `broadcast` has a broker that reaches these streams alone, and everything that takes its time goes by the
    stage's clock. Views and hooks run on the thread that started it.
    """

    def __init__(self) -> None:
        self.loop = StillLoop()
        self._undo = ExitStack()
        # Why streams were refused last, by their paths.
        self.refusals: dict[str, str] = {}
        # The names, for people, of what is open.
        self._open: dict[object, str] = {}

    # The process.

    def start(self) -> None:
        """Take the place of the process's broker and hubs."""
        parts = broadcast.replaced(create_broker=self._create_broker, create_hub=self.create_hub, clock=self.loop.time)
        self._undo.enter_context(parts)
        self._undo.enter_context(commits_run())
        self._undo.enter_context(plain_code_at_home())
        observers.append(self)
        self._undo.callback(observers.remove, self)

    def end(self) -> None:
        """Close what is left open, name it in the log, and give the process back its own parts."""
        if left := self.open_things():
            logger.info("Closed what the test left open: %s.", ", ".join(left))
        self._open.clear()
        try:
            self.loop.end()
        finally:
            self._undo.close()

    @property
    def broker(self) -> StageBroker:
        """The broker of this test."""
        return cast(StageBroker, broadcast._broker)

    def connections(self) -> list[Connection]:
        """Return the open connections."""
        return list(dict.fromkeys(each for channel in self._channels() for each in channel.connections))

    def presence(self) -> set[bytes]:
        """Return what presence shows now, of each channel with a connection."""
        return {channel.presence for channel in self._channels()}

    def _channels(self) -> list[Channel[Connection]]:
        return [channel for hub in self._hubs() for channel in hub.live()]

    def _hubs(self) -> list[Hub]:
        return [hub for hub in broadcast.hubs() if hub.loop is self.loop]

    def _create_broker(self, settings: Settings) -> StageBroker:
        return StageBroker("", {}, settings.history, clock=self.loop.time)

    def create_hub(
        self, loop: asyncio.AbstractEventLoop, broker: Any, settings: Settings, *args: Any, **named: Any
    ) -> Hub:
        """Return a hub for the stage's loop, or a plain one for another loop."""
        if loop is not self.loop:  # Of a server that the test runs.
            return Hub(loop, broker, settings, *args, **named)
        # A change of presence is on its way at once.
        settings = settings.model_copy(update={"presence_interval": 0.0})
        thread = self.loop.test_thread
        threads = Threads(named["sender"], renderers=thread, ordered=thread, release=lambda: None)
        return StageHub(loop, broker, settings, *args, **named, threads=threads)

    def refused(self, view: str, path: str, why: str) -> None:
        self.refusals[path] = f"{view}: {why}"

    def recheck_refused(self, path: str, why: str) -> None:
        self.refusals.setdefault(path, why)

    # What a test leaves open.

    def open_things(self) -> list[str]:
        """Return the names of what is open."""
        return list(self._open.values())

    def opened(self, thing: object, name: str) -> None:
        """Note what is open."""
        self._open[thing] = name

    def closed(self, thing: object) -> None:
        """Note that it is open no longer."""
        self._open.pop(thing, None)

    # The loop, from the test's thread.

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and everything that it sets off; return what it returns.

        A coroutine that waits for a timer moves the clock.
        """
        result: T = self.call(self._run, coroutine)
        return result

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Running[T]:
        """Have a coroutine run beside what else runs."""
        return self.loop.begin(coroutine)

    def settle(self) -> None:
        """Run everything that is on its way: what is due at once or soon, refreshes and re-checks that wait."""
        self.call(self._settle)

    def advance(self, seconds: float) -> None:
        """Move the clock on, and run what is due meanwhile, in its order."""
        self.call(self._advance, seconds)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that runs the loop, where the test's plain code runs, from plain and async tests."""
        if threading.get_ident() == self.loop.home or asyncio._get_running_loop() is None:
            with as_outermost():
                return function(*args, **kwargs)
        # In the loop of an async TestCase: its plain code runs on the thread that waits for it.
        outcome: Future[T] = Future()

        def call() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:
                outcome.set_exception(error)

        calling = sync_to_async(call)()
        calling.send(None)  # As far as to where it waits for the other thread.
        try:
            return outcome.result()
        finally:
            calling.close()

    async def acall(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """See call(). The loop of the test stands still meanwhile."""
        return self.call(function, *args, **kwargs)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        running = self.loop.begin(coroutine)
        latest = self.loop.now + LONGEST_REQUEST
        self.loop.rest(lambda: self.loop.now if running.outcome.done() else latest, running)
        if not running.outcome.done():
            running.cancel()
            self.loop.rest()
            raise AssertionError(
                f"A view waits for what does not come within {LONGEST_REQUEST:g} s on the test's clock."
            )
        return running.outcome.result()

    def _settle(self) -> None:
        soon, latest = self.loop.now + SOON, self.loop.now + LONGEST_REQUEST
        self.loop.rest(lambda: latest if self._owes() else soon)

    def _owes(self) -> bool:
        return any(hub.owes() for hub in self._hubs())

    def _advance(self, seconds: float) -> None:
        end = self.loop.now + seconds
        self.loop.rest(lambda: end)
        self.loop.now = end
        self._settle()


class Clock:
    """The clock of all that takes its time: graces, users away, heartbeats, leases, re-checks, refresh intervals."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def advance(self, seconds: float) -> None:
        """Let seconds pass, which takes no time: what is due meanwhile happens, in its order."""
        if seconds < 0:
            raise ValueError(f"The clock only goes forward, got {seconds!r} seconds.")
        self._stage.advance(seconds)

    async def aadvance(self, seconds: float) -> None:
        """See advance()."""
        await self._stage.acall(self.advance, seconds)
