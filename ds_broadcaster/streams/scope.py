"""What we keep in the ASGI scope of a request, and the mark by which a response hands off its stream."""

from collections.abc import Mapping
from typing import Any

# The header by which the wrapper knows a response that hands off a stream; it never leaves the process.
HANDOFF_HEADER = "X-Ds-Broadcaster-Handoff"
# The key under which the wrapper keeps the streams of a request.
SCOPE_KEY = "ds_broadcaster.handoff"
# The key that marks a re-check: a request that only asks whether it would still be granted its stream.
RECHECK_KEY = "ds_broadcaster.recheck"
# The key of a re-check that also asks for a snapshot: the channels that were refreshed.
REFRESH_KEY = "ds_broadcaster.refresh"
# The key under which a request keeps the moment it came in.
ARRIVAL_KEY = "ds_broadcaster.arrival"

_MARK = HANDOFF_HEADER.lower().encode()


def is_of_test_client(scope: Mapping[str, Any]) -> bool:
    """Tell whether a request is made by Django's test client or request factory: there is no server, and no return."""
    server, client = scope.get("server"), scope.get("client")
    if server is None or client is None:
        return False
    # The client of a server has a port, except where uvicorn takes its address from a proxy; and of the known servers,
    # granian alone gives its own port as a string.
    return isinstance(server[1], str) and client[1] == 0


def find_mark(message: Mapping[str, Any]) -> str | None:
    """Return which of a request's streams a response hands off; None for any other response."""
    for name, value in message["headers"]:
        if name.lower() == _MARK:
            return str(value.decode("latin-1"))
    return None


def without_mark(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers of a stream as they leave the process."""
    return [
        (name, value)
        for name, value in headers
        if name.lower() != _MARK and not (name.lower() == b"content-encoding" and value == b"identity")
    ]
