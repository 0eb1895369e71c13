"""The wrapper around Django: what it does before a stream begins."""

import asyncio

import pytest
from django.test import override_settings

from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link
from ds_broadcaster.streams.scope import SCOPE_KEY
from tests.fakes import make_request, make_scope, virtual_world


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


async def grant(world, scope, send, receive=None):
    """Answer a request with a stream, as Django does; with `receive`, hear of the client before."""
    response = world.broadcast.connect("room", make_request(scope, 1))
    if receive is not None:
        await receive()
    await asyncio.sleep(0)  # Other streams are granted meanwhile.
    headers = [(name.encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def serve(world, *, leaves=False, sent, until=None, query=b""):
    """Return a task that grants a stream to a client; with `leaves` it is gone before Django has answered.

    The server takes the headers when `until`, a future, is done.
    """
    scope = make_scope(query=query)

    async def receive():
        return {"type": "http.disconnect"} if leaves else await world.loop.create_future()

    async def send(message):
        sent.append(message)
        if until is not None:
            await until

    async def django(scope, receive, send):
        await grant(world, scope, send, receive if leaves else None)

    return world.loop.create_task(HandoffApplication(django, find_link=lambda send: Link())(scope, receive, send))


def end(world, task):
    task.cancel()
    world.settle()


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


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS=1)
def test_last_place_is_taken_with_the_headers_and_the_next_is_refused(world):
    """An answer that begins with 200 is a stream's: the client must not be cut off after it."""
    first, second, third = [], [], []
    granted = world.loop.create_future()
    tasks = [serve(world, sent=first, until=granted), serve(world, sent=second)]
    world.settle()
    assert tasks[1].done()
    assert [message["status"] for message in first] == [200]
    start, body = second
    headers = {name.lower(): value for name, value in start["headers"]}
    assert (start["status"], body["body"], headers[b"retry-after"]) == (503, b"Too many are open.", b"10")
    assert headers[b"content-length"] == b"18"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-type"].startswith(b"text/html")
    assert not {b"x-ds-broadcaster-handoff", b"content-encoding", b"x-accel-buffering"} & headers.keys()
    assert len(headers) == len(start["headers"])
    granted.set_result(None)
    world.settle()
    assert world.hub.count == 1
    serve(world, sent=third)
    world.settle()
    assert third[0]["status"] == 503
    assert world.hub.limits.refused == 2
    end(world, tasks[0])


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=1)
@pytest.mark.parametrize("leaves", [True, False])
def test_place_of_a_stream_that_does_not_open_is_free(world, leaves):
    sent = []
    task = serve(world, leaves=leaves, sent=[], until=None if leaves else world.loop.create_future())
    world.settle()
    end(world, task)
    task = serve(world, sent=sent)
    world.settle()
    assert sent[0]["status"] == 200
    assert world.hub.count == 1
    end(world, task)


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=1)
def test_view_that_outlives_its_request_takes_no_place(world):
    """Django 5.2 does not end an async view whose request was cancelled."""
    goes_on, sent, views = world.loop.create_future(), [], []

    async def django(scope, receive, send):
        async def view():
            await goes_on
            await grant(world, scope, send)

        views.append(asyncio.ensure_future(view()))
        await asyncio.wait(views)

    async def send(message):
        raise AssertionError

    application = HandoffApplication(django, find_link=lambda send: Link())
    task = world.loop.create_task(application(make_scope(), world.loop.create_future, send))
    world.settle()
    end(world, task)
    goes_on.set_result(None)
    world.settle()
    assert views[0].done()
    assert views[0].exception() is None
    task = serve(world, sent=sent)
    world.settle()
    assert sent[0]["status"] == 200
    end(world, task)


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=1)
def test_stream_that_is_about_to_take_anothers_place_is_none_more(world):
    query = b'element=stream&datastar={"broadcastTab":"tab-number-1"}'
    world.client(user_id=1, query=query)
    tasks, answers = [], []
    for _ in range(2):  # The page is reloaded, twice.
        answers.append([])
        tasks.append(serve(world, sent=answers[-1], until=world.loop.create_future(), query=query))
        world.settle()
    assert [sent[0]["status"] for sent in answers] == [200, 200]
    for task in tasks:
        end(world, task)


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=1)
def test_user_has_the_places_of_streams_that_are_about_to_open(world):
    task = serve(world, sent=[], until=world.loop.create_future())
    sent = []
    serve(world, sent=sent)
    world.settle()
    assert (sent[0]["status"], sent[1]["body"]) == (429, b"This user has too many streams open: close some pages.")
    end(world, task)


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
