"""What the tests drive the package with: real servers, raw streams, a real browser."""

from tests.harness.browser import Tab, each_client, each_client_and, expect
from tests.harness.relay import Relay
from tests.harness.requirements import (
    require_chromium,
    require_client_bundle,
    require_network_namespaces,
    require_openssl,
    require_pgbouncer,
    require_postgres,
    require_proxy,
    require_redis,
)
from tests.harness.server import GUNICORN, MODES, SERVERS, Server, Visitor, each_mode, each_server
from tests.harness.sse import Comment, Event, IdOnly, Retry, SSEClient, SSEParser

__all__ = [
    "GUNICORN",
    "MODES",
    "SERVERS",
    "Comment",
    "Event",
    "IdOnly",
    "Relay",
    "Retry",
    "SSEClient",
    "SSEParser",
    "Server",
    "Tab",
    "Visitor",
    "each_client",
    "each_client_and",
    "each_mode",
    "each_server",
    "expect",
    "require_chromium",
    "require_client_bundle",
    "require_network_namespaces",
    "require_openssl",
    "require_pgbouncer",
    "require_postgres",
    "require_proxy",
    "require_redis",
]
