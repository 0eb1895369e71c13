"""The ASGI application with the handoff: a stream leaves Django's request cycle when its view has granted it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from django.core.asgi import get_asgi_application as get_django_application

from .asgi_servers import Link, find_link, tell_way
from .exceptions import Gap
from .hub.pages import pages
from .streams.answering import Answering, Threads, Turn
from .streams.handoff import Application, HandoffConnection, Message, Receive, Send, start_task
from .streams.packed_requests import RequestPacker
from .streams.responses import Stream, without_redirect, without_stream
from .streams.scope import SCOPE_KEY, find_mark, without_mark
from .streams.taken_over import take_over


def get_asgi_application() -> "HandoffApplication":
    """Return Django's ASGI application with the handoff around it; use it in asgi.py in place of Django's."""
    return HandoffApplication(cast(Application, get_django_application()))


class HandoffApplication:
    """Django, with its streams taken over.

    A view that grants a stream runs through the whole middleware stack. Its response carries a mark; the headers go
    out, Django finishes the request and releases its thread, its database connections and the request itself. Only then
    does the stream begin, as one connection object; a server that keeps it has a waiting receive() beside it.

    `find_link` returns what can be reached of a request's server; None leaves its streams in plain mode.
    """

    def __init__(self, application: Application, *, find_link: Callable[[Any], Link | None] = find_link) -> None:
        self.application = application
        self._find_link = find_link
        self._packer = RequestPacker(application)
        self._answering = Answering()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif scope["type"] == "http":
            link = self._find_link(send)
            request = _Request(receive, send, scope)
            if link is None:
                await self.application(scope, receive, request.send)
                return
            turn = threads = None
            if _asks_for_stream(scope):
                turns, threads = self._answering.here()
                request.turn = turn = await turns.take()
            try:
                stream = await request.run(self.application, scope, threads)
                del request, threads  # The request has the grant, and the stream is long.
                if stream is not None:
                    hub = stream.get_hub()
                    user_id = stream.grant.user_id
                    connection = take_over(user_id, link) or HandoffConnection(user_id, send, link)
                    connection.request = self._packer.pack(scope)
                    try:
                        async with hub.stream(connection, stream.grant) as frames:
                            connection.start(frames)
                            del stream, frames  # They may be large, and the stream is long.
                            if turn is not None:
                                turn.end()
                            await connection.wait_closed(receive)
                    except Gap:
                        connection.abort()
                        await connection.wait_closed(receive)
            finally:
                if turn is not None:
                    turn.end()
        else:
            await self.application(scope, receive, send)


def _asks_for_stream(scope: Message) -> bool:
    if scope["method"] != "GET":
        return False
    return any(name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"])


class _Request:
    """What happens between the server and Django before a stream begins."""

    def __init__(self, receive: Receive, send: Send, scope: Message) -> None:
        self._receive = receive
        self._send = send
        self._scope = scope
        self._body: bytes | None = None  # In place of the body of what was refused.
        self._granted: dict[str, Stream] = {}
        self._stream: Stream | None = None
        self._holding: Stream | None = None  # The stream that has a place.
        self._gone = False
        self._is_over = False
        self._is_page = False
        self.turn: Turn | None = None

    async def run(self, application: Application, scope: Message, threads: Threads | None) -> Stream | None:
        """Let Django answer, in one of these threads; return the stream that it granted to a client that stays."""
        answering: Awaitable[None]
        answer = partial(application, {**scope, SCOPE_KEY: self._granted}, self.receive, self.send)
        if threads is not None:
            # In a task of its own, so that the context variables of Django and its middleware do not stay for as long
            # as the stream: about 1 KB.
            answering = start_task(asyncio.get_running_loop(), threads.run(answer))
        else:
            answering = answer()
        self._is_page = True
        pages.count += 1
        try:
            await answering
        finally:
            self._begin_answer()
            self._is_over = True
            if self._holding is not None:
                self._holding.get_hub().limits.let_go(self._holding.grant)
        return None if self._gone else self._stream

    def _begin_answer(self) -> None:
        if self._is_page:
            self._is_page = False
            pages.count -= 1

    async def receive(self) -> Message:
        message = await self._receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        if self._is_over:  # Django 5.2 does not end an async view whose request was cancelled.
            return
        if message["type"] == "http.response.start":
            self._begin_answer()
        if message["type"] == "http.response.start" and self._granted:
            self._stream = self._granted.get(find_mark(message) or "")
            if self._stream is not None:
                message = self._with_place({**message, "headers": without_mark(message["headers"])})
        elif self._stream is not None:
            return  # Django's empty body.
        if self._stream is None:
            if self.turn is not None:
                self.turn.end()  # What it answers may take long: a stream of the project's own.
            message = self._without_redirect(message)
        await self._send(message)

    def _with_place(self, start: Message) -> Message:
        """Hold a place for the stream, from its headers on; return the start of a refusal where there is none."""
        assert self._stream is not None
        limit = self._stream.get_hub().limits.hold(self._stream.grant)
        if limit is None:
            self._holding = self._stream
        else:
            self._stream = None
            start, self._body = without_stream(start, limit)
        return start

    def _without_redirect(self, message: Message) -> Message:
        if message["type"] != "http.response.start":
            if self._body is not None:
                message, self._body = {**message, "body": self._body}, b""
            return message
        start = without_redirect(self._scope, message)
        if start is not message:
            self._body = b""
        return start


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            tell_way(receive)
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
