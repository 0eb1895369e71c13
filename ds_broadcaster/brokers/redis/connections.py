"""Kept connections to one server: what redis-py's client does around each command costs more than the command."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import redis

from ...exceptions import BrokerUnavailable

try:
    import hiredis
except ImportError:  # It is an extra of redis-py.
    hiredis = None  # type: ignore[assignment]

_pack: Callable[[tuple[Any, ...]], bytes] | None = getattr(hiredis, "pack_command", None)


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
        self._changed = threading.Condition()
        self._is_closed = False

    def execute_command(self, *command: Any) -> Any:
        """Send a command, and return the answer. Raises what redis-py does, and BrokerUnavailable if all are in use."""
        kept = self._take()
        try:
            connection = kept.connection
            packed = [_pack(command)] if _pack is not None else connection.pack_command(*command)
            connection.send_packed_command(packed, check_health=False)
            answer = connection.read_response()
        except redis.exceptions.ReadOnlyError:  # Its name may lead to another server by now.
            self._drop(kept)
            raise
        except redis.ResponseError:
            self._give(kept)
            raise
        except BaseException:  # Half of an answer may still be on its way.
            self._drop(kept)
            raise
        self._give(kept)
        return answer

    def _take(self) -> Kept:
        if self._process != os.getpid():
            self._begin()
        while True:
            try:
                kept = self._free.pop()
            except IndexError:
                if self._may_open():
                    return self._open()
            else:
                if not kept.is_stale(0):
                    return kept
                self._drop(kept)

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
        while self._free:
            self._drop(self._free.pop())
