"""The wrapper around Django: what it does before a stream begins."""

import asyncio

import pytest

from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link
from ds_broadcaster.streams.scope import SCOPE_KEY
from tests.fakes import make_request, make_scope, virtual_world


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def serve(world, *, leaves, sent):
    """Return a task that grants a stream to a client; with `leaves` it is gone before Django has answered."""
    scope = make_scope()

    async def receive():
        return {"type": "http.disconnect"} if leaves else await world.loop.create_future()

    async def send(message):
        sent.append(message)

    async def django(scope, receive, send):
        response = world.broadcast.connect("room", make_request(scope, 1))
        if leaves:
            await receive()
        headers = [(name.encode(), value.encode()) for name, value in response.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return world.loop.create_task(HandoffApplication(django, find_link=lambda send: Link())(scope, receive, send))


def test_client_that_leaves_while_django_answers_opens_no_stream(world):
    world.client("hall")
    sent = []
    task = serve(world, leaves=True, sent=sent)
    world.settle()
    assert task.done()
    assert task.exception() is None
    assert ("connection_opened", "room", 1) not in world.signals
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_client_that_stays_gets_the_headers_without_the_mark_and_the_stream(world):
    sent = []
    task = serve(world, leaves=False, sent=sent)
    world.settle()
    assert ("connection_opened", "room", 1) in world.signals
    start, opening = sent
    names = {name for name, _ in start["headers"]}
    assert b"Content-Type" in names
    assert not {b"X-Ds-Broadcaster-Handoff", b"Content-Encoding"} & names
    assert opening["body"].startswith(b"retry: ")
    task.cancel()
    world.settle()
    assert world.broadcast.get_users("room") == []


def test_server_that_is_not_known_gets_plain_streams_and_a_line_in_the_log(caplog):
    """As in a test with httpx, whose send() is a function of its own."""
    scopes = []

    async def django(scope, receive, send):
        scopes.append(scope)

    async def send(message):
        raise AssertionError

    async def ask():
        for _ in range(2):
            await HandoffApplication(django)(make_scope(), None, send)

    asyncio.run(ask())
    assert all(SCOPE_KEY not in scope for scope in scopes)
    assert [__name__ in record.getMessage() for record in caplog.records] == [True]
