"""Redis servers of one's own: alone, watched by Sentinels, or as a cluster."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.harness.programs import Program, wait_until
from tests.harness.requirements import require_openssl, require_redis
from tests.harness.server import free_port

BACKEND = "ds_broadcaster.brokers.redis.RedisBroker"


class GivenRedis:
    """A Redis server that the tests did not start, of which they have one database (the URL's) to themselves."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a project whose broker this is."""
        return {"DS_BROADCASTER_BROKER": {"BACKEND": BACKEND, "LOCATION": self.url}}

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that neither waits long nor tries again."""
        options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 10, "decode_responses": False} | options
        return redis.Redis.from_url(self.url, **options)

    def call(self, command: str, *arguments: Any) -> Any:
        """Send one command."""
        with contextlib.closing(self.client()) as client:
            return client.execute_command(command, *arguments)

    def cut(self) -> None:
        """Cut every connection that clients have to it."""
        self.call("client", "kill", "type", "pubsub")
        self.call("client", "kill", "type", "normal", "skipme", "yes")


class RedisServer(GivenRedis, Program):
    """A redis-server process on a free port, which keeps nothing on disk unless `persistent` says so.

    With `tls` or `unix_socket` it is reached in that way only. `settings` are further directives of redis.conf, with
    underscores: `maxmemory="4mb", maxmemory_policy="allkeys-lru"`. stop() is a crash.
    """

    refusals = (redis.ConnectionError, redis.TimeoutError)

    def __init__(
        self,
        *,
        persistent: bool = False,
        password: str | None = None,
        tls: bool = False,
        unix_socket: bool = False,
        **settings: Any,
    ) -> None:
        self._program = require_redis()
        Program.__init__(self)
        self.password, self.tls, self.unix_socket = password, tls, unix_socket
        self._directives = self._address() | {"bind": "127.0.0.1", "dir": self.folder, "save": '""'}
        # Without a file between them, a replica waits for its first copy, and up to a second for what is new then.
        self._directives["repl-diskless-sync"] = "no"
        if persistent:
            self._directives |= {"appendonly": "yes", "appendfsync": "always"}
        if password:
            # The second is for the day it becomes a replica.
            self._directives |= {"requirepass": f'"{password}"', "masterauth": f'"{password}"'}
        self._directives |= {name.replace("_", "-"): value for name, value in settings.items()}

    def _address(self) -> dict[str, Any]:
        if self.unix_socket:
            return {"port": 0, "unixsocket": self.folder / "socket"}
        if not self.tls:
            return {"port": self.port}
        certificate, key = make_certificate(self.folder)
        files = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": certificate}
        return {"port": 0, "tls-port": self.port, "tls-auth-clients": "no"} | files

    @property
    def url(self) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.unix_socket:
            return f"unix://{login}{self.folder}/socket?db=0"
        if self.tls:
            return f"rediss://{login}127.0.0.1:{self.port}/0?ssl_ca_certs={self.folder}/certificate.pem"
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        # A file, so that what a Sentinel or a cluster decides is still so after a restart.
        path = self.folder / "redis.conf"
        if not path.exists():
            path.write_text("".join(f"{name} {value}\n" for name, value in self._directives.items()))
        return [self._program, str(path)]

    def ping(self) -> None:
        self.call("ping")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new certificate for 127.0.0.1, which vouches for itself, and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [require_openssl(), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key)]
    # Python 3.13 trusts no signer that does not say it may sign.
    for extension in ("subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign"):
        command += ["-addext", extension]
    subprocess.run([*command, "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def any_redis() -> Iterator[GivenRedis]:
    """Open the server that DS_TEST_REDIS_URL names, or one of our own: for a test that breaks nothing."""
    if url := os.environ.get("DS_TEST_REDIS_URL"):
        given = GivenRedis(url)
        given.call("flushdb")
        try:
            yield given
        finally:
            given.call("flushdb")
    else:
        with RedisServer() as server:
            yield server


class _Group:
    """Several programs that start and end together."""

    def __init__(self) -> None:
        self._programs: list[Program] = []

    def _gather(self) -> None:
        """Return when they know each other."""
        raise NotImplementedError

    def _wait_until(self, condition: Callable[[], object], what: str, timeout: float = 15) -> None:
        """Wait for a condition that does not hold while a server is away, or ends connections as its role changes."""

        def holds() -> bool:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                return bool(condition())
            return False

        wait_until(holds, what, timeout)

    def start(self) -> Self:
        for program in self._programs:
            program.start()
        self._gather()
        return self

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for program in self._programs:
                stack.callback(program.close)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.close()


# Sentinel


class _Sentinel(RedisServer):
    """One sentinel: it answers like a Redis server, and writes what it learns into its configuration."""

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]

    def cut(self) -> None:
        self.call("client", "kill", "type", "normal", "skipme", "yes")


class RedisSentinel(_Group):
    """A primary, two replicas, and three sentinels that put a replica in the place of a primary that is away.

        with RedisSentinel() as redis:
            dead = redis.primary
            dead.stop()
            redis.wait_for_failover(dead)
            redis.bring_back(dead)

    A failover begins `down_after` milliseconds after the primary's last answer and takes about a second; with fewer
    than 800 they give up servers that only had to connect again, as all do whose role changes. Replicas follow
    behind: what the primary acknowledged shortly before its death may be missing from the next one.
    """

    name = "main"

    def __init__(self, *, down_after: int = 800, password: str | None = None, **settings: Any) -> None:
        super().__init__()
        self.down_after = down_after
        self.servers: list[RedisServer] = []
        self.sentinels: list[_Sentinel] = []
        try:
            for _ in range(3):
                following = {"replicaof": f"127.0.0.1 {self.servers[0].port}"} if self.servers else {}
                self.servers.append(RedisServer(password=password, **settings, **following))
                self._programs.append(self.servers[-1])
            for _ in range(3):
                self.sentinels.append(_Sentinel())
                self._programs.append(self.sentinels[-1])
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The sentinels' addresses."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def _gather(self) -> None:
        for sentinel in self.sentinels:
            self._instruct(sentinel)
        self._wait_until(lambda: all(map(self._sees_all, self.sentinels)), "the sentinels to see everybody")
        for sentinel in self.sentinels:
            # For four of these periods they bear with a new primary that they have not been told of, and the one who
            # made it may need a second until it says so.
            sentinel.call("sentinel", "debug", "publish-period", 400)

    def _instruct(self, sentinel: _Sentinel) -> None:
        with contextlib.closing(sentinel.client()) as client:
            # By default they look around every ten seconds, and do nothing for half a minute when a busy machine has
            # let them wait for two. A replica's news must not be older than five of the periods between pings, and
            # there is none for a second while the primary is away.
            periods = {"info-period": 100, "ask-period": 100, "publish-period": 100}
            periods |= {"ping-period": 300, "tilt-trigger": 60_000}
            client.execute_command("sentinel", "debug", *[part for pair in periods.items() for part in pair])
            client.execute_command("sentinel", "monitor", self.name, "127.0.0.1", self.servers[0].port, 2)
            options = {"down-after-milliseconds": self.down_after, "failover-timeout": 1500, "parallel-syncs": 2}
            if self.servers[0].password:
                options["auth-pass"] = self.servers[0].password
            client.execute_command("sentinel", "set", self.name, *[part for pair in options.items() for part in pair])

    def _sees_all(self, sentinel: _Sentinel) -> bool:
        with contextlib.closing(sentinel.client()) as client:
            seen = client.sentinel_master(self.name)
            replicas = client.sentinel_slaves(self.name)
        linked = sum(replica["master-link-status"] == "ok" for replica in replicas)
        return (linked, seen["num-other-sentinels"]) == (2, 2)

    def _named_by(self, sentinel: _Sentinel) -> int:
        with contextlib.closing(sentinel.client()) as client:
            return int(client.sentinel_get_master_addr_by_name(self.name)[1])

    @property
    def primary(self) -> RedisServer:
        """The server that the sentinels name."""
        port = self._named_by(self.sentinels[0])
        return next(server for server in self.servers if server.port == port)

    def _has_replaced(self, former: RedisServer) -> bool:
        ports = {self._named_by(sentinel) for sentinel in self.sentinels}
        return len(ports) == 1 and former.port not in ports and self.primary.call("role")[0] == b"master"

    def wait_for_failover(self, former: RedisServer, timeout: float = 15) -> RedisServer:
        """Return the primary that all sentinels name instead of this one, when it takes writes."""
        self._wait_until(lambda: self._has_replaced(former), "a new primary", timeout)
        return self.primary

    def fail_over(self, timeout: float = 15) -> RedisServer:
        """Change the primary in good order, as before maintenance."""
        former = self.primary

        def replaced() -> bool:
            # A busy machine may need longer than `failover-timeout`. The sentinel gives up then, and does not try again
            # by itself while the primary answers. It refuses to begin anew while the last attempt still goes on.
            if self._named_by(self.sentinels[0]) == former.port:
                with contextlib.suppress(redis.ResponseError):
                    self.sentinels[0].call("sentinel", "failover", self.name)
            return self._has_replaced(former)

        self._wait_until(replaced, "a new primary", timeout)
        return self.primary

    def bring_back(self, server: RedisServer, timeout: float = 15) -> None:
        """Start or thaw a former primary and return when it follows the present one."""
        if server.alive:
            server.thaw()
        else:
            server.start()

        def follows() -> bool:
            role = server.call("role")
            return role[0] == b"slave" and role[2:4] == [self.primary.port, b"connected"]

        self._wait_until(follows, "the former primary to follow the present one", timeout)


# Cluster


class RedisCluster(_Group):
    """Nodes that share the keys by slots: three masters, and as many replicas of each as wanted.

    A node needs two seconds from its start until it takes writes, so share one cluster between tests.
    """

    def __init__(self, *, replicas: int = 0, **settings: Any) -> None:
        super().__init__()
        self.nodes: list[RedisServer] = []
        try:
            for _ in range(3 * (1 + replicas)):
                bus = {"cluster_enabled": "yes", "cluster_port": free_port(), "cluster_node_timeout": 1000}
                # A replica is not listed before the first byte that follows its copy: a ping, every ten seconds.
                self.nodes.append(RedisServer(**bus, repl_ping_replica_period=1, **settings))
                self._programs.append(self.nodes[-1])
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    @property
    def masters(self) -> list[RedisServer]:
        """The nodes that hold slots at first; the others are their replicas."""
        return self.nodes[:3]

    def _gather(self) -> None:
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.masters):
            node.call("cluster", "addslotsrange", bounds[number], bounds[number + 1] - 1)
        for number, node in enumerate(self.nodes):
            # Nodes with the same epoch would first have to settle who is who.
            node.call("cluster", "set-config-epoch", number + 1)
            for other in self.nodes[:number]:
                node.call("cluster", "meet", "127.0.0.1", other.port, other._directives["cluster-port"])
        self._wait_until(lambda: all(map(self._knows_all, self.nodes)), "the nodes to know each other")
        for number, node in enumerate(self.nodes[3:]):
            node.call("cluster", "replicate", self._id(self.masters[number % 3]))
        self._wait_until(lambda: all(map(self._is_ready, self.nodes)), "the cluster to take writes")

    def _info(self, node: RedisServer) -> dict[str, str]:
        return dict(line.split(":", 1) for line in node.call("cluster", "info").decode().splitlines() if ":" in line)

    def _knows_all(self, node: RedisServer) -> bool:
        listed = node.call("cluster", "nodes")
        return len(listed.splitlines()) == len(self.nodes) and b"handshake" not in listed and b"noaddr" not in listed

    def _is_ready(self, node: RedisServer) -> bool:
        role = node.call("role")
        linked = role[0] == b"master" or role[3] == b"connected"
        replicas = len(self.nodes) // 3 - 1
        complete = all(len(shard[3:]) == replicas for shard in node.call("cluster", "slots"))
        return linked and complete and self._info(node)["cluster_state"] == "ok"

    def _id(self, node: RedisServer) -> bytes:
        return node.call("cluster", "myid")

    def _living(self) -> Iterator[RedisServer]:
        return (node for node in self.nodes if node.alive and not node.frozen)

    def node_of(self, key: str) -> RedisServer:
        """Return the node that has this key, as a living one sees it."""
        observer = next(self._living())
        slot = observer.call("cluster", "keyslot", key)
        for first, last, master, *_ in observer.call("cluster", "slots"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"No node has slot {slot}.")

    def move(self, key: str, target: RedisServer) -> None:
        """Move the slot of this key, with all keys in it, to another node: what clients know is out of date then."""
        source = self.node_of(key)
        slot = source.call("cluster", "keyslot", key)
        target.call("cluster", "setslot", slot, "importing", self._id(source))
        source.call("cluster", "setslot", slot, "migrating", self._id(target))
        login = ["auth", target.password] if target.password else []
        while keys := source.call("cluster", "getkeysinslot", slot, 100):
            source.call("migrate", "127.0.0.1", target.port, "", 0, 5000, *login, "keys", *keys)
        for node in (target, source, *self.masters):
            if node.call("role")[0] == b"master":
                node.call("cluster", "setslot", slot, "node", self._id(target))

    def wait_for_failover(self, former: RedisServer, timeout: float = 15) -> None:
        """Return when a replica has taken the slots of this node, and all living nodes know it."""

        def taken(node: RedisServer) -> bool:
            masters = {shard[2][1] for shard in node.call("cluster", "slots")}
            return former.port not in masters and self._info(node)["cluster_state"] == "ok"

        self._wait_until(lambda: all(map(taken, self._living())), "a replica to take over", timeout)
