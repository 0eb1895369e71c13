"""Kept connections to one server: what redis-py's client does around each command costs more than the command."""

import asyncio
import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis

from ...exceptions import BrokerUnavailable

try:
    import hiredis
except ImportError:  # It is an extra of redis-py.
    hiredis = None  # type: ignore[assignment]

_pack: Callable[[tuple[Any, ...]], bytes] | None = getattr(hiredis, "pack_command", None)

# Bytes. The kernel takes so many of a connection that waits for no answer without having the event loop wait.
AT_ONCE = 32 << 10


class Kept:
    """A connection, and whether the server has ended it while it was not used."""

    __slots__ = ("connection", "is_stale")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_stale: Callable[[int], object] = self._can_read
        if hasattr(select, "poll"):
            # What arrives without a question is the end, or would be taken for an answer.
            poll = select.poll()
            poll.register(connection._sock, select.POLLIN)
            self.is_stale = poll.poll

    def _can_read(self, timeout: int) -> bool:
        try:
            return bool(self.connection.can_read(timeout))
        except redis.ConnectionError:
            return True


class Lent:
    """A connection in the hands of an event loop, one command at a time, until it is idle for some time.

    That is the time that the server has to answer, or else `timeout` seconds. `end` is called when it is over, with the
    error that makes the connection useless. Nothing here blocks: commands are short, and so are answers, which arrive
    as a whole.
    """

    def __init__(
        self,
        kept: Kept,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        end: Callable[["Lent", BaseException | None], None],
    ) -> None:
        self.kept = kept
        self._loop = loop
        self._timeout: float = kept.connection.socket_timeout or timeout
        self._end = end
        self._number = kept.connection._sock.fileno()
        self._answer: asyncio.Future[Any] | None = None
        self._until = loop.time() + self._timeout
        loop.add_reader(self._number, self._on_readable)
        self._timer = loop.call_at(self._until, self._look)

    @property
    def is_busy(self) -> bool:
        """Tell whether an answer is on its way."""
        return self._answer is not None

    def give_back(self) -> None:
        """End the use of the connection, unless an answer is on its way; called on the loop."""
        if self._answer is None:
            self._stop(None)

    async def execute(self, packed: Sequence[bytes]) -> Any:
        """Send a command, and return the answer. Raises what redis-py does."""
        answer = self._answer = self._loop.create_future()
        self._until = self._loop.time() + self._timeout
        try:
            self.kept.connection.send_packed_command(packed, check_health=False)
            return await answer
        except BaseException as error:
            if self._answer is answer:
                self._stop(error)
            raise

    def _on_readable(self) -> None:
        if self._answer is None:  # What arrives without a question is the end.
            self._stop(redis.ConnectionError("The server has ended the connection."))
            return
        try:
            found = self.kept.connection.read_response()
        except Exception as error:
            self._tell(error)
        else:
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result(found)

    def _tell(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if not _leaves_intact(error):
            self._stop(error)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._until and self._answer is not None and self.kept.is_stale(0):
            self._until = now + self._timeout  # The loop was busy meanwhile: the answer is there, and is read next.
        if now < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        elif self._answer is not None:
            self._tell(redis.exceptions.TimeoutError("The server does not answer."))
        else:
            self.give_back()

    def _stop(self, error: BaseException | None) -> None:
        self._answer = None
        if not self._loop.is_closed():
            self._loop.remove_reader(self._number)
            self._timer.cancel()
        self._end(self, error)


class Connections:
    """At most so many connections, which any thread may use; `make` returns an unopened one.

    A thread waits `timeout` seconds at most while all are in use. A command is never sent twice. After a fork, the
    child opens its own.
    """

    def __init__(self, make: Callable[[], Any], most: int, timeout: float) -> None:
        self._make = make
        self._most = most
        self._timeout = timeout
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        # Those not in use, the last used at the end, and the number of all.
        self._free: deque[Kept] = deque()
        self._count = 0
        self._waiting = 0
        # Those in the hands of event loops.
        self._lent: dict[asyncio.AbstractEventLoop, Lent] = {}
        self._changed = threading.Condition()
        self._is_closed = False

    def execute_command(self, *command: Any) -> Any:
        """Send a command, and return the answer. Raises what redis-py does, and BrokerUnavailable if all are in use."""
        kept = self._take()
        try:
            kept.connection.send_packed_command(_packed(kept.connection, command), check_health=False)
            answer = kept.connection.read_response()
        except BaseException as error:
            self._fail(kept, error)
            raise
        self._give(kept)
        return answer

    async def aexecute_command(self, *command: Any) -> Any:
        """See execute_command(). What is long, or comes while the loop's connection is in use, is sent by a thread."""
        lent = self._lent_to(asyncio.get_running_loop())
        if lent is not None:
            packed = _packed(lent.kept.connection, command)
            if sum(map(len, packed)) <= AT_ONCE:
                return await lent.execute(packed)
        return await asyncio.to_thread(self.execute_command, *command)

    def _lent_to(self, loop: asyncio.AbstractEventLoop) -> Lent | None:
        """Return a connection that this loop may use now, if there is one."""
        lent = self._lent.get(loop)
        if lent is not None and self._process == os.getpid():
            return None if lent.is_busy else lent
        kept = self._take_free()
        if kept is None:
            return None
        try:
            self._lent[loop] = lent = Lent(kept, loop, self._timeout, partial(self._take_back, loop))
        except NotImplementedError:  # The loop of Windows waits for no sockets but its own.
            self._give(kept)
        return lent

    def _take_back(self, loop: asyncio.AbstractEventLoop, lent: Lent, error: BaseException | None) -> None:
        if self._lent.get(loop) is not lent:  # Its loop was closed: see _reclaim().
            return
        del self._lent[loop]
        if error is None:
            self._give(lent.kept)
        else:
            self._drop(lent.kept)

    def _take(self) -> Kept:
        while True:
            kept = self._take_free()
            if kept is not None:
                return kept
            if self._may_open():
                return self._open()

    def _take_free(self) -> Kept | None:
        if self._process != os.getpid():
            self._begin()
        while True:
            try:
                kept = self._free.pop()
            except IndexError:
                if not self._lent or not self._reclaim():
                    return None
                continue
            if not kept.is_stale(0):
                return kept
            self._drop(kept)

    def _reclaim(self) -> bool:
        """Take back what loops had when they were closed; tell whether any is free now."""
        for loop, lent in list(self._lent.items()):
            if loop.is_closed() and self._lent.pop(loop, None) is not None:
                if lent.is_busy:
                    self._drop(lent.kept)
                else:
                    self._give(lent.kept)
        return bool(self._free)

    def _may_open(self) -> bool:
        """Wait until one is free, or may be opened: tell which."""
        with self._changed:
            self._waiting += 1
            try:
                if not self._changed.wait_for(lambda: self._free or self._count < self._most, self._timeout):
                    raise BrokerUnavailable(f"Redis could not be asked: all {self._most} connections are in use.")
            finally:
                self._waiting -= 1
            if self._free:
                return False
            self._count += 1
            return True

    def _open(self) -> Kept:
        try:
            connection = self._make()
            connection.connect()
            return Kept(connection)
        except BaseException:
            self._leave()
            raise

    def _give(self, kept: Kept) -> None:
        self._free.append(kept)
        if self._is_closed:
            self.close()
        elif self._waiting:
            with self._changed:
                self._changed.notify()

    def _fail(self, kept: Kept, error: BaseException) -> None:
        if _leaves_intact(error):
            self._give(kept)
        else:
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        kept.connection.disconnect()
        self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def close(self) -> None:
        """Close those that are not in use, and the others after their use."""
        self._is_closed = True
        self._reclaim()
        for loop, lent in list(self._lent.items()):
            with contextlib.suppress(RuntimeError):  # It was closed just now.
                loop.call_soon_threadsafe(lent.give_back)
        while self._free:
            self._drop(self._free.pop())


def _packed(connection: Any, command: tuple[Any, ...]) -> Sequence[bytes]:
    packed: Sequence[bytes] = [_pack(command)] if _pack is not None else connection.pack_command(*command)
    return packed


def _leaves_intact(error: BaseException) -> bool:
    # The name of a server that is read-only may lead to another by now. After other errors, half of an answer may still
    # be on its way.
    return isinstance(error, redis.ResponseError) and not isinstance(error, redis.exceptions.ReadOnlyError)
