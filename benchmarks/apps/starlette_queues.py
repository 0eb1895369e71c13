"""sse-starlette as its documentation shows it: a generator a stream, fed from a queue a stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from .payload import plan, stamped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

queues: set[asyncio.Queue[str]] = set()
publishers: set[asyncio.Task[None]] = set()


async def stream(request: Request) -> EventSourceResponse:
    """Open a stream of the one channel there is."""

    async def events() -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        queues.add(queue)
        try:
            while True:
                html = await queue.get()
                yield {"event": "datastar-patch-elements", "data": f"elements {html}"}
        finally:
            queues.discard(queue)

    return EventSourceResponse(events())


async def publish(request: Request) -> Response:
    """Broadcast the events of the query, in the background."""

    async def run() -> None:
        for number, (delay, size) in enumerate(plan(request.query_params)):
            if delay:
                await asyncio.sleep(delay)
            html = stamped(size, number)
            for queue in queues:
                queue.put_nowait(html)

    task = asyncio.create_task(run())
    publishers.add(task)
    task.add_done_callback(publishers.discard)
    return Response(status_code=204)


async def page(request: Request) -> Response:
    """Answer with next to nothing."""
    return Response("page")


application = Starlette(routes=[Route("/stream", stream), Route("/publish", publish), Route("/async", page)])
