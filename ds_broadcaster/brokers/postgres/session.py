"""Asking the server: on Django's connections, which belong to threads, and on those of a hub, which has none."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import psycopg
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from ...exceptions import BrokerUnavailable

T = TypeVar("T")

# Seconds in which the server must let somebody in, and answer.
CONNECT_TIMEOUT = 2
TIMEOUT = 1.8

# What Django adds for itself to what psycopg is told.
_DJANGO_ONLY = ("cursor_factory", "context", "prepare_threshold")


async def connect(alias: str) -> psycopg.AsyncConnection[Any]:
    """Return a new connection to a database of DATABASES, which commits every statement."""
    parameters = {"connect_timeout": CONNECT_TIMEOUT, **connections[alias].get_connection_params()}
    for name in _DJANGO_ONLY:
        parameters.pop(name, None)
    # Behind a pooler the next statement may find itself on another server connection, without what was prepared.
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
    """Give Django's connection; raise BrokerUnavailable for what keeps the server from doing what it was asked to."""
    connection = connections[alias]
    try:
        yield connection
    except (OperationalError, InterfaceError) as error:
        if connection.connection is not None and connection.connection.closed and not connection.in_atomic_block:
            # Django does this between requests. A job that runs for days, or a shell, has none.
            connection.close()
        raise BrokerUnavailable(f"PostgreSQL could not be asked: {error}") from error


@contextlib.contextmanager
def bounded(connection: Any) -> Iterator[None]:
    """End a connection whose server is silent for too long; psycopg would wait for as long as the socket is open."""
    waiting = threading.Timer(TIMEOUT, _end, [connection.fileno()])
    waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


@contextlib.contextmanager
def ended_at(connection: psycopg.AsyncConnection[Any], when: float) -> Iterator[None]:
    """End a connection at this time of the loop, if the block has not ended by then.

    To cancel what waits does not do it: psycopg then asks the server to cancel, and waits for seconds, or for good.
    """
    waiting = asyncio.get_running_loop().call_at(when, _end, connection.fileno())
    try:
        yield
    finally:
        waiting.cancel()


def _end(number: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as ending:
        ending.shutdown(socket.SHUT_RDWR)


class Session:
    """One connection for all that a hub asks, opened when it is needed, and again when it was lost.

    What takes longer than `patience`, in seconds, is given up.
    """

    def __init__(self, alias: str, patience: float = TIMEOUT) -> None:
        self._alias = alias
        self._patience = patience
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Give a connection with a transaction, which ends with the block. Raises BrokerUnavailable."""
        async with self._in_turn() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, parameters: Any = None) -> list[Any]:
        """Execute a statement that may be executed twice, and return its rows. Raises BrokerUnavailable."""
        return await self.asked(lambda: self._fetch(statement, parameters))

    async def asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what asking gives, asked again on a new connection where the open one was lost. See fetch()."""
        is_fresh = self._connection is None
        try:
            return await ask()
        except BrokerUnavailable:
            if is_fresh:
                raise
            # The server was restarted, say, since the last time. What it is now a new connection tells.
            return await ask()

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
                    # Whatever it was: half of an answer may still be on its way.
                    await self._let_go()
                    raise
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError) as error:
            raise BrokerUnavailable(f"PostgreSQL could not be asked: {str(error) or 'it does not answer.'}") from error

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        async with self._turn:
            await self._let_go()
