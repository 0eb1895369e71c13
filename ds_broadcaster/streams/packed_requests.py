"""The requests of open streams, kept for their re-checks in a few hundred bytes each."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

from .handoff import Application, Message
from .replayed_requests import OriginalRequest

# Keys of an ASGI scope that are kept for each stream.
OWN_KEYS = {"client", "headers", "path", "query_string", "raw_path"}
# Headers that are the same for many clients. All others are kept for each stream.
COMMON_HEADERS = {
    b"accept",
    b"accept-encoding",
    b"accept-language",
    b"cache-control",
    b"connection",
    b"datastar-request",
    b"dnt",
    b"host",
    b"pragma",
    b"priority",
    b"sec-ch-ua",
    b"sec-ch-ua-mobile",
    b"sec-ch-ua-platform",
    b"sec-fetch-dest",
    b"sec-fetch-mode",
    b"sec-fetch-site",
    b"sec-gpc",
    b"user-agent",
}
# No part of a request has it.
SEPARATOR = b"\n"

Headers = tuple[tuple[bytes, bytes | None], ...]


class Common:
    """What requests have in common: all of the scope but OWN_KEYS, and the headers without the values of others."""

    __slots__ = ("__weakref__", "application", "headers", "scope")

    def __init__(self, application: Application, scope: Message, headers: Headers) -> None:
        self.application = application
        # Copied, so that what the key below stands for stays alive and as it is.
        self.scope = _copied(scope)
        self.headers = headers


class PackedRequest:
    """A request as OriginalRequest has it, whose scope is made anew when it is asked for."""

    __slots__ = ("_common", "_own")

    context = None

    def __init__(self, common: Common, own: bytes) -> None:
        self._common = common
        self._own = own

    @property
    def application(self) -> Application:
        """The application that answered it."""
        return self._common.application

    @property
    def scope(self) -> Message:
        """The scope; what one request changes in it, no other sees."""
        raw_path, path, query, host, port, *values = self._own.split(SEPARATOR)
        rest = iter(values)
        return {
            **_copied(self._common.scope),
            "client": (host.decode(), int(port)) if port else None,
            "headers": [(name, next(rest) if value is None else value) for name, value in self._common.headers],
            "path": (path or raw_path).decode(),
            "query_string": query,
            "raw_path": raw_path,
        }


class RequestPacker:
    """Packs the requests of an application. What they have in common is kept for as long as one of them is."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._known: WeakValueDictionary[Any, Common] = WeakValueDictionary()

    def pack(self, scope: Message) -> PackedRequest | OriginalRequest:
        """Return a request, packed where its scope is as servers make it."""
        try:
            own = SEPARATOR.join(_own_parts(scope))
            rest = {key: value for key, value in scope.items() if key not in OWN_KEYS}
            headers = tuple((name, value if name in COMMON_HEADERS else None) for name, value in scope["headers"])
            if own.count(SEPARATOR) != 4 + sum(value is None for _, value in headers):
                return OriginalRequest(self._application, scope)
            key = (headers, *((name, _identity(value, is_top=True)) for name, value in rest.items()))
            common = self._known.get(key)
        except (KeyError, TypeError, ValueError):
            return OriginalRequest(self._application, scope)
        if common is None:
            common = self._known[key] = Common(self._application, rest, headers)
        return PackedRequest(common, own)


def _own_parts(scope: Message) -> Iterator[bytes]:
    raw_path, path = scope["raw_path"], scope["path"].encode()
    host, port = scope["client"] or ("", "")
    if raw_path and not path:
        raise ValueError("An empty path stands for one like raw_path.")
    yield raw_path
    yield b"" if path == raw_path else path
    yield scope["query_string"]
    yield host.encode()
    yield str(port).encode()
    for name, value in scope["headers"]:
        if name not in COMMON_HEADERS:
            yield value


def _copied(scope: Message) -> Message:
    return {key: dict(value) if type(value) is dict else value for key, value in scope.items()}


def _identity(value: Any, *, is_top: bool = False) -> Any:
    """Return what only equal plain values share, and other values only with themselves."""
    kind = type(value)
    if kind in (str, bytes, int, bool, type(None)):
        return kind, value
    if kind is tuple:
        return kind, *map(_identity, value)
    if kind is dict and is_top:
        return kind, *((key, _identity(each)) for key, each in value.items())
    return id(value)
