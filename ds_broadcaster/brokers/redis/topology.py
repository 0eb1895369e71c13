"""Where Redis is: LOCATION and OPTIONS as a client to ask with and connections to listen on."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.connection
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from ...exceptions import BrokerUnavailable
from .connections import Connections

# Seconds that a server has to answer; connecting and asking together take at most twice this.
TIMEOUT = 0.9
# Seconds for each sentinel; they are asked in turn.
SENTINEL_TIMEOUT = 0.25
# Connections that a process's threads share. Streams that open at once ask from as many threads; with 16 connections,
# 50 streams were once too many on a busy machine.
CONNECTIONS = 64

# What redis-py raises when a server cannot be asked.
FAILURES = (redis.RedisError, redis.exceptions.RedisClusterException)

EXAMPLE = "redis://127.0.0.1:6379/0"


class Topology:
    """One Redis server, the primary that sentinels know of, or a cluster.

    `location` is a URL, or a list of URLs: the sentinels' with `sentinel`, the name of the primary that they watch, or
    those of some nodes of a `cluster`. `options` go to redis-py's connections. `key` stands for the slot of all keys.
    Raises ImproperlyConfigured for a location that makes no sense.
    """

    def __init__(
        self,
        location: str | Sequence[str],
        key: str,
        *,
        sentinel: str | None,
        cluster: bool,
        options: Mapping[str, Any],
    ) -> None:
        urls = [location or EXAMPLE] if isinstance(location, str) else list(location)
        if sentinel is not None and cluster:
            raise ImproperlyConfigured("DS_BROADCASTER_BROKER['OPTIONS'] must name a sentinel or a cluster, not both.")
        if len(urls) != 1 and sentinel is None and not cluster:
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['LOCATION'] names several servers: write in OPTIONS what they are, "
                '{"sentinel": "mymaster"} with the name by which sentinels know the primary, or {"cluster": True}. '
                f'A single server is one URL, such as "{EXAMPLE}".'
            )
        parsed = list(map(_parsed, urls))
        self._key = key
        self._service = sentinel
        self._options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "socket_keepalive": True,
            **options,
        }
        # A server's URL overrides the options; the URLs of sentinels name no database.
        database = {"db": 0, **options, **({} if sentinel is not None else parsed[0])}["db"]
        if not str(database).isdecimal():
            raise ImproperlyConfigured("DS_BROADCASTER_BROKER['OPTIONS']['db'] must be a number, such as 1.")
        self.database = int(database)
        self._is_secure = any(urlsplit(url).scheme == "rediss" for url in urls)
        self._sentinel: Sentinel | None = None
        # redis-py's client, and what asks one command at a time with less ado, where that is possible.
        self.client: Any
        self._connections: Connections | None = None
        if sentinel is not None:
            self._use_sentinels(parsed, sentinel)
        elif cluster:
            self._use_cluster(parsed)
        else:
            self._url = urls[0]
            if "path" in parsed[0]:
                del self._options["socket_keepalive"]
            pool = redis.BlockingConnectionPool.from_url(
                self._url, max_connections=CONNECTIONS, timeout=TIMEOUT, retry=_no_retry(), **self._options
            )
            self.client = redis.Redis.from_pool(pool)  # Unlike Redis(connection_pool=pool), it closes the pool.
            make = partial(pool.connection_class, **pool.connection_kwargs)
            self._connections = Connections(make, CONNECTIONS, TIMEOUT)

    def _use_sentinels(self, parsed: list[dict[str, Any]], service: str) -> None:
        addresses = [(each.get("host", "localhost"), each.get("port", 26379)) for each in parsed]
        theirs: dict[str, Any] = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
        theirs["retry"] = _no_retry()  # By default redis-py asks one that is away for seconds.
        theirs |= {name: parsed[0][name] for name in ("username", "password") if name in parsed[0]}
        if self._is_secure:
            theirs["ssl"] = self._options["ssl"] = True
        self._sentinel = Sentinel(addresses, sentinel_kwargs=theirs)
        # This pool raises an error where the other blocks, so it has more than are needed.
        self.client = self._sentinel.master_for(
            service, max_connections=4 * CONNECTIONS, retry=_no_retry(), **self._options
        )

    def _use_cluster(self, parsed: list[dict[str, Any]]) -> None:
        nodes = [ClusterNode(each.get("host", "localhost"), each.get("port", 6379)) for each in parsed]
        for name in ("username", "password"):
            if name in parsed[0]:
                self._options.setdefault(name, parsed[0][name])
        if self._is_secure:
            self._options["ssl"] = True
        self._nodes = nodes
        self.client = _LazyClient(
            lambda: RedisCluster(
                startup_nodes=nodes, max_connections=4 * CONNECTIONS, retry=_no_retry(), **self._options
            )
        )

    def ask(self, *command: Any) -> Any:
        """Execute one command, and return its answer. Raises what redis-py does, and BrokerUnavailable."""
        return (self._connections or self.client).execute_command(*command)

    async def aask(self, *command: Any) -> Any:
        """See ask(); waits in a thread where redis-py alone can ask."""
        if self._connections is None:
            return await asyncio.to_thread(self.ask, *command)
        return await self._connections.aexecute_command(*command)

    def new_connection(self) -> Any:
        """Return an unopened connection to the server that publishes. May block: sentinels or nodes name it."""
        options = {**self._options, "socket_timeout": None, "protocol": 2}
        if self._sentinel is not None:
            with asking:
                host, port = self._sentinel.discover_master(self._service)
        elif isinstance(self.client, _LazyClient):
            # Every node gets what another publishes, but over links that lose messages when they break.
            with contextlib.suppress(*FAILURES, OSError):
                self.client.exists(self._key)  # Where it fails, redis-py looks for the nodes anew.
            node = self.client.get_node_from_key(self._key)
            host, port = node.host, node.port
        else:
            options |= redis.asyncio.connection.parse_url(self._url)
            return options.pop("connection_class", redis.asyncio.Connection)(**options)
        secure = options.pop("ssl", False)
        return (redis.asyncio.SSLConnection if secure else redis.asyncio.Connection)(host=host, port=port, **options)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        if self._connections is not None:
            self._connections.close()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                sentinel.close()


class Asking:
    """A context that raises BrokerUnavailable for every error of redis-py."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MasterNotFoundError):  # Some versions of redis-py would show the password.
            raise BrokerUnavailable("Redis could not be asked: no sentinel names a primary that is up.") from None
        # It is an OSError, and says it already.
        if isinstance(error, (*FAILURES, OSError)) and not isinstance(error, BrokerUnavailable):
            raise BrokerUnavailable(f"Redis could not be asked: {error}") from error


asking = Asking()


def _parsed(url: str) -> dict[str, Any]:
    try:
        found = dict(parse_url(url))
    except ValueError as error:
        what = "its scheme" if "scheme" in str(error) else "its host, its port or a parameter"
    else:
        if not url.startswith("unix:") or "path" in found:
            return found
        what = "its path"
    # Neither the URL nor redis-py's words for it: both may show a password, or a part of one.
    raise ImproperlyConfigured(
        f"DS_BROADCASTER_BROKER['LOCATION'] is wrong: {what} cannot be read. Write for example \"{EXAMPLE}\", with "
        "urllib.parse.quote() around a password that has other characters than letters and digits."
    )


class _LazyClient:
    """A cluster's client, made at its first use: making one asks the cluster."""

    def __init__(self, make: Callable[[], RedisCluster]) -> None:
        self._make = make
        self._made: RedisCluster | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return getattr(self._made, name)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def _no_retry() -> Retry:
    """Return a policy without retries: an event whose answer is lost may have been published."""
    return Retry(NoBackoff(), 0)
