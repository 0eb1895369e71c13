"""Streams of async views: what opens them runs on the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from ds_broadcaster import broadcast
from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link
from tests.fakes import make_scope


async def answer(request):
    return HttpResponse("answer")


async def stream(request):
    return await broadcast.aconnect(["thread-hops", "thread-hops-2"], request)


urlpatterns = [path("answer", answer), path("stream", stream)]


async def opened(application, at):
    """Return a task that answers a request, when the first bytes of the body have come."""
    begun = asyncio.Event()

    async def send(message):
        if message.get("body"):
            begun.set()

    messages = iter([{"type": "http.request"}])

    async def receive():
        return next(messages, None) or await asyncio.get_running_loop().create_future()

    scope = {**make_scope(), "path": at, "raw_path": at.encode(), "client": ("127.0.0.1", 5000)}
    scope["headers"].append((b"accept", b"text/event-stream"))
    task = asyncio.create_task(application(scope, receive, send))
    await asyncio.wait_for(begun.wait(), 10)
    return task


@override_settings(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "ds_broadcaster.middleware.BroadcasterMiddleware"],
)
def test_stream_of_an_async_view_is_opened_without_a_thread(monkeypatch):
    """Beside Django's own, which sends its signals in one: a view that only answers has as many calls there."""
    calls = []
    submit = ThreadPoolExecutor.submit

    def counted(self, function, /, *args, **kwargs):
        calls.append(function)
        return submit(self, function, *args, **kwargs)

    async def run():
        application = HandoffApplication(ASGIHandler(), find_link=lambda send: Link())
        (await opened(application, "/stream")).cancel()  # It makes the hub.
        counts = []
        for at in ("/answer", "/stream"):
            calls.clear()
            task = await opened(application, at)
            if at == "/answer":
                await task
            counts.append(len(calls))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return counts

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    usual, of_stream = asyncio.run(run())
    assert usual == of_stream
