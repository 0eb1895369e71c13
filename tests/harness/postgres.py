"""A PostgreSQL server of one's own, its replica, and the pooler in front of it."""

import atexit
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import sql
from psycopg.rows import dict_row

from tests.harness.programs import Program, running_as, wait_until
from tests.harness.requirements import require_pgbouncer, require_postgres
from tests.harness.server import ROOT

USER, PASSWORD = "postgres", "a password"

# What the connections of this module call themselves.
HARNESS = "tests.harness"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """One database, and the addresses (hosts and ports) of the servers that may have it."""

    name: str
    addresses: tuple[tuple[str, int], ...]
    user: str = USER
    password: str = PASSWORD

    @property
    def django(self) -> dict[str, Any]:
        """An entry of the setting DATABASES."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": self.name,
            "USER": self.user,
            "PASSWORD": self.password,
            "HOST": ",".join(host for host, _ in self.addresses),
            "PORT": ",".join(str(port) for _, port in self.addresses),
            # Of several servers, the one that takes writes.
            "OPTIONS": {"target_session_attrs": "read-write"} if len(self.addresses) > 1 else {},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a project whose only database this is."""
        return {"DATABASES": {DEFAULT_DB_ALIAS: self.django}}

    @property
    def url(self) -> str:
        addresses = ",".join(f"{host}:{port}" for host, port in self.addresses)
        options = urlencode(self.django["OPTIONS"])
        return f"postgresql://{quote(self.user)}:{quote(self.password)}@{addresses}/{quote(self.name)}?{options}"

    def at(self, *programs: Program) -> "Database":
        """Return this database as it is reached through a pooler, or through whichever server takes writes."""
        return replace(self, addresses=tuple(("127.0.0.1", program.port) for program in programs))

    def connect(self, **options: Any) -> psycopg.Connection[dict[str, Any]]:
        """Return a new connection that commits each statement and returns rows as dictionaries."""
        return psycopg.connect(
            self.url, **{"autocommit": True, "row_factory": dict_row, "connect_timeout": 10} | options
        )

    def call(self, statement: str | sql.Composed, *values: Any) -> list[dict[str, Any]]:
        """Execute one statement and return its rows."""
        with self.connect(application_name=HARNESS) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def migrate(self, **settings: Any) -> "Database":
        """Create the tables of the test project with these settings, as a deployment would."""
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_SETTINGS": json.dumps(self.settings | settings),
        }
        # The test apps have no migrations.
        command = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity=0"]
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return self

    @contextlib.contextmanager
    def used_as(self, alias: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
        """Let the ORM of this process use it by this alias.

        Only the connection of this thread is closed at the end; other threads close their own.
        """
        former = connections.settings.get(alias)
        former_connection = getattr(connections._connections, alias, None)
        # What is not given gets Django's defaults.
        configured = connections.configure_settings({DEFAULT_DB_ALIAS: self.django})
        connections.settings[alias] = configured[DEFAULT_DB_ALIAS]
        connections[alias] = connections.create_connection(alias)
        try:
            yield
        finally:
            connections[alias].close()
            del connections[alias]
            if former is None:
                del connections.settings[alias]
            else:
                connections.settings[alias] = former
            if former_connection is not None:
                connections[alias] = former_connection


class GivenPostgres:
    """A PostgreSQL server that the tests did not start. The databases that a test creates are dropped at the end."""

    def __init__(self, url: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        address = (str(parts.get("host", "127.0.0.1")), int(parts.get("port", 5432)))
        login = str(parts.get("user", USER)), str(parts.get("password", ""))
        self._maintenance = Database(str(parts.get("dbname", "postgres")), (address,), *login)
        self._created: list[Database] = []

    @property
    def maintenance(self) -> Database:
        """The database from which others are created."""
        return self._maintenance

    def call(self, statement: str | sql.Composed, *values: Any) -> list[dict[str, Any]]:
        """Execute one statement in the maintenance database."""
        return self.maintenance.call(statement, *values)

    def database(self, name: str | None = None, *, like: Database | None = None) -> Database:
        """Create a database: an empty one, or one like another without connections."""
        name = name or f"test_{os.getpid()}_{next(_numbers)}"
        names = sql.Identifier(name), sql.Identifier(like.name if like else "template1")
        self.call(sql.SQL("create database {} template {}").format(*names))
        database = replace(self.maintenance, name=name)
        self._created.append(database)
        return database

    def drop(self, database: Database) -> None:
        """Drop a database, with all its connections."""
        self.call(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database.name)))
        self._created.remove(database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for database in [*self._created]:
            self.drop(database)


class PostgresServer(Program, GivenPostgres):
    """A PostgreSQL server on a free port, which waits for no disk unless `fsync="on"` says so.

        with PostgresServer() as server:
            database = server.database().migrate()
            with Server(settings=database.settings) as site:
                server.stop()

    `settings` are parameters of the server, such as `max_connections=20`. stop() is a crash (a shutdown in immediate
    mode), restart() a fast shutdown: every connection is told and ended.
    """

    user = "postgres"
    refusals = (psycopg.OperationalError,)
    crash = signal.SIGQUIT
    shutdown = signal.SIGINT

    def __init__(self, **settings: Any) -> None:
        self._programs = require_postgres()
        super().__init__()
        self._created = []
        # Segments of shared memory in the folder are gone with it, even after SIGKILL.
        quiet = {"unix_socket_directories": "", "dynamic_shared_memory_type": "mmap"}
        # What a killed process has written is safe with the system; only a benchmark of commits needs a real disk.
        self.parameters = quiet | {"fsync": "off"} | settings

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def command(self) -> list[str]:
        address = {"listen_addresses": "127.0.0.1", "port": self.port}
        parameters = [f"--{name}={value}" for name, value in (self.parameters | address).items()]
        return [str(self._programs / "postgres"), "-D", str(self.data), *parameters]

    def ping(self) -> None:
        self.call("select 1")

    def start(self, timeout: float = 20) -> "PostgresServer":
        if not self.data.exists():
            self._fill()
        return super().start(timeout)

    def _fill(self) -> None:
        # -a keeps the owner, who is the one that this server runs as.
        subprocess.run(["cp", "-a", _template(self._programs), self.data], check=True)

    def close(self) -> None:
        # After SIGKILL a word of shared memory is left over, which nothing but the next start would take away.
        lines = (self.data / "postmaster.pid").read_text().splitlines() if self._killed else []
        super().close()
        if len(lines) > 6:
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=False, capture_output=True)

    @property
    def _killed(self) -> bool:
        return not self.alive and (self.data / "postmaster.pid").exists()

    @property
    def maintenance(self) -> Database:
        return Database("postgres", (("127.0.0.1", self.port),))

    # Connections

    def activity(self) -> list[dict[str, Any]]:
        """Return the rows of pg_stat_activity that are connections of clients, the harness's own left out."""
        # By name: the connection of the call before this one may still be ending.
        query = "select * from pg_stat_activity where backend_type = 'client backend' and application_name <> %s"
        return self.call(f"{query} order by backend_start", HARNESS)

    def cut(self) -> None:
        """Cut every connection that a client has to it."""
        self.call(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )

    # Failover

    def replica(self, *, synchronous: bool = False) -> "PostgresReplica":
        """Return a replica that is still to be started; while a synchronous one is away, commits wait for it."""
        return PostgresReplica(self, synchronous)


def any_postgres() -> GivenPostgres | PostgresServer:
    """Return the server that DS_TEST_POSTGRES_URL names, or one of our own: for a test that breaks nothing."""
    url = os.environ.get("DS_TEST_POSTGRES_URL")
    return GivenPostgres(url) if url else PostgresServer()


class PostgresReplica(PostgresServer):
    """A streaming replica, which has caught up with its primary when it is started."""

    def __init__(self, primary: PostgresServer, synchronous: bool) -> None:
        super().__init__(**primary.parameters)
        self.primary, self.synchronous = primary, synchronous

    def _fill(self) -> None:
        address = f"host=127.0.0.1 port={self.primary.port} user={USER} password='{PASSWORD}'"
        subprocess.run(
            [self._programs / "pg_basebackup", "-D", self.data, "-d", address, "-R", "-c", "fast", "--no-sync"],
            check=True,
            cwd=self.folder,
            **running_as(self.user),
        )

    def start(self, timeout: float = 20) -> "PostgresReplica":
        super().start(timeout)
        if self.primary.alive and self.call("select pg_is_in_recovery() as replica")[0]["replica"]:
            wait_until(lambda: self._is("state", "streaming"), "the replica to catch up", timeout)
            if self.synchronous:
                self._be_waited_for()
        return self

    def _is(self, column: str, value: str) -> bool:
        return any(row[column] == value for row in self.primary.call("select * from pg_stat_replication"))

    def _be_waited_for(self) -> None:
        self.primary.call("alter system set synchronous_standby_names = '*'")
        self.primary.call("select pg_reload_conf()")
        wait_until(lambda: self._is("sync_state", "sync"), "the replica to be synchronous")
        # Commits wait once the checkpointer has read the new setting, which it does before it answers.
        self.primary.call("checkpoint")

    def promote(self) -> None:
        """Make it a primary; it takes writes when this returns."""
        self.call("select pg_promote() where pg_is_in_recovery()")

    def take_over(self) -> None:
        """Make it a primary and give it the port of its dead one, as an address that moves along would."""
        assert not self.primary.alive, "Two servers cannot have one port."
        self.promote()
        self.stop(self.shutdown)
        self.port = self.primary.port
        self.start()


@functools.cache
def _template(programs: Path) -> Path:
    """Return the files of a new server, made once in each process that starts any."""
    folder = tempfile.TemporaryDirectory(prefix="ds-broadcaster-")
    atexit.register(folder.cleanup)
    if identity := running_as(PostgresServer.user):
        shutil.chown(folder.name, PostgresServer.user, PostgresServer.user)
    data, secret = Path(folder.name) / "data", Path(folder.name) / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    command = [programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret]
    options = ["--locale=C", "--encoding=UTF8", "--no-sync"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=folder.name, **identity)
    return data


class PgBouncer(Program):
    """A pooler in front of a server, which gives out a connection for one transaction at a time.

        with PgBouncer(server) as pooler:
            pooled = database.at(pooler)

    `settings` are further lines of its configuration, such as `default_pool_size=2` or `pool_mode="session"`.
    """

    user = "postgres"
    refusals = (psycopg.OperationalError,)
    shutdown = signal.SIGINT

    def __init__(self, server: PostgresServer, **settings: Any) -> None:
        self._program = require_pgbouncer()
        super().__init__()
        self.server = server
        self.settings = {"pool_mode": "transaction"} | settings

    def command(self) -> list[str]:
        here = {"listen_addr": "127.0.0.1", "listen_port": self.port, "unix_socket_dir": ""}
        # Whoever comes is let in as the server's user; none of this needs more.
        login = {"auth_type": "any", "admin_users": USER}
        lines = [f"{name} = {value}" for name, value in (here | login | self.settings).items()]
        server = f"* = host=127.0.0.1 port={self.server.port} user={USER} password='{PASSWORD}'"
        path = self.folder / "pgbouncer.ini"
        path.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
        path.chmod(0o644)
        return [self._program, str(path)]

    def ping(self) -> None:
        self.server.maintenance.at(self).call("select 1")
