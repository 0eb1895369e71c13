"""Asking the server: threads ask on Django's connections, hubs on a session of their own."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import psycopg
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from ...exceptions import BrokerUnavailable
from ..base import Receiver
from .watchdog import Watchdog

T = TypeVar("T")

# Seconds that the server has to accept a connection, and to answer.
CONNECT_TIMEOUT = 2
TIMEOUT = 1.8

watchdog = Watchdog(TIMEOUT)

# Connection parameters for Django alone, not for psycopg.
_DJANGO_ONLY = ("cursor_factory", "context", "prepare_threshold")


async def connect(alias: str) -> psycopg.AsyncConnection[Any]:
    """Return a new autocommit connection to a database of DATABASES."""
    parameters = {"connect_timeout": CONNECT_TIMEOUT, **connections[alias].get_connection_params()}
    for name in _DJANGO_ONLY:
        parameters.pop(name, None)
    # Through a pooler, the next statement may run on another server connection, which has not prepared it.
    connection = await psycopg.AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
    if role := connections.settings[alias].get("OPTIONS", {}).get("assume_role"):
        try:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        except BaseException:
            await connection.close()
            raise
    return connection


@contextlib.contextmanager
def asking(alias: str) -> Iterator[BaseDatabaseWrapper]:
    """Yield Django's connection; raise BrokerUnavailable where the server could not be asked."""
    connection = connections[alias]
    try:
        yield connection
    except (OperationalError, InterfaceError) as error:
        if connection.connection is not None and connection.connection.closed and not connection.in_atomic_block:
            # Django does this between requests; a shell or a long job has none.
            connection.close()
        raise BrokerUnavailable(f"PostgreSQL could not be asked: {error}") from error


@contextlib.contextmanager
def bounded(connection: Any) -> Iterator[None]:
    """End a connection whose server is silent for too long; psycopg itself waits while the socket is open."""
    number = connection.fileno()
    waiting = watchdog.watch(lambda: _end(number))
    try:
        yield
    finally:
        watchdog.release(waiting)


@contextlib.contextmanager
def ended_at(connection: psycopg.AsyncConnection[Any], when: float) -> Iterator[None]:
    """End a connection at this time of the loop, unless the block ends before.

    Cancelling the task is not enough: psycopg then asks the server to cancel, and may wait for good.
    """
    waiting = asyncio.get_running_loop().call_at(when, _end, connection.fileno())
    try:
        yield
    finally:
        waiting.cancel()


def execute(connection: BaseDatabaseWrapper, statement: str, parameters: Any) -> list[Any]:
    """Execute a statement in autocommit mode on Django's connection, and return its rows."""
    with bounded(connection.connection):
        if connection.queries_logged or connection.execute_wrappers:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
        # With parameters beside the statement, in place of Django's cursors, which write them into it.
        with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
            return cursor.execute(statement, parameters).fetchall()


def ask(alias: str, statement: str, parameters: Any) -> list[Any]:
    """Execute a statement on Django's connection, and return its rows. Raises BrokerUnavailable."""
    with asking(alias) as connection, connection.cursor() as cursor:
        # The time of a transaction is its owner's, who may have waited for longer before.
        limit = bounded(connection.connection) if connection.get_autocommit() else contextlib.nullcontext()
        with limit:
            cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description is not None else []


def _end(number: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as ending:
        ending.shutdown(socket.SHUT_RDWR)


class Session:
    """One connection for all that a hub asks, on the hub's loop: opened when needed, and again when lost.

    `patience` is the longest time for an answer, in seconds.
    """

    def __init__(self, alias: str, patience: float = TIMEOUT) -> None:
        self.loop = asyncio.get_running_loop()
        self._alias = alias
        self._patience = patience
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Yield a connection in a transaction, which ends with the block. Raises BrokerUnavailable."""
        async with self._in_turn() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, parameters: Any = None) -> list[Any]:
        """Execute a statement that may run twice, and return its rows. Raises BrokerUnavailable."""
        return await self.ask(lambda: self._fetch(statement, parameters))

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Await a question's answer, asking twice where the open connection is lost. See fetch()."""
        is_fresh = self._connection is None
        try:
            return await question()
        except BrokerUnavailable:
            if is_fresh:
                raise
            # The server may have restarted since the last time; a new connection tells.
            return await question()

    async def _fetch(self, statement: str, parameters: Any) -> list[Any]:
        async with self._in_turn() as connection:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        end = asyncio.get_running_loop().time() + self._patience
        try:
            async with asyncio.timeout_at(end) as patience, self._turn:
                if self._connection is None:
                    self._connection = await connect(self._alias)
                patience.reschedule(None)
                try:
                    with ended_at(self._connection, end):
                        yield self._connection
                except BaseException:
                    # Half of an answer may still be on its way.
                    await self._disconnect()
                    raise
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError) as error:
            raise BrokerUnavailable(f"PostgreSQL could not be asked: {str(error) or 'it does not answer.'}") from error

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        async with self._turn:
            await self._disconnect()


class Sessions:
    """The sessions of this process's hubs."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._sessions: dict[Receiver, Session] = {}

    def create(self, receiver: Receiver) -> Session:
        """Return a new session for a hub; called on the hub's loop. Its listener closes it."""
        session = self._sessions[receiver] = Session(self._alias)
        return session

    def discard(self, receiver: Receiver) -> None:
        """Drop a hub's session."""
        self._sessions.pop(receiver, None)

    @contextlib.asynccontextmanager
    async def current(self) -> AsyncIterator[Session]:
        """Yield the session of the hub on the running loop; without a hub, a session for the block."""
        loop = asyncio.get_running_loop()
        found = next((each for each in self._sessions.values() if each.loop is loop), None)
        if found is not None:
            yield found
            return
        session = Session(self._alias)
        try:
            yield session
        finally:
            await session.close()

    def fetch_from_thread(self, receiver: Receiver, statement: str, parameters: Any) -> list[Any]:
        """Fetch on a hub's session from another thread than the hub's. See Session.fetch()."""
        session = self._sessions.get(receiver)
        if session is None or session.loop.is_closed():
            raise BrokerUnavailable("The process is about to stop.")
        coroutine = session.fetch(statement, parameters)
        try:
            # A loop that ends meanwhile never answers.
            return asyncio.run_coroutine_threadsafe(coroutine, session.loop).result(3 * TIMEOUT)
        except TimeoutError as error:
            raise BrokerUnavailable("The hub's loop did not answer in time.") from error
