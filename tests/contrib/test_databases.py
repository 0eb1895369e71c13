"""Databases that the threads of a server in this process share."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.db import OperationalError, connections, transaction

from ds_broadcaster.contrib.runserver.databases import shared_databases

THREADS, ROUNDS = 6, 20


@pytest.fixture
def memory(monkeypatch, django_db_blocker):
    """The connection of this thread to a database in memory, as Django makes one for tests."""
    url = "file:turns?mode=memory&cache=shared"
    options = {**connections.settings["default"], "NAME": url, "OPTIONS": {}}
    monkeypatch.setitem(connections.settings, "memory", options)
    with django_db_blocker.unblock():
        connection = connections["memory"]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE counter (number integer)")
            cursor.execute("INSERT INTO counter VALUES (0)")
            cursor.executemany("INSERT INTO counter VALUES (%s)", [(1_000_000,)] * 300)
        yield connection
        connection.connection.close()
        del connections["memory"]


def rows(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def count_up():
    """Add one, several times, in a transaction that also has an error and a result that is read halfway."""
    connection = connections["memory"]
    for _ in range(ROUNDS):
        with connection.cursor() as half_read:
            half_read.execute("SELECT number FROM counter")
            half_read.fetchone()
            with transaction.atomic("memory"):
                ((number,),) = rows(connection, "SELECT number FROM counter WHERE number < 1000000")
                with suppress(ZeroDivisionError), transaction.atomic("memory"):
                    rows(connection, "UPDATE counter SET number = -1 WHERE number < 1000000")
                    _ = 1 / 0
                rows(connection, f"UPDATE counter SET number = {number + 1} WHERE number < 1000000")
        with suppress(ZeroDivisionError), transaction.atomic("memory"):
            rows(connection, "UPDATE counter SET number = -1 WHERE number < 1000000")
            _ = 1 / 0
    connection.close()  # As after each request.
    assert connection.connection is None


def test_database_in_memory_serves_threads_that_write_at_once(memory):
    with shared_databases(), ThreadPoolExecutor(THREADS) as pool:
        for each in [pool.submit(count_up) for _ in range(THREADS)]:
            each.result(30)
    assert rows(memory, "SELECT min(number) FROM counter") == [(THREADS * ROUNDS,)]


def test_transaction_of_this_thread_makes_others_wait_and_give_up_in_the_end(memory):
    memory.settings_dict["OPTIONS"]["timeout"] = 0.1  # seconds

    def read():
        return rows(connections["memory"], "SELECT min(number) FROM counter")

    with shared_databases(), ThreadPoolExecutor(1) as pool:
        with transaction.atomic("memory"):
            rows(memory, "UPDATE counter SET number = 5 WHERE number = 0")
            with pytest.raises(OperationalError, match="database is locked"):
                pool.submit(read).result(10)
        assert pool.submit(read).result(10) == [(5,)]


@pytest.mark.django_db(transaction=True)
def test_connections_of_other_threads_are_closed_in_the_end(memory, monkeypatch):
    opened = []

    def use():
        for alias in ("default", "memory"):
            rows(connections[alias], "SELECT 1")
            opened.append(connections[alias])

    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 600)
    with shared_databases():
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert all(each.connection is not None for each in opened)
        assert opened[0] is not connections["default"]
        assert opened[0].close_at is not None
        assert opened[0].close_at <= time.monotonic()
    assert [each.connection for each in opened] == [None, None]
    assert rows(memory, "SELECT count(*) FROM counter") == [(301,)]
    assert "create_connection" not in vars(connections)
    assert "_set_autocommit" not in vars(memory)
