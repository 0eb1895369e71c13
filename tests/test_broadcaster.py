"""Every verb of `broadcast`, from wherever it may be called."""

import asyncio
import inspect
import json
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.template import TemplateDoesNotExist, engines
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from pydantic import BaseModel

import ds_broadcaster
from ds_broadcaster import BroadcasterError, EventTooLarge, broadcast
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.streams.requests import user_id_of
from ds_broadcaster.streams.scope import RECHECK_KEY, SCOPE_KEY
from tests.fakes import FakeClient, make_request, make_scope, release_nothing, virtual_world
from tests.harness.sse import Event, SSEParser

VERBS = [
    "elements",
    "signals",
    "remove",
    "script",
    "redirect",
    "dispatch",
    "refresh",
    "template",
    "new",
    "connect",
    "disconnect",
    "kill",
    "get_users",
    "get_presence",
    "get_channels",
    "cursor",
    "recheck",
]


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


@pytest.fixture
def broadcaster():
    return Broadcaster()


def sent(broadcaster, channel="room"):
    """Return the events in a channel's history."""

    async def read():
        return await broadcaster._broker.read(channel, 0)

    frames = b"".join(frame.data for _, frame in asyncio.run(read()))
    return [frame for frame in SSEParser().feed(frames) if isinstance(frame, Event)]


# The face of the package


def test_singleton_and_errors_come_from_the_packages_face():
    assert isinstance(broadcast, Broadcaster)
    assert issubclass(EventTooLarge, BroadcasterError)
    assert issubclass(ds_broadcaster.BrokerUnavailable, BroadcasterError)
    assert all(hasattr(ds_broadcaster, name) for name in ds_broadcaster.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_an_async_twin_with_the_same_signature(verb):
    plain, twin = getattr(Broadcaster, verb), getattr(Broadcaster, f"a{verb}")
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(twin)
    assert inspect.signature(plain) == inspect.signature(twin)
    assert plain.__doc__.strip()
    assert twin.__doc__.startswith(f"See {verb}()")


def test_every_verb_that_asks_the_broker_names_its_twin():
    """new() asks none."""
    assert {verb for verb in VERBS if hasattr(getattr(Broadcaster, verb), "__wrapped__")} == {*VERBS} - {"new"}


# What other modules of the package ask.
OWN = {"declared", "holdings", "hubs", "replaced", "review", "send_all"}


def test_there_are_no_other_verbs():
    public = {name for name in dir(Broadcaster) if not name.startswith("_")}
    assert public == {
        *VERBS,
        *(f"a{verb}" for verb in VERBS),
        *OWN,
    }


@pytest.mark.parametrize(
    "verb, arguments",
    [
        (
            "__call__",
            "channel, html, selector=None, mode=None, *, namespace=None, use_view_transition=False, "
            "view_transition_selector=None, exclude=None, transient=False, key=None, compress=True",
        ),
        (
            "elements",
            "channel, html, selector=None, mode=None, *, namespace=None, use_view_transition=False, "
            "view_transition_selector=None, exclude=None, transient=False, key=None, compress=True",
        ),
        ("remove", "channel, selector, *, exclude=None"),
        (
            "signals",
            "channel, signals, *, only_if_missing=False, exclude=None, transient=False, key=None, compress=True",
        ),
        ("script", "channel, javascript, *, auto_remove=True, attributes=None, exclude=None, compress=True"),
        ("redirect", "channel, url, *, exclude=None, compress=True"),
        (
            "dispatch",
            "channel, event_name, detail=None, selector=None, *, exclude=None, transient=False, key=None, "
            "compress=True",
        ),
        ("refresh", "channel, *, exclude=None"),
        (
            "template",
            "channel, template_name, context=None, selector=None, mode=None, *, request=None, audience=False, "
            "exclude=None, transient=False, key=None, compress=True",
        ),
        ("new", "channel, presence_callback=None"),
        (
            "connect",
            "channel, request, presence_callback=None, *, snapshot_callback=None, presence_meta=None, compress=True",
        ),
        ("disconnect", "channel, user_id"),
        ("kill", "channel"),
        ("recheck", "channel=None, user_id=None"),
        ("get_users", "channel"),
        ("get_presence", "channel"),
        ("get_channels", ""),
        ("cursor", ""),
    ],
)
def test_signature_is_the_contracts(verb, arguments):
    signature = inspect.signature(getattr(Broadcaster(), verb))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({arguments})"


# Sending


class Count(BaseModel):
    count: int


def send_everything(broadcaster):
    broadcaster("room", "<p id=a>")
    broadcaster.elements("room", "<li>", "#list", "append", namespace="svg", use_view_transition=True)
    broadcaster.remove("room", "#old")
    broadcaster.signals("room", {"a": 1})
    broadcaster.signals("room", Count(count=2), only_if_missing=True)


async def asend_everything(broadcaster):
    await broadcaster.aelements("room", "<p id=a>")
    await broadcaster.aelements("room", "<li>", "#list", "append", namespace="svg", use_view_transition=True)
    await broadcaster.aremove("room", "#old")
    await broadcaster.asignals("room", {"a": 1})
    await broadcaster.asignals("room", Count(count=2), only_if_missing=True)


@pytest.mark.parametrize(
    "send", [send_everything, lambda broadcaster: asyncio.run(asend_everything(broadcaster))], ids=["sync", "async"]
)
def test_each_verb_sends_its_event(broadcaster, send):
    send(broadcaster)
    events = sent(broadcaster)
    assert [event.type for event in events] == ["datastar-patch-elements"] * 3 + ["datastar-patch-signals"] * 2
    assert [event.args for event in events] == [
        {"elements": "<p id=a>"},
        {
            "elements": "<li>",
            "selector": "#list",
            "mode": "append",
            "namespace": "svg",
            "useViewTransition": "true",
        },
        {"mode": "remove", "selector": "#old"},
        {"signals": '{"a":1}'},
        {"signals": '{"count":2}', "onlyIfMissing": "true"},
    ]
    assert [event.id for event in events] == [f"{broadcaster._broker.epoch}-{number}" for number in range(1, 6)]


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("is_async", [False, True])
def test_each_verb_with_text_of_the_callers_has_it_sent_as_it_is(broadcaster, is_async):
    calls = [
        ("elements", "<p id=a>"),
        ("signals", {"a": 1}),
        ("template", "there.html"),
        ("script", "x()"),
        ("redirect", "/there/"),
        ("dispatch", "told"),
    ]
    for verb, argument in calls:
        for channel, options in ((verb, {}), (f"{verb}-secret", {"compress": False})):
            if is_async:
                asyncio.run(getattr(broadcaster, f"a{verb}")(channel, argument, **options))
            else:
                getattr(broadcaster, verb)(channel, argument, **options)
            ((_, frame),) = asyncio.run(broadcaster._broker.read(channel, 0))
            assert frame.facts.is_uncompressed == bool(options)


@pytest.fixture
def template(monkeypatch):
    text = "<p id=a>{{ name }}{{ request.path }}</p>"

    def get_template(name):
        if name != "there.html":
            raise TemplateDoesNotExist(name)
        return engines["django"].engine.from_string(text)

    monkeypatch.setattr(engines["django"].engine, "get_template", get_template)


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("is_async", [False, True])
def test_template_is_rendered_with_its_context_and_sent_as_elements(broadcaster, is_async):
    def send(*args, **kwargs):
        if is_async:
            asyncio.run(broadcaster.atemplate(*args, **kwargs))
        else:
            broadcaster.template(*args, **kwargs)

    send("room", "there.html", {"name": "<Ada>"})
    send("room", ["missing.html", "there.html"], None, ".list", "append")
    request = RequestFactory().get("/here/")
    request.user = SimpleNamespace(is_authenticated=False)
    send("room", "there.html", {"name": "B"}, request=request)
    assert [event.args for event in sent(broadcaster)] == [
        {"elements": "<p id=a>&lt;Ada&gt;</p>"},
        {"elements": "<p id=a></p>", "selector": ".list", "mode": "append"},
        {"elements": "<p id=a>B/here/</p>"},
    ]
    with pytest.raises(TemplateDoesNotExist):
        send("room", "missing.html")


def test_saved_instance_is_a_channel_for_every_verb(world):
    group = Group(pk=7, name="g")
    client = FakeClient(world.loop, world.broadcast, [group, "b"], 1)
    client.channels = ["auth.group-7", "b"]
    world.settle()
    world.broadcast(group, "<p id=a>")
    world.broadcast.signals(group, {"a": 1})
    world.settle()
    assert client.texts == ["<p id=a>"]
    assert client.signals == ['{"a":1}']
    assert world.broadcast.get_users(group) == [1]
    assert world.broadcast.get_channels() == ["auth.group-7", "b"]
    world.broadcast.disconnect(group, 1)
    world.settle()
    assert client.end == "clean"
    world.broadcast.new(group)
    assert world.broadcast.get_channels() == ["auth.group-7"]
    world.broadcast.kill(group)
    assert world.broadcast.get_channels() == []


WRONG_CALLS = [
    (ValueError, "^channel must not hold a line break", lambda b: b("a\nb", "<p>")),
    (ValueError, "^channel must not be empty", lambda b: b("", "<p>")),
    (TypeError, "^channel must be a string or a saved model instance", lambda b: b(3, "<p>")),
    (ValueError, "save it before", lambda b: b(Group(), "<p>")),
    (TypeError, "^html must be a string", lambda b: b("room", None)),
    (ValueError, "^The channel comes first, as in broadcast\\(channel, html\\)", lambda b: b("<p id=a>", "room")),
    (ValueError, "^The channel comes first", lambda b: b(mark_safe(" <p id=a>"), Group(pk=7))),
    (ValueError, "^The channel comes first", lambda b: b.elements("<p id=a>", "room", "#a", "append")),
    (ValueError, "^The channel comes first", lambda b: b("Ann: <b>hi</b>", "room")),
    (ValueError, "^The channel comes first", lambda b: asyncio.run(b.aelements("<p id=a>", "room"))),
    (ValueError, "^mode must be one of", lambda b: b.elements("room", "<p>", "#a", "morph")),
    (ValueError, "^selector must not hold", lambda b: b.elements("room", "<p>", "#a\rdata: x")),
    (ValueError, "^namespace must be one of", lambda b: b.elements("room", "<p>", namespace="x\ny")),
    (ValueError, "^remove needs a selector", lambda b: b.remove("room", "")),
    (TypeError, "^signals must be a dict", lambda b: b.signals("room", "{}")),
    (ValueError, "^signals must have a JSON form", lambda b: b.signals("room", {"a": float("nan")})),
    (TypeError, "^signals must have a JSON form", lambda b: b.signals("room", {"a": object()})),
    (ValueError, "^channel must not hold", lambda b: b.kill("a\0b")),
    (ValueError, "^channel must not hold", lambda b: b.new("a\nb")),
    (ValueError, "^channel must not hold", lambda b: b.get_users("a\nb")),
    (ValueError, "^channel must not hold", lambda b: b.disconnect("a\nb", 1)),
    (TypeError, "^presence_callback must be a function", lambda b: b.new("room", "not a function")),
]


@pytest.mark.parametrize("error, message, call", WRONG_CALLS)
def test_bad_input_is_refused_at_the_call_and_sends_nothing(broadcaster, error, message, call):
    cursor = broadcaster.cursor()
    with pytest.raises(error, match=message):
        call(broadcaster)
    assert broadcaster.cursor() == cursor
    assert broadcaster.get_channels() == []


def test_channel_may_look_like_html_if_html_is_sent_to_it(broadcaster):
    broadcaster("<room>", "<p id=a>")
    broadcaster("<room>", mark_safe("<p id=b>"))
    assert [event.elements for event in sent(broadcaster, "<room>")] == ["<p id=a>", "<p id=b>"]


@override_settings(DS_BROADCASTER_MAX_EVENT_BYTES=500)
def test_event_that_is_too_large_is_refused_with_both_sizes(broadcaster):
    calls = [
        lambda: broadcaster("room", "é" * 250),
        lambda: broadcaster.signals("room", {"a": "x" * 500}),
        lambda: asyncio.run(broadcaster.aelements("room", "é" * 250)),
    ]
    for call in calls:
        with pytest.raises(EventTooLarge, match=r"The event takes 5.. bytes .* allows 500") as caught:
            call()
        assert caught.value.limit == 500 < caught.value.size < 600
    assert sent(broadcaster) == []


# From wherever


def test_sending_needs_no_loop_no_client_and_no_hub(broadcaster):
    broadcaster("room", "<p id=a>")
    broadcaster.kill("empty")
    broadcaster.disconnect("empty", 1)
    assert broadcaster.get_users("empty") == []
    assert broadcaster.get_channels() == []
    assert broadcaster.hubs() == []


@pytest.mark.parametrize("kind", ["driven", "task", "plain"])
def test_threads_reach_the_clients_of_the_loop_in_one_order(world, kind):
    clients = [world.client(kind=kind) for _ in range(2)]

    def send(name):
        for number in range(50):
            world.broadcast("room", f"<p id={name}-{number}>")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, "abcd"))
    world.settle()
    assert clients[0].texts == clients[1].texts
    for name in "abcd":
        own = [text for text in clients[0].texts if text.startswith(f"<p id={name}")]
        assert own == [f"<p id={name}-{number}>" for number in range(50)]


def test_thread_wakes_a_loop_that_sleeps(world):
    client = world.client()
    arrived = asyncio.Event()
    take = client.take
    client.take = lambda message: (take(message), arrived.set())

    async def wait_for_it():
        thread = threading.Thread(target=world.broadcast, args=("room", "<p id=a>"))
        thread.start()
        await arrived.wait()
        thread.join()

    world.loop.run_until_complete(asyncio.wait_for(wait_for_it(), 5))
    assert client.texts == ["<p id=a>"]


@pytest.mark.django_db(transaction=True)
def test_on_commit_sends_after_the_commit_and_not_after_a_rollback(world):
    client = world.client()
    with transaction.atomic():
        group = Group.objects.create(name="g")
        transaction.on_commit(lambda: world.broadcast("room", f"<p id={group.pk}>"))
        world.settle()
        assert client.texts == []
    with transaction.atomic():
        transaction.on_commit(partial(world.broadcast, "room", "<p id=never>"))
        transaction.set_rollback(True)
    world.settle()
    assert client.texts == [f"<p id={group.pk}>"]


def test_first_uses_at_once_make_one_broker(broadcaster):
    ready = threading.Barrier(8)

    def cursor(_):
        ready.wait()
        return broadcaster.cursor()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(cursor, range(8)))) == 1


def test_streams_of_two_loops_hear_the_same(world):
    """As in a test suite, or a script, that runs one loop after the other."""
    client = world.client(user_id=1)
    first = world.hub
    client.vanish()
    world.advance(5)

    async def stream():
        response = world.broadcast.connect("room", make_request(make_scope(), 2))
        parts = aiter(response)
        opening = await anext(parts)
        world.broadcast("room", "<p id=a>")
        part = await anext(parts)
        await parts.aclose()
        return opening + part

    loop = asyncio.new_event_loop()
    try:
        frames = list(SSEParser().feed(loop.run_until_complete(stream())))
        assert frames[-1].elements == "<p id=a>"
        assert len(world.broadcast.hubs()) == 2
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    world.client(user_id=3)
    world.broadcast("room", "<p id=b>")
    world.settle()
    assert first in world.broadcast.hubs()
    assert world.broadcast.get_users("room").count(3) == 1


def test_server_that_stopped_does_not_stop_the_next_one_in_the_process(world):
    world.client()
    world.hub.shutdown()
    world.settle()
    world.loop.close_down()
    assert not world.broadcast._engine.hubs.is_closing()
    response = world.broadcast.connect("room", make_request(make_scope(), 1))
    assert response.status_code == 200


# Channels


def test_channel_is_there_from_the_first_connection_to_the_last(world):
    assert world.broadcast.get_channels() == []
    tabs = [world.client("room", 1), world.client("room", 1), world.client("hall", 2)]
    assert world.broadcast.get_channels() == ["room", "hall"]
    assert world.broadcast.get_users("room") == [1, 1]
    tabs[0].vanish()
    world.settle()
    assert world.broadcast.get_users("room") == [1]
    tabs[1].vanish()
    world.settle()
    assert world.broadcast.get_channels() == ["hall"]
    assert world.broadcast.get_users("room") == []


def test_sending_makes_no_channel(world):
    world.client("hall")
    world.broadcast("room", "<p id=a>")
    world.settle()
    assert world.broadcast.get_channels() == ["hall"]


def test_new_makes_a_channel_that_goes_with_its_last_connection(world):
    world.broadcast.new("room")
    world.broadcast.new("room")
    assert world.broadcast.get_channels() == ["room"]
    client = world.client("room")
    assert world.broadcast.get_channels() == ["room"]
    client.vanish()
    world.settle()
    assert world.broadcast.get_channels() == []


def test_new_without_a_callback_keeps_the_one_that_there_is(world):
    world.broadcast.new("room", lambda channel, users: {"online": users})
    world.broadcast.new("room")
    assert [json.loads(text) for text in world.client("room", 1).signals] == [{"online": [1]}]


def test_kill_ends_an_empty_channel(world):
    world.broadcast.new("room", lambda channel, users: {"online": users})
    world.broadcast.kill("room")
    world.broadcast.kill("room")
    assert world.broadcast.get_channels() == []
    assert world.client("room", 1).signals == []


def test_async_twins_do_what_the_verbs_do(world):
    async def run():
        await world.broadcast.anew("hall")
        await world.broadcast.asignals("room", {"a": 1})
        facts = (
            await world.broadcast.aget_channels(),
            await world.broadcast.aget_users("room"),
            await world.broadcast.acursor(),
        )
        await world.broadcast.adisconnect("room", 1)
        await world.broadcast.akill("hall")
        return facts

    gone, stays = world.client("room", 1), world.client("room", 2)
    channels, users, cursor = world.loop.run_until_complete(run())
    world.settle()
    assert channels == ["room", "hall"]
    assert users == [1, 2]
    assert cursor == f"{world.broker.epoch}-1"
    assert (gone.end, stays.end) == ("clean", None)
    assert stays.signals == ['{"a":1}']
    assert world.broadcast.get_channels() == ["room"]


# User ids


def test_disconnect_takes_an_id_its_text_or_the_user(world):
    for user_id in (7, "7", get_user_model()(pk=7)):
        client, other = world.client(user_id=7), world.client(user_id=77)
        world.broadcast.disconnect("room", user_id)
        world.settle()
        assert (client.end, other.end) == ("clean", None)


@pytest.mark.parametrize("user_id", [None, "ada", "", object(), get_user_model()()])
def test_disconnect_without_a_user_is_refused(world, user_id):
    anonymous = world.client()
    with pytest.raises((ValueError, TypeError), match=r"^user_id must be a primary key of User"):
        world.broadcast.disconnect("room", user_id)
    world.settle()
    assert anonymous.end is None


@pytest.mark.parametrize(
    "call",
    [
        lambda b, user: b.disconnect("room", user),
        lambda b, user: b.recheck("room", user),
        lambda b, user: asyncio.run(b.adisconnect("room", user)),
        lambda b, user: asyncio.run(b.arecheck(user_id=user)),
    ],
)
def test_instance_of_another_model_is_no_user(world, call):
    client = world.client(user_id=7)
    told = r"^user_id must be a User or its primary key, not the Group .*: write for example user_id=group\.user_id\.$"
    with pytest.raises(TypeError, match=told):
        call(world.broadcast, Group(pk=7, name="seven"))
    world.settle()
    assert client.end is None


@isolate_apps("tests.chat")
def test_users_are_users_whatever_their_class(world):
    class Member(get_user_model()):
        class Meta:
            app_label = "chat"
            proxy = True

    class TokenUser:
        pk = 7

    for user in (Member(pk=7), SimpleLazyObject(lambda: get_user_model()(pk=7)), TokenUser()):
        client = world.client(user_id=7)
        world.broadcast.disconnect("room", user)
        world.settle()
        assert client.end == "clean"


@pytest.mark.parametrize(
    "field, user_id, given",
    [
        (models.UUIDField(), uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (models.CharField(), "ada", "ada"),
        (models.BigAutoField(primary_key=True), 7, "7"),
    ],
)
def test_user_ids_are_of_the_user_models_type(world, monkeypatch, field, user_id, given):
    user_model = SimpleNamespace(_meta=SimpleNamespace(pk=field), __name__="User")
    monkeypatch.setattr("ds_broadcaster.streams.requests.get_user_model", lambda: user_model)
    client = world.client(user_id=user_id)
    assert world.broadcast.get_users("room") == [user_id]
    assert type(world.broadcast.get_users("room")[0]) is type(user_id)
    world.broadcast.disconnect("room", given)
    world.settle()
    assert client.end == "clean"


# connect()


def test_connect_under_wsgi_says_what_to_do(broadcaster):
    request = RequestFactory().get("/")
    with pytest.raises(ImproperlyConfigured, match=r"needs an ASGI server.*uvicorn yourproject\.asgi:application"):
        broadcaster.connect("room", request)
    with pytest.raises(ImproperlyConfigured, match="needs an ASGI server"):
        asyncio.run(broadcaster.aconnect("room", request))


def test_response_is_an_event_stream_that_no_middleware_holds_back(broadcaster):
    response = broadcaster.connect("room", make_request(make_scope(), 1))
    assert response.status_code == 200
    assert response.streaming
    assert response.is_async
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-cache, no-store"
    assert response["X-Accel-Buffering"] == "no"
    assert response["Content-Encoding"] == "identity"
    assert broadcaster.get_users("room") == []


@pytest.mark.django_db  # Django looks at its connections when a response is closed.
def test_granted_stream_that_never_starts_leaves_nothing(world):
    world.broadcast.connect("room", make_request(make_scope(), 1)).close()
    request = make_request({**make_scope(), SCOPE_KEY: {}}, 1)
    world.broadcast.connect("room", request).close()
    assert world.broadcast.get_channels() == []
    assert world.broadcast.hubs() == []


@pytest.mark.parametrize("handoff", [True, False])
def test_head_request_gets_the_headers_and_no_stream(broadcaster, handoff):
    scope = make_scope(method="HEAD")
    if handoff:
        scope[SCOPE_KEY] = {}
    response = broadcaster.connect("room", make_request(scope, 1))
    assert response["Content-Type"] == "text/event-stream"

    async def read():
        return [part async for part in response]

    assert asyncio.run(read()) == []
    assert not scope.get(SCOPE_KEY)


async def acallback(channel, users):
    return ""


class AsyncCallable:
    async def __call__(self, channel, users):
        return ""


@pytest.mark.parametrize("argument", ["presence_callback", "snapshot_callback"])
@pytest.mark.parametrize("callback", [acallback, AsyncCallable(), partial(acallback, "room")])
def test_async_callback_is_refused(broadcaster, argument, callback):
    request = make_request(make_scope(), 1)
    with pytest.raises(TypeError, match=f"^{argument} must be a plain function: write `def`, not `async def`"):
        broadcaster.connect("room", request, **{argument: callback})
    with pytest.raises(TypeError, match=f"^{argument} must be a function, not str"):
        broadcaster.connect("room", request, **{argument: "callback"})


@pytest.mark.parametrize(
    "channel, error", [([], ValueError), ("a\nb", ValueError), (["a", ""], ValueError), (None, TypeError)]
)
def test_connect_refuses_channels_that_are_none(broadcaster, channel, error):
    with pytest.raises(error, match=r"^channel must"):
        broadcaster.connect(channel, make_request(make_scope(), 1))


def test_request_without_a_user_is_anonymous(world):
    request = AsyncRequestFactory().get("/")
    assert user_id_of(request) is None
    response = world.broadcast.connect("room", request)
    assert response.status_code == 200


@pytest.mark.django_db(transaction=True)
def test_connect_in_an_async_view_with_a_lazy_user_says_what_to_write(broadcaster):
    from django.contrib.auth.middleware import AuthenticationMiddleware
    from django.contrib.sessions.backends.db import SessionStore

    user = get_user_model().objects.create_user("ada")
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session["_auth_user_hash"] = user.get_session_auth_hash()
    session.save()

    async def view():
        request = AsyncRequestFactory().get("/")
        request.session = SessionStore(session.session_key)
        AuthenticationMiddleware(lambda request: None).process_request(request)
        with pytest.raises(RuntimeError, match=r"write `await broadcast\.aconnect\(\.\.\.\)`"):
            broadcaster.connect("room", request)
        return await broadcaster.aconnect("room", request)

    response = asyncio.run(view())
    assert response.status_code == 200


def test_snapshot_that_fails_is_the_views_error(broadcaster):
    def snapshot(request, channel):
        raise LookupError("no such room")

    request = make_request(make_scope("another-1"), 1)
    with pytest.raises(LookupError):
        broadcaster.connect("room", request, snapshot_callback=snapshot)
    with pytest.raises(LookupError):
        asyncio.run(broadcaster.aconnect("room", request, snapshot_callback=snapshot))


def test_snapshot_is_rendered_for_the_channels_that_miss_something(world):
    asked = []

    def snapshot(request, channel):
        asked.append(channel)
        return f"<p id=snapshot-{channel}>"

    world.broadcast("quiet", "<p id=quiet>")
    cursor = f"{world.broker.epoch}-0"
    for number in range(150):
        world.broadcast("busy", f"<p id=busy-{number}>")
    client = world.client(["quiet", "busy"], cursor=cursor, snapshot_callback=snapshot)
    assert asked == ["busy"]
    assert client.told_of_gap
    assert client.texts == ["<p id=snapshot-busy>", "<p id=quiet>"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_waits_for_no_thread_of_its_parent():
    broadcaster = Broadcaster()
    is_held, done = threading.Event(), threading.Event()

    def hold():
        with broadcaster._engine._lock:
            is_held.set()
            done.wait(10)

    holding = threading.Thread(target=hold)
    holding.start()
    is_held.wait(10)
    child = os.fork()
    if not child:
        os._exit(not broadcaster._engine._lock.acquire(timeout=2))
    done.set()
    holding.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_recheck_renders_no_snapshot(broadcaster):
    """It goes nowhere, and may be what costs most."""
    rendered = []

    def snapshot(request, channel):
        rendered.append(channel)

    for connect in (broadcaster.connect, lambda *args, **named: asyncio.run(broadcaster.aconnect(*args, **named))):
        for is_recheck in (False, True):
            request = make_request(make_scope("another-1") | ({RECHECK_KEY: []} if is_recheck else {}))
            connect("room", request, snapshot_callback=snapshot)
    assert rendered == ["room", "room"]


def test_hub_of_a_closed_loop_is_let_go_of(broadcaster):
    for _ in range(3):
        loop = asyncio.new_event_loop()
        stream = broadcaster.connect("room", make_request(make_scope())).stream

        async def open_and_leave(stream=stream):
            async with aclosing(stream.body(release=release_nothing)) as parts:
                await anext(parts)

        loop.run_until_complete(open_and_leave())
        loop.close()
    assert len(broadcaster.hubs()) == 1
