"""Refreshes: what a stream's page shows is rendered anew, for its viewer or once for all who see the same.

A connection that comes to a refresh in its log stops there until the snapshot is rendered, so that no event overtakes
it. Where that has to wait, for the interval since the last one or for long, it reads on until the render begins, with
ids that say that it owes the refresh: a client that returns meanwhile has missed it.

What is rendered, and how, is not known here: see streams/replayed_requests.py and streams/audiences.py.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

from ..ids import listed
from ..observers import name_of, render_observed
from ..sse import with_id, without_id
from ..tally import Tally
from .channel import Chunk, Stop
from .compression import Piece
from .connections import Connection, Head, Refresh
from .grant import Audience
from .pages import pages
from .threads import Threads

logger = logging.getLogger("ds_broadcaster")

# How many renders run at a time: the pages of the site come first.
PARALLEL = 2
# Seconds for which a render waits at most for pages that are being answered, and between two looks at them.
YIELD = 0.02
YIELD_STEP = 0.002
# Seconds for which events wait at most behind a refresh whose turn has not come.
STANDSTILL = 1.0
# Seconds after which the next has the place of a render that does not end, and after which its connections go on.
PATIENCE = 5.0
LONGEST_PATIENCE = 30.0
# How many renders may be late at a time: each has a thread that cannot be stopped.
LATE = 16
# Seconds between two lines in the log about that.
LOG_INTERVAL = 60.0
# Seconds between two looks at the permission of a connection whose audience is refreshed, for each connection that the
# render was for: the render asks for none. It takes about a tenth of a processor.
LOOK_INTERVAL = 0.01


class Rendered(NamedTuple):
    """What a render gave: the frames of a snapshot, or None without one; and whether the stream is still allowed."""

    frames: bytes | None
    is_allowed: bool = True


FAILED = Rendered(None)
RenderOwn = Callable[[Connection, frozenset[str]], Awaitable[Rendered]]


class _Job:
    """A render, and the connections that wait for it.

    `key` is the epoch and what is rendered for: a connection, an audience, or an event and a value of an audience.
    `due` is the time at which it may begin and `head` the newest event when it began. `later` are connections that came
    too late for it. `stop` is the event that is rendered, None for a snapshot.
    """

    __slots__ = ("began_at", "connections", "due", "head", "is_late", "is_running", "key", "later", "stop", "timer")

    def __init__(self, key: tuple[str, Any], due: float, stop: Stop | None = None) -> None:
        self.key = key
        self.due = due
        self.stop = stop
        self.connections: dict[Connection, None] = {}
        self.later: dict[Connection, None] = {}
        self.began_at = 0.0
        self.head = -1
        self.is_running = False
        self.is_late = False
        self.timer: asyncio.TimerHandle | None = None


class Refreshes:
    """The renders that are due, and those that run.

    `interval` is the shortest time between two snapshots of a connection, in seconds. `render_own` renders for one
    connection, with the channels that were refreshed; `render_event`, in a thread, an event's payload for the value of
    an audience. `end` ends the stream of a connection that may not stay, and `look` has the
    permission of one asked when there is time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        head: Head,
        interval: float,
        threads: Threads,
        *,
        render_own: RenderOwn,
        render_event: Callable[[bytes, Any], bytes],
        end: Callable[[Connection], None],
        look: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._head = head
        self._interval = interval
        self._threads = threads
        self._render_own = render_own
        self._render_event = render_event
        self._end = end
        self._look = look
        self._jobs: dict[tuple[str, Any], _Job] = {}
        # Ordered sets: a thousand connections that close take each their own job out.
        self._events: OrderedDict[_Job, None] = OrderedDict()
        self._snapshots: OrderedDict[_Job, None] = OrderedDict()
        self._running = 0
        self._late = 0
        self._tasks: set[asyncio.Task[Rendered]] = set()
        self._is_stopped = False
        self._began_at = -math.inf
        self._yielding: asyncio.TimerHandle | None = None
        self._tally = Tally(LOG_INTERVAL, loop.time)

    def begin(self, connection: Connection, snapshot: bytes, refreshed: Iterable[str]) -> None:
        """Note what the opening frames of a connection show, and which refreshes they do not."""
        if not connection.can_refresh:
            return
        if snapshot:
            refresh = _refresh_of(connection)
            refresh.digest, refresh.cursor = _digest(snapshot), connection.granted
        if refreshed:
            _refresh_of(connection).owed.update(refreshed)

    def stop_at(self, connection: Connection, stop: Stop) -> None:
        """Have what stands at a stop rendered for a connection, which has come to it."""
        if stop.frame.facts.is_audience:
            self._wait_for_event(connection, stop)
        else:
            self.owe(connection, stop.channel)

    def owe(self, connection: Connection, channel: str) -> None:
        """Note that a connection has to show a refresh of a channel."""
        refresh = _refresh_of(connection)
        refresh.owed.add(channel)
        if refresh.job is None:
            self.catch_up(connection)

    def catch_up(self, connection: Connection) -> None:
        """Have a snapshot rendered for a connection, at the earliest an interval after its last one."""
        self._join(connection, max(self._loop.time(), _refresh_of(connection).rendered_at + self._interval))

    def _wait_for_event(self, connection: Connection, stop: Stop) -> None:
        self._join(connection, self._loop.time(), stop)
        if not _refresh_of(connection).is_paused:
            connection.pause()

    def _join(self, connection: Connection, due: float, stop: Stop | None = None) -> None:
        # Sequences of another epoch say nothing about this one's.
        key = self._head.epoch, _subject_of(connection, stop)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, due, stop)
        elif job.is_running and connection.busy:
            return  # As in _begin().
        _refresh_of(connection).job = job
        if job.is_running:
            # A render that began with all that the connection has read may be shown to it.
            if stop is not None or connection.cursor <= job.head:
                job.connections[connection] = None
                connection.pause()
            else:
                job.later[connection] = None
            return
        job.connections[connection] = None
        job.due = max(job.due, due)
        if job in self._snapshots:
            if job.timer is not None:
                connection.pause()
        elif job.timer is None and len(job.connections) == 1:
            self._wait(job)

    def _wait(self, job: _Job) -> None:
        seconds = job.due - self._loop.time()
        if seconds > 0:
            job.timer = self._loop.call_later(seconds, self._wait, job, context=Context())
            return
        job.timer = None
        self._queue_of(job)[job] = None
        if job.stop is not None:
            # Its connections stand still already, and a place may not come free.
            job.timer = self._loop.call_later(LONGEST_PATIENCE, self._give_up, job, context=Context())
        else:
            for connection in job.connections:
                connection.pause()
            job.timer = self._loop.call_later(STANDSTILL, self._read_on, job, context=Context())
        self._fill()

    def _read_on(self, job: _Job) -> None:
        """Let the connections of a job whose turn has not come have the events after the refresh."""
        job.timer = None
        for connection in list(job.connections):
            connection.resume()
            connection.pump()

    def _queue_of(self, job: _Job) -> OrderedDict[_Job, None]:
        return self._snapshots if job.stop is None else self._events

    # Renders.

    def _fill(self) -> None:
        while (self._events or self._snapshots) and self._running < PARALLEL and not self._is_stopped:
            if self._late >= LATE:
                if self._tally.add():
                    logger.error("%d renders of refreshes have not ended: pages are not refreshed until some do.", LATE)
                return
            # Events first: connections stand still for them.
            if not self._events and pages.count and self._loop.time() - self._began_at < YIELD:
                if self._yielding is None:
                    self._yielding = self._loop.call_later(YIELD_STEP, self._look_again, context=Context())
                return
            self._began_at = self._loop.time()
            self._begin((self._events or self._snapshots).popitem(last=False)[0])

    def _look_again(self) -> None:
        self._yielding = None
        self._fill()

    def _begin(self, job: _Job) -> None:
        for connection in list(job.connections):
            if connection.busy and job.stop is None:
                # Its client is still taking what came before: it comes again when it has all.
                del job.connections[connection]
                _refresh_of(connection).job = None
                connection.resume()
            else:
                connection.pause()
        if job.timer is not None:
            job.timer.cancel()
        if not job.connections:
            del self._jobs[job.key]
            return
        job.is_running = True
        job.began_at = self._loop.time()
        job.head = self._head.sequence
        self._running += 1
        task = self._loop.create_task(self._render(job), context=Context())
        self._tasks.add(task)
        job.timer = self._loop.call_later(PATIENCE, self._be_late, job, context=Context())
        task.add_done_callback(lambda done: self._finish(job, done))

    async def _render(self, job: _Job) -> Rendered:
        _, subject = job.key
        if job.stop is not None:
            payload = without_id(job.stop.frame.data)
            return Rendered(await self._in_thread(self._render_event, payload, subject[2].value))
        if isinstance(subject, Audience):
            assert subject.render is not None
            render = partial(render_observed, name_of(subject.render), subject.render)
            return Rendered(await self._in_thread(render))
        return await self._render_own(subject, frozenset(_refresh_of(subject).owed))

    async def _in_thread(self, function: Callable[..., bytes], *args: Any) -> bytes:
        return await asyncio.wrap_future(self._threads.render(_call, function, args), loop=self._loop)

    def _be_late(self, job: _Job) -> None:
        """Give the place of a late render to the next."""
        job.is_late = True
        self._running -= 1
        self._late += 1
        logger.warning("The render of a refresh of %s takes more than %d s.", _names(job), PATIENCE)
        job.timer = self._loop.call_later(LONGEST_PATIENCE - PATIENCE, self._give_up, job, context=Context())
        self._fill()

    def _give_up(self, job: _Job) -> None:
        """Let the connections go on without what is not rendered."""
        job.timer = None
        self._queue_of(job).pop(job, None)
        self._deliver(job, FAILED)

    def _finish(self, job: _Job, task: "asyncio.Task[Rendered]") -> None:
        self._tasks.discard(task)
        if job.timer is not None:
            job.timer.cancel()
        if job.is_late:
            self._late -= 1
        else:
            self._running -= 1
        rendered = FAILED
        if not task.cancelled():
            error = task.exception()
            if error is None:
                rendered = task.result()
            else:
                logger.error("The render of a refresh of %s failed.", _names(job), exc_info=error)
        self._deliver(job, rendered)
        if not rendered.is_allowed:  # Also where it comes too late to be shown.
            self._end(job.key[1])
        self._fill()

    def _deliver(self, job: _Job, rendered: Rendered) -> None:
        """Give the connections of a job what was rendered, and let them go on."""
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        waiting, job.connections = job.connections, {}
        later, job.later = job.later, {}
        digest = _digest(rendered.frames) if rendered.frames else b""
        chunks: dict[tuple[Any, ...], Chunk] = {}
        for connection in waiting:
            refresh = _refresh_of(connection)
            refresh.job = None
            connection.resume()
            if not connection.is_open or connection.closing is not None or not rendered.is_allowed:
                continue
            if connection.busy or _subject_of(connection, job.stop) != job.key[1]:
                # It is still taking a heartbeat, or belongs to another audience by now: it comes again.
                connection.pump()
                continue
            if job.stop is None:
                frames = self._next_snapshot(connection, rendered.frames, digest, job.began_at)
                sequence: int | None = connection.cursor
            else:
                frames, connection.cursor = rendered.frames or b"", job.stop.sequence
                sequence = None if refresh.owed or job.stop.frame.facts.is_transient else job.stop.sequence
            place = (bool(frames), sequence, connection.cursor, connection.presence_at)
            if place not in chunks:
                event_id = None if sequence is None else self._head.id_of(sequence)
                is_uncompressed = job.stop is not None and job.stop.frame.facts.is_uncompressed
                piece = Piece(with_id(frames, event_id), is_uncompressed)
                chunks[place] = Chunk(piece.text, connection.cursor, connection.presence_at, pieces=(piece,))
            connection.go_on(chunks[place])
            if job.stop is None and isinstance(job.key[1], Audience):
                self._look_at(connection, refresh, LOOK_INTERVAL * len(waiting))
        for connection in later:
            _refresh_of(connection).job = None
            if connection.is_open and connection.closing is None:
                self.catch_up(connection)

    def _next_snapshot(self, connection: Connection, frames: bytes | None, digest: bytes, now: float) -> bytes:
        """Return the frames of a snapshot that the page does not show already."""
        refresh = _refresh_of(connection)
        refresh.owed.clear()
        refresh.rendered_at = now
        if not frames:
            return b""
        is_shown = digest == refresh.digest and not any(
            channel.is_changed_after(refresh.cursor, frames) for channel in connection.channels
        )
        refresh.digest, refresh.cursor = digest, connection.cursor
        return b"" if is_shown else frames

    def _look_at(self, connection: Connection, refresh: Refresh, interval: float) -> None:
        now = self._loop.time()
        if now - refresh.looked_at >= interval:
            refresh.looked_at = now
            self._look(connection)

    # Ends.

    def forget(self, connection: Connection) -> None:
        """Render nothing more for a closed connection."""
        refresh = connection.refresh
        if refresh is None:
            return
        connection.resume()
        if refresh.job is None:
            return
        job: _Job = refresh.job
        refresh.job = None
        job.connections.pop(connection, None)
        job.later.pop(connection, None)
        if not job.connections and not job.is_running and self._jobs.get(job.key) is job:
            del self._jobs[job.key]
            self._queue_of(job).pop(job, None)
            if job.timer is not None:
                job.timer.cancel()

    def stop(self) -> None:
        """Render nothing more: every stream ends."""
        self._is_stopped = True
        if self._yielding is not None:
            self._yielding.cancel()
        for job in self._jobs.values():
            if job.timer is not None:
                job.timer.cancel()
        self._jobs.clear()
        self._events.clear()
        self._snapshots.clear()

    def is_idle(self) -> bool:
        """Tell whether nothing is due and nothing is rendered."""
        return not self._jobs and not self._events and not self._snapshots and not self._tasks


def _names(job: _Job) -> str:
    return listed({channel.name for connection in job.connections for channel in connection.channels})


def _subject_of(connection: Connection, stop: Stop | None) -> Any:
    """Return what a connection's snapshot, or the event at a stop, is rendered for."""
    audience = connection.audience
    if stop is not None:
        value = None if audience is None else audience.value
        return stop.channel, stop.sequence, Audience(value, (value,), None)
    return audience if audience is not None and audience.render is not None else connection


def _call(function: Callable[..., bytes], args: tuple[Any, ...]) -> bytes:
    try:
        # In an empty context: no language, time zone or request of anybody's.
        return Context().run(function, *args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # A future does not take the one, and the loop would end with others.
        raise RuntimeError(f"The render raised {error!r}.") from error


def _digest(frames: bytes) -> bytes:
    return blake2b(frames, digest_size=16).digest()


def _refresh_of(connection: Connection) -> Refresh:
    if connection.refresh is None:
        connection.refresh = Refresh()
    return connection.refresh
