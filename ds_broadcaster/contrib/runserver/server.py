"""uvicorn, with what Django's runserver asks of a server, and Django's lines for requests."""

import logging
import os
import socket
import threading
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import uvicorn

from ...streams.handoff import Application

# Django's own for runserver: it has the format and the colours.
logger = logging.getLogger("django.server")

# Seconds that requests may take to end.
GRACE = 1
# Seconds that an ending process then has. A view that waits in a debugger would keep it for ever.
LAST_SECONDS = 1.0


class DevelopmentServer(uvicorn.Server):
    """A server of one process.

    It ends by Ctrl-C in the main thread, where it cancels requests that take longer than the grace. In another thread
    (`is_threaded`) it ends with the process, which needs no cancelling: uvicorn logs a traceback for each.
    """

    def __init__(self, application: Application, *, is_threaded: bool) -> None:
        super().__init__(
            uvicorn.Config(
                RequestLog(application),
                log_config=None,
                access_log=False,
                proxy_headers=False,  # Django has settings of its own for these.
                timeout_graceful_shutdown=None if is_threaded else GRACE,
            )
        )
        self._ended = threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self._ended.set()

    def end_with_process(self, code: Any) -> None:
        """End the streams and then, soon, this process, which is about to exit with `code`."""
        self.should_exit = True
        self._ended.wait(GRACE)
        timer = threading.Timer(LAST_SECONDS, os._exit, [code if isinstance(code, int) else 1])
        timer.daemon = True
        timer.start()


class Listener:
    """What Django's runserver takes for its server: binds to an address, and has the application served there.

    The handler of requests is that of WSGI, and not used.
    """

    def __init__(self, address: tuple[str, int], handler: type, *, ipv6: bool = False) -> None:
        self._socket = socket.create_server(
            address,
            family=socket.AF_INET6 if ipv6 else socket.AF_INET,
            dualstack_ipv6=ipv6 and socket.has_dualstack_ipv6(),
        )
        self.server_port = self._socket.getsockname()[1]

    def set_app(self, server: DevelopmentServer) -> None:
        self._server = server

    def serve_forever(self) -> None:
        self._server.run([self._socket])


class RequestLog:
    """An ASGI application around another one that logs each request as Django's runserver does."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.application(scope, receive, _LoggedSend(send, scope) if scope["type"] == "http" else send)


class _LoggedSend(partial[Any]):
    """The server's send(), called without a detour: a partial, through which the handoff finds its server."""

    _scope: dict[str, Any]
    _status: int
    _size: int
    _is_stream: bool

    def __new__(cls, send: Any, scope: dict[str, Any]) -> "_LoggedSend":
        self = super().__new__(cls, send)
        self._scope = scope
        self._status = self._size = 0
        self._is_stream = False
        return self

    def __call__(self, message: dict[str, Any]) -> Any:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._is_stream = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            )
            if self._is_stream:
                self._log("-")
        elif message["type"] == "http.response.body" and not self._is_stream:
            self._size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._log(self._size)
        return self.func(message)

    def _log(self, size: int | str) -> None:
        scope, status = self._scope, self._status
        path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
        if query := scope["query_string"]:
            path += f"?{query.decode('latin-1')}"
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
        line = f"{scope['method']} {path} HTTP/{scope['http_version']}"
        extra = {"status_code": status, "server_time": f"{datetime.now():%d/%b/%Y %H:%M:%S}"}
        logger.log(level, '"%s" %s %s', line, status, size, extra=extra)
