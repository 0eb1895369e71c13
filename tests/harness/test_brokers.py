"""The servers that brokers use, as tests start, break and replace them."""

import contextlib
from pathlib import Path

import psycopg
import pytest
import redis
from django.contrib.auth import get_user_model
from django.db import connections

from tests.harness.postgres import PgBouncer, PostgresServer, any_postgres
from tests.harness.programs import Program
from tests.harness.redis import GivenRedis, RedisCluster, RedisSentinel, RedisServer, any_redis
from tests.harness.server import Server, descendants

# Of the servers that other tests start: one Python is enough to see that they come and go.
pytestmark = pytest.mark.slow


def is_gone(*programs):
    return not any(program.alive or program.folder.exists() for program in programs)


def runs(pid):
    """Tell whether this process runs; a zombie does not."""
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


def test_frozen_postgres_keeps_its_connections_and_does_not_answer(postgres):
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


def test_pooler_gives_a_connection_for_one_transaction(postgres, django_db_blocker):
    database = postgres.database()
    with PgBouncer(postgres, default_pool_size=1) as pooler, contextlib.ExitStack() as stack:
        pooled = database.at(pooler)
        clients = [stack.enter_context(pooled.connect()) for _ in range(5)]
        pids = [client.execute("select pg_backend_pid() as pid").fetchone()["pid"] for client in clients]
        assert {row["pid"] for row in postgres.activity() if row["datname"] == database.name} == set(pids)
        assert len(set(pids)) == 1
        with pooled.used_as("guest"), django_db_blocker.unblock(), connections["guest"].cursor() as cursor:
            cursor.execute("select pg_backend_pid()")
            assert cursor.fetchone() == (pids[0],)
    assert is_gone(pooler)


def test_given_postgres_is_used_instead_and_left_as_it_was(postgres, monkeypatch):
    names = "select datname from pg_database order by 1"
    before = postgres.call(names)
    monkeypatch.setenv("DS_TEST_POSTGRES_URL", postgres.maintenance.url)
    with any_postgres() as given:
        database = given.database()
        database.call("create table item (number int)")
        assert len(postgres.call(names)) == len(before) + 1
    assert postgres.call(names) == before
    monkeypatch.delenv("DS_TEST_POSTGRES_URL")
    with any_postgres() as own:
        assert own.alive


# Redis


@pytest.mark.parametrize(
    "options,scheme",
    [
        ({}, "redis"),
        ({"password": "a word: 1@2/3"}, "redis"),
        ({"tls": True, "password": "secret"}, "rediss"),
        ({"unix_socket": True, "password": "secret"}, "unix"),
    ],
)
def test_redis_is_reached_in_the_way_it_is_told_and_leaves_nothing_behind(options, scheme):
    with RedisServer(**options) as server:
        assert server.url.partition(":")[0] == scheme
        assert server.call("ping") is True
        pid = server._process.pid
        if "password" in options:
            stranger = GivenRedis(server.url.replace(server.url.partition("//")[2].partition("@")[0] + "@", ""))
            with pytest.raises(redis.AuthenticationError):
                stranger.call("ping")
    assert is_gone(server)
    assert not runs(pid)


def test_redis_keeps_what_it_is_told_to_keep():
    with RedisServer(persistent=True) as server:
        for number, end in enumerate([server.stop, server.kill, lambda: server.stop(server.shutdown)]):
            server.call("rpush", "list", number)
            end()
            server.start()
        assert server.call("lrange", "list", 0, -1) == [b"0", b"1", b"2"]
    with RedisServer() as server:
        server.call("set", "key", 1)
        server.restart()
        assert server.call("get", "key") is None


def test_redis_has_the_memory_it_is_given():
    with RedisServer(maxmemory="3mb", maxmemory_policy="noeviction") as server:

        def fill():
            for number in range(30):
                server.call("set", number, b"x" * 100_000)

        with pytest.raises(redis.OutOfMemoryError):
            fill()
        assert server.call("get", 0)


def test_frozen_redis_does_not_answer():
    with RedisServer() as server:
        server.freeze()
        with pytest.raises(redis.TimeoutError), server.client(socket_timeout=0.1) as client:
            client.ping()
        server.thaw()
        server.call("ping")
        server.freeze()
    assert is_gone(server)


def test_given_redis_is_used_instead_and_stays(monkeypatch):
    with RedisServer() as server:
        monkeypatch.setenv("DS_TEST_REDIS_URL", f"redis://127.0.0.1:{server.port}/3")
        with any_redis() as given:
            assert given.url.endswith("/3")
            given.call("set", "key", 1)
            assert server.call("get", "key") is None
        assert server.alive
        assert server.call("info", "keyspace") == {}
    monkeypatch.delenv("DS_TEST_REDIS_URL")
    with any_redis() as own:
        assert own.alive


def test_sentinels_replace_a_primary_that_is_away():
    with RedisSentinel(password="a word") as group:
        first = group.primary
        assert len(group.addresses) == 3
        first.call("set", "key", 1)
        first.stop()
        second = group.wait_for_failover(first)
        assert second.call("get", "key") == b"1"
        second.call("set", "key", 2)
        group.bring_back(first)
        assert first.call("get", "key") == b"2"
        with pytest.raises(redis.ReadOnlyError):
            first.call("set", "key", 3)
        second.freeze()
        assert group.wait_for_failover(second) is group.primary
        group.bring_back(second)
        assert group.fail_over() is group.primary
    assert is_gone(*group.servers, *group.sentinels)


def test_cluster_moves_its_slots_and_replaces_a_dead_node():
    with RedisCluster(replicas=1, password="a word") as cluster:
        source = cluster.node_of("key")
        target = next(node for node in cluster.masters if node is not source)
        source.call("set", "key", 1)
        cluster.move("key", target)
        assert cluster.node_of("key") is target
        assert target.call("get", "key") == b"1"
        with pytest.raises(redis.exceptions.MovedError):
            source.call("get", "key")
        with redis.RedisCluster.from_url(cluster.urls[0]) as client:
            assert client.get("key") == b"1"
            target.kill()
            cluster.wait_for_failover(target)
            assert cluster.node_of("key") not in cluster.masters
            assert client.get("key") == b"1"
    assert is_gone(*cluster.nodes)
