"""Re-checks: when a stream that was granted once is asked about again, and in which order.

What is asked, and how, is not known here: see streams/replayed_requests.py.
"""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from ..ids import listed
from ..tally import Tally
from .connections import Connection

logger = logging.getLogger("ds_broadcaster")

# How many are asked about at a time: each takes a thread of Django's, and the pages of the site come first. The clock
# has a share of them, so that what a command asks for does not wait for what the clock asks for.
PARALLEL = 4
PARALLEL_BY_CLOCK = 2
# Seconds after which the next has the place of an answer that does not come. The answer counts when it comes, up to the
# second number: then the stream ends, for a check that hangs must not be a way to stay.
PATIENCE = 5.0
LONGEST_PATIENCE = 30.0
# Seconds after which a stream that a command concerns ends, when all answers say nothing: a client that keeps its own
# rate limit exhausted would have no other.
UNANSWERED = 60.0
# How many answers may be late at a time, in all, for one user, and for all visitors who are not logged in: each has a
# thread that cannot be stopped.
LATE = 16
LATE_OF_USER = 2
LATE_OF_VISITORS = 8
# Seconds between two errors in the log about the former.
LOG_INTERVAL = 60.0
# The interval is shortened by up to this share, so that streams which opened together are not asked about together.
JITTER = 0.2
# Seconds. A view with an interval of 0 must not keep a processor busy.
SHORTEST = 0.1
# Seconds. The reason for a re-check may still be on its way: Django tells of a logout before it ends the session.
SECOND_LOOK = 1.0
# Seconds between two re-checks of a connection: at first, and doubled with each up to the longest, or up to the urgent
# one after a logout or recheck(). What a re-check does may be the reason for the next: it begins anew after twice the
# longest.
FIRST_PAUSE = 0.1
URGENT_PAUSE = 1.0
LONGEST_PAUSE = 10.0


class _Turns:
    """Connections that are due. Users take turns, so that one with many streams does not delay the others."""

    def __init__(self) -> None:
        self._of_user: dict[Any, dict[Connection, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._of_user)

    def add(self, connection: Connection) -> None:
        self._of_user.setdefault(connection.user_id, {})[connection] = None

    def discard(self, connection: Connection) -> None:
        theirs = self._of_user.get(connection.user_id, {})
        if connection in theirs:
            del theirs[connection]
            if not theirs:
                del self._of_user[connection.user_id]

    def take(self, is_held: Callable[[Any], bool] = lambda user: False) -> Connection | None:
        """Take the next connection, of a user who is not held."""
        user = next((user for user in self._of_user if not is_held(user)), self)
        if user is self:
            return None
        theirs = self._of_user.pop(user)
        connection = next(iter(theirs))
        del theirs[connection]
        if theirs:
            self._of_user[user] = theirs
        return connection


class _Attention:
    """What commands asked for about a connection: an answer now, and one from `look_at` on."""

    __slots__ = ("asked_at", "is_urgent", "is_wanted", "look_at", "pause", "unanswered_since")

    def __init__(self) -> None:
        self.pause = FIRST_PAUSE
        self.asked_at = -math.inf
        self.look_at = -math.inf
        self.is_wanted = False
        self.is_urgent = False
        self.unanswered_since: float | None = None

    def note_silence(self, now: float) -> float:
        """Note that an answer said nothing; return for how many seconds none has said anything."""
        if self.unanswered_since is None:
            self.unanswered_since = now
        return now - self.unanswered_since

    def next_at(self) -> float | None:
        """Return the time from which the connection is to be asked about, None when all is answered."""
        again_at = self.asked_at + (min(self.pause, URGENT_PAUSE) if self.is_urgent else self.pause)
        if self.is_wanted:
            return again_at
        return max(self.look_at, again_at) if self.asked_at < self.look_at else None


class _Ask:
    """A connection that is asked about: by the clock or a command, until when, and whether the answer is late."""

    __slots__ = ("by_clock", "is_late", "patience")

    def __init__(self, by_clock: bool, patience: asyncio.TimerHandle) -> None:
        self.by_clock = by_clock
        self.patience = patience
        self.is_late = False


class Rechecks:
    """A timer for each connection, and two queues of those that are due: by a command, and by the clock.

    `still_allowed` asks about one connection and returns None where the answer says nothing. `end` ends the stream of
    one that may not stay; its client returns and asks for itself.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        still_allowed: Callable[[Connection], Awaitable[bool | None]],
        end: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._still_allowed = still_allowed
        self._end = end
        self._intervals: dict[Connection, float] = {}
        self._of_user: dict[Any, list[Connection]] = {}
        self._attention: dict[Connection, _Attention] = {}
        self._by_command = _Turns()
        self._by_clock = _Turns()
        self._asking: dict[Connection, _Ask] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: Counter[Any] = Counter()
        self._waiting: dict[Connection, tuple[asyncio.Future[bool | None], float]] = {}
        self._is_stopped = False
        self._tally = Tally(LOG_INTERVAL, loop.time)
        # Run timers in an empty context: the caller's would keep its request alive and leak its language into the
        # re-check.
        self._context = Context()
        # Bound once: every connection's timer would keep a bound method of its own.
        self._on_timer = self._turn

    def watch(self, connection: Connection, interval: float | None) -> None:
        """Ask about a connection every `interval` seconds (None: as the settings say)."""
        if interval is not None:
            self._intervals[connection] = max(interval, SHORTEST)
        if connection.user_id is not None:
            self._of_user.setdefault(connection.user_id, []).append(connection)
        self._wait(connection)

    def connections_of(self, user_id: Any) -> list[Connection]:
        """Return a user's connections. A job that saves every user must not look at every stream for each."""
        return list(self._of_user.get(user_id, ()))

    def forget(self, connection: Connection) -> None:
        """Stop asking about a closed connection."""
        if connection.recheck is not None:
            connection.recheck.cancel()
            connection.recheck = None
        self._by_command.discard(connection)
        self._by_clock.discard(connection)
        self._attention.pop(connection, None)
        self._intervals.pop(connection, None)
        self._tell(connection, None)
        theirs = self._of_user.get(connection.user_id, [])
        if connection in theirs:
            theirs.remove(connection)
            if not theirs:
                del self._of_user[connection.user_id]

    def ask(self, connection: Connection, *, is_urgent: bool = True) -> None:
        """Ask about a connection now, or after its pause; and if it may stay, once more a moment later."""
        if not connection.is_open or self._is_stopped:  # Closed by the command before this one.
            return
        ask = self._asking.get(connection)
        if ask is not None and ask.is_late:
            self._end(connection)  # An answer that does not come must not keep what a second command is about.
            return
        now = self._loop.time()
        attention = self._attention.setdefault(connection, _Attention())
        if now - attention.asked_at >= 2 * LONGEST_PAUSE:
            attention.pause = FIRST_PAUSE
        if attention.next_at() is None:
            attention.is_urgent = False
        attention.is_urgent |= is_urgent
        attention.is_wanted = True
        attention.look_at = now + SECOND_LOOK
        if ask is None:
            self._wait(connection)

    async def answer(self, connection: Connection) -> bool | None:
        """Ask about a connection, wait, and return the answer: None where it says nothing or is late.

        An answer to a question from before this call does not count.
        """
        self.ask(connection)
        if not connection.is_open or self._is_stopped:
            return None
        answer: asyncio.Future[bool | None] = self._loop.create_future()
        self._waiting[connection] = answer, self._loop.time()
        return await answer

    def look(self, connection: Connection) -> None:
        """Ask about a connection when there is time, as the clock does."""
        if connection.is_open and connection not in self._asking:
            self._by_clock.add(connection)
            self._fill()

    def has_questions(self) -> bool:
        """Tell whether a command has not been answered yet. The second looks, a moment later, do not count."""
        return any(each.is_wanted for each in self._attention.values())

    def stop(self) -> None:
        """Ask about nothing more: every stream ends."""
        self._is_stopped = True
        for connection in list(self._waiting):
            self._tell(connection, None)

    def is_idle(self) -> bool:
        """Tell whether no connection is watched, due or asked about."""
        queues = (self._by_command, self._by_clock, self._asking, self._waiting)
        return not any((*queues, self._attention, self._intervals, self._of_user, self._late))

    # When.

    def _wait(self, connection: Connection) -> None:
        """Set the timer of a connection; queue it when it is due by a command."""
        attention = self._attention.get(connection)
        at = None if attention is None else attention.next_at()
        if at is None:
            seconds = self._intervals.get(connection, self._interval) * random.uniform(1 - JITTER, 1)
        else:
            seconds = at - self._loop.time()
        if connection.recheck is not None:
            connection.recheck.cancel()
            connection.recheck = None
        if seconds > 0:
            connection.recheck = self._loop.call_later(seconds, self._on_timer, connection, context=self._context)
        else:
            self._by_clock.discard(connection)
            self._by_command.add(connection)
            self._fill()

    def _turn(self, connection: Connection) -> None:
        attention = self._attention.get(connection)
        if attention is None or attention.next_at() is None:
            self._attention.pop(connection, None)
            self._wait(connection)
            queue = self._by_clock
        else:
            connection.recheck = None
            queue = self._by_command
        if connection not in self._asking:  # Otherwise its answer sees to the rest.
            queue.add(connection)
            self._fill()

    # Who is next.

    def _fill(self) -> None:
        """Give the free places to those that are due."""
        while not self._is_stopped:
            on_time = [ask.by_clock for ask in self._asking.values() if not ask.is_late]
            if len(on_time) >= PARALLEL:
                return
            connection = self._by_command.take()
            if connection is not None:
                if self._may_be_asked(connection.user_id):
                    self._begin(connection, by_clock=False)
                else:
                    self._end(connection)  # What cannot be asked here, its client finds out for itself.
                continue
            if sum(on_time) >= PARALLEL_BY_CLOCK or self._late.total() >= LATE:
                return
            connection = self._by_clock.take(lambda user: not self._may_be_asked(user))
            if connection is None:
                return
            self._begin(connection, by_clock=True)

    def _may_be_asked(self, user: Any) -> bool:
        if self._late.total() < LATE:
            return self._late[user] < (LATE_OF_VISITORS if user is None else LATE_OF_USER)
        if self._tally.add():
            logger.error(
                "%d re-checks have not been answered: has_permission() hangs, or the middleware before it. Streams "
                "that a logout, a recheck() or a change of a user concerns now end, and their clients return.",
                LATE,
            )
        return False

    def _begin(self, connection: Connection, *, by_clock: bool) -> None:
        attention = self._attention.get(connection)
        if attention is not None:
            attention.is_wanted = False
            attention.asked_at = self._loop.time()
            attention.pause = min(2 * attention.pause, LONGEST_PAUSE)
        patience = self._loop.call_later(PATIENCE, self._be_late, connection, context=self._context)
        self._asking[connection] = _Ask(by_clock, patience)
        task = self._loop.create_task(self._work(connection), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, connection: Connection) -> None:
        allowed = None
        try:
            allowed = await self._still_allowed(connection)
        finally:
            ask = self._asking.pop(connection)
            ask.patience.cancel()
            if ask.is_late:
                self._late -= Counter([connection.user_id])
            self._take(connection, allowed)
            self._fill()

    def _take(self, connection: Connection, allowed: bool | None) -> None:
        """Act on an answer."""
        attention = self._attention.get(connection)
        if not connection.is_open:
            return
        if allowed is False:
            self._end(connection)
        elif attention is not None:
            asked_at = attention.asked_at
            if allowed is not None:
                attention.unanswered_since = None
            elif attention.note_silence(self._loop.time()) > UNANSWERED:
                self._end(connection)
                return
            else:  # What a command asked for is still to be answered.
                attention.is_wanted = True
                attention.is_urgent = False
            self._wait(connection)
            self._tell(connection, allowed, asked_at)

    def _be_late(self, connection: Connection) -> None:
        """Give the place of a late answer to the next."""
        ask = self._asking[connection]
        ask.is_late = True
        ask.patience = self._loop.call_later(
            LONGEST_PATIENCE - PATIENCE, self._give_up, connection, context=self._context
        )
        self._late[connection.user_id] += 1
        names = listed(channel.name for channel in connection.channels)
        logger.warning("The re-check of user %r on %s takes more than %d s.", connection.user_id, names, PATIENCE)
        self._tell(connection, None)
        self._fill()

    def _give_up(self, connection: Connection) -> None:
        if connection.is_open:
            self._end(connection)

    def _tell(self, connection: Connection, allowed: bool | None, asked_at: float = math.inf) -> None:
        """Give an answer to the stream that waits for it, unless it was asked for before."""
        answer, since = self._waiting.get(connection, (None, 0.0))
        if answer is not None and asked_at >= since:
            del self._waiting[connection]
            if not answer.done():
                answer.set_result(allowed)
