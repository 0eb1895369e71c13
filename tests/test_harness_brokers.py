"""The servers behind the brokers, as tests start, break and replace them."""

from pathlib import Path

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connections

from tests.harness.postgres import PostgresServer
from tests.harness.programs import Program
from tests.harness.server import Server, descendants


def is_gone(*programs):
    return not any(program.alive or program.folder.exists() for program in programs)


def runs(pid):
    """Tell whether this process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Any program


def test_program_that_cannot_start_says_why_and_leaves_nothing():
    class Broken(Program):
        def command(self):
            return ["sh", "-c", "echo no such luck; exit 7"]

        def ping(self):
            raise ConnectionRefusedError

    program = Broken()
    with pytest.raises(AssertionError, match=r"(?s)sh ended with status 7.*no such luck"), program:
        pass
    assert is_gone(program)


# PostgreSQL


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer() as server:
        yield server


def test_postgres_leaves_nothing_behind():
    with PostgresServer() as server:
        database = server.database()
        database.call("create table item (number int)")
        pids = descendants(server._process.pid)
    assert is_gone(server)
    assert len(pids) > 1
    assert not any(map(runs, pids))


def test_postgres_loses_nothing_that_was_committed():
    with PostgresServer() as server:
        database = server.database()
        database.call("create table item (number int)")
        for number, end in enumerate([server.stop, server.kill, lambda: server.stop(server.shutdown)]):
            database.call("insert into item values (%s)", number)
            pids = descendants(server._process.pid)
            end()
            assert not any(map(runs, pids))
            with pytest.raises(psycopg.OperationalError):
                database.call("select 1")
            server.start()
        assert [row["number"] for row in database.call("select number from item order by 1")] == [0, 1, 2]
        server.kill()
    assert is_gone(server)


def test_postgres_knows_and_cuts_its_connections(postgres):
    database = postgres.database()
    with database.connect(application_name="a test") as connection:
        assert [row["application_name"] for row in postgres.activity()] == ["a test"]
        postgres.cut()
        assert postgres.activity() == []
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_frozen_postgres_keeps_its_connections_and_answers_nobody(postgres):
    with postgres.maintenance.connect() as connection:
        postgres.freeze()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            postgres.maintenance.connect(connect_timeout=2)
        postgres.thaw()
        assert connection.execute("select 1 as one").fetchone() == {"one": 1}


def test_databases_are_separate_and_copied(postgres):
    first = postgres.database()
    first.call("create table item (number int)")
    assert postgres.database(like=first).call("select * from item") == []
    with pytest.raises(psycopg.errors.UndefinedTable):
        postgres.database().call("select * from item")
    postgres.drop(first)
    with pytest.raises(psycopg.OperationalError):
        first.connect()


@pytest.fixture(scope="module")
def migrated(postgres):
    return postgres.database().migrate()


@pytest.mark.django_db(transaction=True)
def test_site_and_test_share_a_postgres_database(postgres, migrated):
    default = connections["default"]
    database = postgres.database(like=migrated)
    with Server(settings=database.settings) as server, database.used_as("default"):
        ann = server.login("ann")
        assert connections["default"].vendor == "postgresql"
        assert get_user_model().objects.get().pk == ann.user_id
    assert connections["default"] is default
    assert not get_user_model().objects.exists()


def test_further_database_is_a_guest_of_this_process(migrated, django_db_blocker):
    with migrated.used_as("guest"), django_db_blocker.unblock():
        assert get_user_model().objects.using("guest").count() == 0
    assert "guest" not in connections.settings


def test_synchronous_replica_has_what_was_acknowledged():
    with PostgresServer() as primary:
        database = primary.database()
        database.call("create table item (number int)")
        with primary.replica(synchronous=True) as replica:
            either = database.at(primary, replica)
            either.call("insert into item values (1)")
            primary.kill()
            replica.promote()
            assert database.at(replica).call("select number from item") == [{"number": 1}]
            either.call("insert into item values (2)")
            replica.take_over()
            assert database.call("select number from item order by 1") == [{"number": 1}, {"number": 2}]
    assert is_gone(primary, replica)
