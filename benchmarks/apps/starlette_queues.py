"""sse-starlette as its documentation shows it: a generator a stream, fed from a queue a stream."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from .payload import addressed, plan, stamped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)
publishers: set[asyncio.Task[None]] = set()


async def stream(request: Request) -> EventSourceResponse:
    """Open a stream of one of the channels that a load spreads clients over, or of the only one."""
    listening = queues[f"bench{request.query_params.get('channel', '')}"]

    async def events() -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        listening.add(queue)
        try:
            while True:
                html = await queue.get()
                yield {"event": "datastar-patch-elements", "data": f"elements {html}"}
        finally:
            listening.discard(queue)

    return EventSourceResponse(events())


async def publish(request: Request) -> Response:
    """Broadcast the events of the query, in the background."""

    query = request.query_params

    async def run() -> None:
        for number, (delay, size) in enumerate(plan(query)):
            if delay:
                await asyncio.sleep(delay)
            channel, place = addressed(number, int(query.get("channels", 0)))
            html = stamped(size, place)
            for queue in queues[channel]:
                queue.put_nowait(html)

    task = asyncio.create_task(run())
    publishers.add(task)
    task.add_done_callback(publishers.discard)
    return Response(status_code=204)


async def page(request: Request) -> Response:
    """Answer with next to nothing."""
    return Response("page")


application = Starlette(routes=[Route("/stream", stream), Route("/publish", publish), Route("/async", page)])
