"""The test databases, for the threads of a server that runs in the same process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

# Seconds. A connection that writes while it reads a long result locks what it reads until the result is at its end.
RETRY_AFTER = 0.001


@contextmanager
def shared_databases() -> Iterator[None]:
    """Let other threads use the databases of this one; close, in the end, each connection that they have opened.

    The connections to an SQLite database in memory share one cache, in which a statement fails where it would wait for
    a file: "database table is locked". Here they take turns.
    """
    create = connections.create_connection
    turns = {each.alias: _Turns(each) for each in connections.all() if is_in_memory(each)}
    others: WeakSet[BaseDatabaseWrapper] = WeakSet()

    def create_connection(alias: str) -> Any:
        connection: Any = create(alias)
        connection.inc_thread_sharing()  # This thread is to close it.
        # Nothing closes one that outlives its request, whose thread ends with it.
        connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": 0}
        if alias in turns:
            turns[alias].join(connection)
            # Django keeps it open, so as not to lose the database, which the connection of this thread holds.
            connection.close = partial(BaseDatabaseWrapper.close, connection)
        others.add(connection)
        return connection

    connections.create_connection = create_connection  # type: ignore[method-assign]
    try:
        yield
    finally:
        del connections.create_connection
        for connection in list(others):
            connection.close()
        for each in turns.values():
            each.end()


def is_in_memory(connection: Any) -> bool:
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())


def _read_uncommitted(connection: Any, is_on: bool) -> None:
    """Let reading lock no table, as it does for a file. What is not committed is not read: it has the turn."""
    connection.connection.execute(f"PRAGMA read_uncommitted = {is_on:d}")


class _Turns:
    """Has the connections to one database take turns: a transaction at a time, or a statement outside of one."""

    def __init__(self, connection: Any) -> None:
        self._first = connection
        self._timeout = connection.settings_dict["OPTIONS"].get("timeout", 5.0)  # seconds, as sqlite3's default
        self._lock = threading.Lock()
        self._owner: Any = None
        self.join(connection)
        connection.ensure_connection()
        _read_uncommitted(connection, True)

    def join(self, connection: Any) -> None:
        begin, set_autocommit = connection._start_transaction_under_autocommit, connection._set_autocommit
        connect = connection.init_connection_state

        def begin_in_turn() -> None:
            self._take(connection)
            try:
                begin()
            except BaseException:
                self._leave()
                raise

        def set_autocommit_and_leave(autocommit: bool) -> None:
            try:
                set_autocommit(autocommit)
            finally:
                if autocommit and self._owner is connection:
                    self._leave()

        def connect_and_read() -> None:
            connect()
            _read_uncommitted(connection, True)

        connection.init_connection_state = connect_and_read
        connection._start_transaction_under_autocommit = begin_in_turn
        connection._set_autocommit = set_autocommit_and_leave
        connection.execute_wrappers.append(self._execute)

    def end(self) -> None:
        self._first.execute_wrappers.remove(self._execute)
        for name in ("init_connection_state", "_start_transaction_under_autocommit", "_set_autocommit"):
            delattr(self._first, name)
        _read_uncommitted(self._first, False)

    def _execute(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Execute a statement in turn, and again while another connection's result locks its table."""
        connection = context["connection"]
        until = time.monotonic() + self._timeout
        while True:
            is_own = self._owner is connection
            if not is_own:
                self._take(connection)
            try:
                return execute(sql, params, many, context)
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            finally:
                if not is_own:
                    self._leave()
            time.sleep(RETRY_AFTER)

    def _take(self, connection: Any) -> None:
        if not self._lock.acquire(timeout=self._timeout):
            raise OperationalError("database is locked")
        self._owner = connection

    def _leave(self) -> None:
        self._owner = None
        self._lock.release()
