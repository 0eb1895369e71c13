"""Channel views: permission and refusals, signals from clients, snapshots and presence."""

import asyncio
import copy
import itertools
import json
import re
import time
from http.client import IncompleteRead, RemoteDisconnected
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlencode

import pytest
import redis
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.core.asgi import get_asgi_application as get_django_application
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db.utils import OperationalError
from django.http import HttpResponse
from django.test import AsyncRequestFactory, Client, override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_broadcaster import BroadcastChannelView, BrokerUnavailable, broadcast
from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link
from ds_broadcaster.observers import Observer
from ds_broadcaster.streams.replayed_requests import is_trouble
from ds_broadcaster.streams.responses import broker_is_away, no_room
from ds_broadcaster.streams.scope import RECHECK_KEY, SCOPE_KEY
from ds_broadcaster.views import channel_view
from ds_broadcaster.views.routes import ChannelViewType, routes
from tests.fakes import FACTOR
from tests.live import begun, each_mode_of, until

SITE = "tests.project.channel_site"
LOGIN_MIDDLEWARE = "django.contrib.auth.middleware.LoginRequiredMiddleware"
QUICK = {"DS_BROADCASTER_PRESENCE_GRACE": 0.05, "DS_BROADCASTER_PRESENCE_INTERVAL": 0.02}

# In process; a stream that was left is gone at once.
ITS_SETTINGS = {"ROOT_URLCONF": SITE, "DS_BROADCASTER_PRESENCE_GRACE": 0, "DS_BROADCASTER_PRESENCE_INTERVAL": 0.02}

live = each_mode_of(settings={"ROOT_URLCONF": SITE, **QUICK})
locked = each_mode_of(settings={"ROOT_URLCONF": SITE, "MIDDLEWARE": [*django_settings.MIDDLEWARE, LOGIN_MIDDLEWARE]})

needs_orm = pytest.mark.django_db(transaction=True)

DATASTAR = {"Datastar-Request": "true", "Accept": "text/event-stream, text/html, application/json"}
RETURNING = {**DATASTAR, "last-event-id": "abc-1"}


# Asking in process


class Answer:
    """The answer to a request; `stream` is true if a stream really began, and `channels` are its channels."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.body = b""
        self.stream = False
        self.channels = []

    @property
    def text(self):
        return self.body.decode()


class Site:
    """The example views behind a real ASGI application, on a loop of its own, without a database."""

    def __init__(self, handoff, middleware=()):
        self.runner = asyncio.Runner()
        self.settings = {**ITS_SETTINGS, "MIDDLEWARE": [f"{SITE}.user_of_header", *middleware]}
        with override_settings(**self.settings):
            django = get_django_application()
        self.application = HandoffApplication(django, find_link=lambda send: Link()) if handoff else django

    def ask(self, path, method="GET", user=None, scope=None, query=None, until="", **headers):
        """Send a request, and leave as soon as a stream has brought the text `until`; `path` follows /events/."""
        headers = {"Host": "testserver", **headers, **({"x-user": user} if user else {})}
        path, _, text = path.partition("?")
        sent = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": f"/events/{path}",
            "raw_path": quote(f"/events/{path}", errors="replace").encode(),
            "query_string": (urlencode(query) if query else text).encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            **(scope or {}),
        }
        with override_settings(**self.settings):
            return self.runner.run(self._ask(sent, until.encode()))

    async def _ask(self, scope, until):
        answer, gone, received = Answer(), asyncio.Event(), []

        async def receive():
            if not received:
                received.append(True)
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
                return
            answer.body += message.get("body", b"")
            if answer.headers.get("content-type") == "text/event-stream" and message.get("body"):
                answer.stream = True
                answer.channels = broadcast.get_channels()
                if until in answer.body:
                    gone.set()

        await asyncio.wait_for(self.application(scope, receive, send), 10)
        return answer

    def wait(self, condition):
        """Let the server run until the condition is true."""
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            self.runner.run(asyncio.sleep(0.001))

    def close(self):
        self.runner.close()


def opened_site(mode, *middleware):
    broadcast._forget()
    site = Site(mode == "handoff", middleware)
    yield site
    site.close()
    broadcast._forget()


@pytest.fixture(scope="module", params=["handoff", "plain"])
def site(request):
    yield from opened_site(request.param)


@pytest.fixture(scope="module", params=["handoff", "plain"])
def locked_site(request):
    yield from opened_site(request.param, LOGIN_MIDDLEWARE)


@pytest.fixture(scope="module", params=["handoff", "plain"])
def site_with_middleware(request):
    yield from opened_site(request.param, "ds_broadcaster.middleware.BroadcasterMiddleware")


@pytest.fixture(params=[False, True], ids=["production", "debug"])
def debug(request, settings):
    settings.DEBUG = request.param


def view_of(cls, request=None, **kwargs):
    """Return an instance as as_view() makes it."""
    view = cls()
    view.setup(request or AsyncRequestFactory().get("/"), **kwargs)
    return view


class Stricter(LoginRequiredMiddleware):
    pass


def define(name, *bases, **attributes):
    return ChannelViewType(name, bases or (BroadcastChannelView,), attributes)


@pytest.fixture
def served():
    """Define channel views that have a URL until the test ends."""
    places = []

    def make(name, **attributes):
        view = define(name, **attributes)
        places.append(f"{view.__module__}.{view.__qualname__}")
        return view

    yield make
    for each in places:
        routes.remove(each)


def call(view, request=None, **headers):
    """Call a view function as an ASGI handler does; the default user is logged in."""
    request = request or AsyncRequestFactory().get("/", headers=headers)
    if not hasattr(request, "user"):
        request.user = get_user_model()(pk=7, username="ann")
    return view(request)


# Permission


def test_by_default_a_stream_needs_a_login(site, debug):
    assert site.ask("any/a/b/").status == 403
    answer = site.ask("any/a/b/", user="ann")
    assert (answer.status, answer.stream, answer.channels) == (200, True, ["a", "b"])


def test_a_request_without_a_user_has_no_permission():
    request = AsyncRequestFactory().get("/")
    assert not view_of(BroadcastChannelView, request).has_permission()
    request.user = AnonymousUser()
    assert not view_of(BroadcastChannelView, request).has_permission()
    request.user = get_user_model()(pk=1)
    assert view_of(BroadcastChannelView, request).has_permission()


@pytest.mark.parametrize("compression, encoding", [(True, "gzip"), (False, "identity")])
def test_channel_says_whether_its_streams_are_compressed(site, monkeypatch, compression, encoding):
    from tests.project.channel_site import OpenChannel

    monkeypatch.setattr(OpenChannel, "compression", compression)
    answer = site.ask("open/room/", **DATASTAR, **{"Accept-Encoding": "gzip"})
    assert answer.headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("answer, status", [("no", 403), ("denied", 403), ("missing", 404)])
def test_a_refusal_has_its_status_and_stops_a_client_that_returns(site, debug, answer, status):
    path = f"open/room/?answer={answer}"
    for headers, expected in (({}, status), (DATASTAR, status), (RETURNING, 204), ({"last-event-id": ""}, 204)):
        found = site.ask(path, **headers)
        assert (found.status, found.stream) == (expected, False)
        # In the address bar the project's own page appears.
        assert (found.body == b"") == (headers != {})
    assert site.ask("open/room/", **RETURNING).stream


def test_a_recheck_is_refused_as_a_client_that_returns(site):
    assert site.ask("open/room/?answer=no", scope={RECHECK_KEY: True}).status == 204


@pytest.mark.parametrize("path", ["with-login/", "with-test/", "with-permission/", "decorated/", "async/"])
def test_mixins_and_decorators_of_django_refuse_without_a_redirect_to_datastar(site, debug, path):
    found = site.ask(path)
    assert (found.status, found.headers["location"]) == (302, f"/login/nobody/?next=/events/{path}")
    for headers, status in ((DATASTAR, 403), (RETURNING, 204)):
        found = site.ask(path, **headers)
        assert (found.status, found.stream, found.body) == (status, False, b"")
        assert "location" not in found.headers


@pytest.mark.parametrize(
    "path, channel", [("with-login/", "with-login"), ("decorated/", "decorated"), ("async/", "async")]
)
def test_mixins_and_decorators_of_django_accept_a_user(site, path, channel):
    found = site.ask(path, user="ann", **DATASTAR)
    assert (found.status, found.stream, found.channels) == (200, True, [channel])


@needs_orm
def test_mixins_for_staff_and_permissions_accept_their_users_alone():
    users = {name: get_user_model().objects.create(username=name) for name in ("ann", "bob", "eve")}
    users["ann"].user_permissions.add(Permission.objects.get(codename="change_group"))
    get_user_model().objects.filter(username="bob").update(is_staff=True)
    with override_settings(ROOT_URLCONF=SITE):
        for name, expected in {"ann": (403, 500), "bob": (500, 403), "eve": (403, 403)}.items():
            client = Client(raise_request_exception=False)
            client.force_login(users[name])
            # The test client speaks WSGI, so a permitted stream fails with 500.
            found = [
                client.get(f"/events/{path}/", headers=DATASTAR).status_code
                for path in ("with-test", "with-permission")
            ]
            assert tuple(found) == expected, name


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400, 429, 503])
def test_a_response_that_refuses_stops_a_client_that_returns(status):
    view = define("AnsweringView", get=lambda self, request: HttpResponse("no", status=status)).as_view()
    is_final = status in (401, 403, 404, 410)
    assert call(view).content == b"no"
    for headers, expected in (({}, status), (DATASTAR, status), (RETURNING, 204 if is_final else status)):
        assert call(view, **headers).status_code == expected


def test_the_login_middleware_refuses_datastar_without_a_redirect(locked_site, debug):
    for path in ("open/room/", "words/a/", "any/a/b/", "async/"):
        for headers, status in ((DATASTAR, 403), (RETURNING, 204)):
            found = locked_site.ask(path, **headers)
            assert (found.status, found.stream, found.headers.get("location")) == (status, False, None)
        assert not locked_site.ask(path).stream
        assert locked_site.ask(path, method="OPTIONS").status == 403
        assert locked_site.ask(path, user="ann", **DATASTAR).stream


def test_a_view_decorated_as_public_is_public_despite_the_login_middleware(locked_site):
    found = locked_site.ask("public/", **DATASTAR)
    assert (found.status, found.stream) == (200, True)
    assert "no-cache" in found.headers["cache-control"]


def test_login_not_required_decorates_the_view_function_too(settings):
    settings.MIDDLEWARE = [f"{SITE}.user_of_header", LOGIN_MIDDLEWARE]
    cls = define("OpenView", channel_name=lambda self: "x", has_permission=lambda self: True)
    for view, status in ((cls.as_view(), 403), (login_not_required(cls.as_view()), 200)):
        request = AsyncRequestFactory().get("/", headers=DATASTAR)
        request.user = AnonymousUser()
        assert LoginRequiredMiddleware(lambda request: None).process_view(request, view, (), {}) is None
        assert view(request).status_code == status


def test_a_subclass_of_the_login_middleware_counts_and_a_function_does_not(settings):
    view = define("OpenView", channel_name=lambda self: "x", has_permission=lambda self: True).as_view()
    request = AsyncRequestFactory().get("/", headers=DATASTAR)
    settings.MIDDLEWARE = [f"{SITE}.user_of_header"]
    assert view(request).status_code == 200
    settings.MIDDLEWARE = [f"{SITE}.user_of_header", f"{__name__}.Stricter"]
    assert view(request).status_code == 403
    request.user = AnonymousUser()
    assert view(request).status_code == 403
    request.user = get_user_model()(pk=1)
    assert view(request).status_code == 200


@pytest.mark.parametrize(
    "answer, hint",
    [
        ("coroutine", "write `def`, not `async def`"),
        ("generator", "and call what you return"),
        ("method", "and call what you return"),
        ("response", "return False, or raise PermissionDenied"),
        ("refusal", "return False, or raise PermissionDenied"),
        ("object", r"bool\(...\), or the exists\(\) of a query"),
        ("query", r"bool\(...\), or the exists\(\) of a query"),
        ("zero", r"bool\(...\), or the exists\(\) of a query"),
    ],
)
def test_permission_that_is_neither_true_nor_false_is_an_error(site, answer, hint, rf):
    """Most of them are true, a refusal too."""
    from tests.project.channel_site import OddChannel

    told = rf"^OddChannel.has_permission\(\) must return True or False, not .*: .*{hint}"
    with pytest.raises(ImproperlyConfigured, match=told):
        OddChannel.as_view()(rf.get("/"), name="odd", answer=answer)
    assert site.ask(f"../odd/{answer}/").status == 404


def said(caplog):
    return [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "ds_broadcaster"]


@pytest.mark.parametrize("headers", [{}, DATASTAR, RETURNING])
def test_permission_without_a_return_is_a_refusal_that_the_log_explains(site, served, headers, caplog):
    served("ForgetfulChannel", url_path="forgetful/", has_permission=lambda self: None)
    for _ in range(2):
        assert site.ask("forgetful/", user="ann", **headers).status == (204 if headers is RETURNING else 403)
    told = (
        "ForgetfulChannel.has_permission() returned None, which refuses every user: write `return` before its result. "
        "Asked for '/events/forgetful/'; this is logged once."
    )
    assert said(caplog) == [("ERROR", told)]


def test_observers_are_told_of_a_refusal_that_is_in_the_log_already(monkeypatch):
    told = []

    class Noting(Observer):
        def refused(self, *what):
            told.append(what)

    monkeypatch.setattr(channel_view, "observers", [Noting()])
    view = define("SilentView", has_permission=lambda self: None).as_view()
    for _ in range(2):
        assert call(view, **DATASTAR).status_code == 403
    why = "has_permission() returned None, which refuses every user: write `return` before its result"
    assert told == [("SilentView", "/", why)] * 2


def test_permission_that_is_async_is_named_in_the_log_once(rf, caplog):
    async def has_permission(self):
        return True

    view = define("EagerView", has_permission=has_permission).as_view()
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured):
            view(rf.get("/rooms/"))
    ((level, text),) = said(caplog)
    assert level == "ERROR"
    assert text.startswith("EagerView.has_permission() must return True or False, not <coroutine object")
    assert "write `def`, not `async def`" in text
    assert text.endswith("Asked for '/rooms/'; this is logged once.")


REASONS = {
    "any/a/b/": "has_permission() returned False for an anonymous user",
    "open/room/?answer=denied": "PermissionDenied()",
    "open/room/?answer=missing": "Http404()",
    "words/a%0Ab/": 'Http404("channel_name() returned what names no channel: channel must not hold a line break',
    "careful/": "has_permission() failed for an anonymous user: AttributeError(",
    "with-login/": "the view answered with 302",
}


@pytest.mark.parametrize("headers", [DATASTAR, RETURNING])
@pytest.mark.parametrize("path", REASONS)
def test_refused_stream_is_explained_in_the_log(site, served, path, headers, caplog):
    caplog.set_level("INFO", "ds_broadcaster")
    served("CarefulChannel", url_path="careful/", has_permission=lambda self: self.request.user.boss)
    assert site.ask(unquote(path), **headers).status in (204, 403, 404)
    ((level, text),) = said(caplog)
    assert level == "INFO"
    assert re.match(rf"\w+Channel refused the stream at '/events/{path[:4]}", text)
    assert REASONS[path] in text
    assert "\n" not in text


@pytest.mark.parametrize("headers", [DATASTAR, RETURNING])
@pytest.mark.parametrize("path", REASONS)
def test_refused_stream_is_explained_to_the_browser_with_debug_alone(site, served, settings, path, headers):
    served("CarefulChannel", url_path="careful/", has_permission=lambda self: self.request.user.boss)
    assert "broadcast-refused" not in site.ask(unquote(path), **headers).headers
    settings.DEBUG = True
    why = unquote(site.ask(unquote(path), **headers).headers["broadcast-refused"])
    assert re.match(rf"\w+Channel: {re.escape(REASONS[path])}", why)
    if path == "with-login/":
        assert "a redirect to /login/nobody/?next=/events/with-login/" in why
    assert "broadcast-refused" not in site.ask("open/room/", user="ann", **headers).headers


def test_reason_of_a_forgotten_return_and_of_bad_signals(site, served, settings):
    settings.DEBUG = True
    served("ForgottenChannel", url_path="forgotten/", has_permission=lambda self: None)
    why = unquote(site.ask("forgotten/", **DATASTAR).headers["broadcast-refused"])
    assert why.startswith("ForgottenChannel: has_permission() returned None")
    found = site.ask("search/", user="ann", query={"datastar": "{"}, **DATASTAR)
    assert (found.status, unquote(found.headers["broadcast-refused"])) == (400, found.body.decode())


def test_user_who_is_refused_is_named_in_the_log(site, served, caplog):
    caplog.set_level("INFO", "ds_broadcaster")
    served("NoChannel", url_path="no/", has_permission=lambda self: False)
    assert site.ask("no/", user="ann").status == 403
    text = "NoChannel refused the stream at '/events/no/': has_permission() returned False for user 7"
    assert said(caplog) == [("INFO", text)]


UNCACHED = {
    "any/a/b/": (403, "no-store"),
    "open/room/?answer=missing": (404, "no-store"),
    "words/a%0Ab/": (404, "no-store"),
    "with-login/": (403, "no-store"),
    "open/room/": (200, "no-cache, no-store"),
    "search/?datastar={": (400, "no-store"),
}


@pytest.mark.parametrize("path", UNCACHED)
def test_no_answer_is_stored(site, path):
    """A cache would give a refusal to those who are let in later."""
    status, expected = UNCACHED[path]
    found = site.ask(unquote(path), user="ann" if status == 400 else None, **DATASTAR)
    assert (found.status, found.headers["cache-control"]) == (status, expected)
    if status in (403, 404):
        found = site.ask(unquote(path), **RETURNING)
        assert (found.status, found.headers["cache-control"]) == (204, "no-store")
    for method in ("POST", "OPTIONS"):
        assert site.ask("open/room/", method=method).headers["cache-control"] == "no-store"


def test_no_page_of_a_refusal_is_stored(site_with_middleware):
    for path, status in (("any/a/b/", 403), ("open/room/?answer=missing", 404), ("with-login/", 302)):
        found = site_with_middleware.ask(path)
        assert (found.status, found.headers["cache-control"]) == (status, "no-store")
    assert "cache-control" not in site_with_middleware.ask("no-such-page/").headers


def test_answer_for_later_is_not_stored():
    stopping = SimpleNamespace(is_closing=lambda: True)
    for answer in (no_room(None, None, stopping), broker_is_away(("room",), BrokerUnavailable("away"))):
        assert (answer.status_code, answer["Retry-After"], answer["Cache-Control"]) == (503, "1", "no-store")


# A stream for which no permission was asked


def stranger(**attributes):
    """Define a view that lets nobody in, and is overridden by these."""
    attributes = {"channel_name": lambda self: "room", "has_permission": lambda self: False} | attributes
    return define("StrangeView", **attributes)


def any_stream(self, request, *args, **kwargs):
    return broadcast.connect("room", request)


async def awaited_stream(self, request, *args, **kwargs):
    return await broadcast.aconnect("room", request)


def stream_of_another_view(self, request, *args, **kwargs):
    other = define("OtherView", channel_name=lambda self: "room", has_permission=lambda self: True)
    return other.as_view()(request)


@pytest.mark.parametrize("headers", [{}, DATASTAR, RETURNING])
@pytest.mark.parametrize("answer", [any_stream, awaited_stream, stream_of_another_view])
def test_dispatch_that_asks_for_no_permission_hands_out_no_stream(answer, headers):
    told = r"StrangeView answered with a stream, and its has_permission\(\) was not asked: return super\(\).dispatch"
    with pytest.raises(ImproperlyConfigured, match=told):
        call(stranger(dispatch=answer).as_view(), **headers)


def test_options_hands_out_no_stream():
    request = AsyncRequestFactory().options("/")
    with pytest.raises(ImproperlyConfigured, match="was not asked"):
        call(stranger(options=any_stream).as_view(), request)


def test_stream_without_permission_reaches_no_client(site, served):
    served("SlyChannel", url_path="sly/", channel_name=lambda self: "room", dispatch=any_stream)
    found = site.ask("sly/")
    assert (found.status, found.stream, found.headers["content-type"][:9]) == (500, False, "text/html")


@pytest.mark.parametrize("answer", [any_stream, awaited_stream, stream_of_another_view])
def test_get_of_ones_own_opens_the_stream_of_a_permitted_client_alone(answer):
    assert call(stranger(get=answer, has_permission=lambda self: True).as_view(), **DATASTAR).status_code == 200
    assert call(stranger(get=answer).as_view(), **DATASTAR).status_code == 403


def test_an_async_has_permission_is_an_error(rf):
    async def has_permission(self):
        return True

    view = define("WaitingView", has_permission=has_permission).as_view()
    with pytest.raises(ImproperlyConfigured, match=r"WaitingView\.has_permission"):
        view(rf.get("/"))


def error_of(package, *names):
    """Return an error of a library that need not be installed, with the names of its classes from the base on."""
    cls = Exception
    for name in names:
        cls = type(name, (cls,), {"__module__": f"{package}.exceptions"})
    return cls("away")


TROUBLES = [
    OperationalError("away"),
    TimeoutError(),
    RemoteDisconnected(),
    IncompleteRead(b""),
    redis.ConnectionError(),
    redis.sentinel.MasterNotFoundError(),
    error_of("django_redis", "ConnectionInterrupted"),
    error_of("httpx", "HTTPError", "TransportError", "ConnectTimeout"),
    error_of("urllib3", "HTTPError", "MaxRetryError"),
    error_of("aiohttp", "ClientError", "ClientPayloadError"),
]


def failing(error):
    def has_permission(self):
        raise error

    return define("TroubledView", has_permission=has_permission).as_view()


@pytest.mark.parametrize("user", [AnonymousUser(), None])
@pytest.mark.parametrize("error", TROUBLES, ids=repr)
def test_a_server_in_trouble_refuses_nobody(error, user, caplog):
    for headers in (DATASTAR, RETURNING):
        request = AsyncRequestFactory().get("/", headers=headers)
        if user is not None:
            request.user = user
        answer = call(failing(error), request)
        assert (answer.status_code, answer["Retry-After"]) == (503, "1")
        assert "TroubledView could not answer at '/'" in caplog.text
        assert caplog.records[-1].exc_info[1] is error
    with pytest.raises(type(error)):  # In the address bar, and in a re-check.
        call(failing(error))
    request = AsyncRequestFactory().get("/")
    request.scope[RECHECK_KEY] = []
    with pytest.raises(type(error)):
        call(failing(error), request)


@pytest.mark.parametrize("error", TROUBLES, ids=repr)
def test_trouble_keeps_a_stream_and_a_mistake_ends_it(error):
    assert is_trouble(error)
    for other in (PermissionError(), ValueError(), error_of("shop", "HTTPError"), error_of("redis", "Other"), None):
        assert not is_trouble(other)


@pytest.mark.parametrize("error", [ImproperlyConfigured("write this"), PermissionError()])
def test_a_mistake_is_no_trouble(error):
    with pytest.raises(type(error)):
        call(failing(error), **DATASTAR)


@pytest.mark.parametrize("headers", [{}, DATASTAR, RETURNING])
def test_a_mistake_in_has_permission_is_not_a_refusal_of_a_user(site, served, debug, headers):
    served("SlipChannel", url_path="slip/", has_permission=lambda self: self.request.usr.is_staff)
    assert site.ask("slip/", user="ann", **headers).status == 500
    assert site.ask("slip/", **headers).status == (204 if headers is RETURNING else 403)


def test_bad_signals_are_no_refusal_of_an_anonymous_user():
    request = AsyncRequestFactory().get("/?datastar={", headers=DATASTAR)
    request.user = AnonymousUser()
    view = define("AskingView", has_permission=lambda self: self.signals["key"] == "open sesame").as_view()
    assert view(request).status_code == 400


# Methods, channels and mistakes


def test_head_answers_the_headers_of_a_stream_and_opens_none(site):
    found = site.ask("open/room/", method="HEAD")
    assert (found.status, found.headers["content-type"], found.body) == (200, "text/event-stream", b"")
    assert not found.stream
    assert "x-ds-broadcaster-handoff" not in found.headers
    assert site.ask("open/room/?answer=no", method="HEAD").status == 403
    assert site.ask("any/a/b/", method="HEAD").status == 403


def test_options_lists_the_methods(site):
    for path in ("open/room/", "any/a/b/"):
        found = site.ask(path, method="OPTIONS")
        assert (found.status, found.headers["allow"], found.body) == (200, "GET, HEAD, OPTIONS", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "SUBSCRIBE"])
def test_other_methods_are_not_allowed(site, method):
    found = site.ask("open/room/", method=method)
    assert (found.status, found.headers["allow"], found.stream) == (405, "GET, HEAD, OPTIONS", False)


def test_a_view_without_a_channel_says_what_to_write(site):
    request = AsyncRequestFactory().get("/")
    request.user = get_user_model()(pk=1)
    view = define("Nameless").as_view()
    with pytest.raises(
        ImproperlyConfigured, match=r"Nameless must define channel_name\(\): return .*room-\{self.kwargs"
    ):
        view(request)
    assert site.ask("bare/").status == 404  # It is not under /events/.


def test_a_view_under_wsgi_says_that_it_needs_asgi(rf):
    view = define("OpenView", channel_name=lambda self: "x", has_permission=lambda self: True).as_view()
    with pytest.raises(ImproperlyConfigured, match="needs an ASGI server"):
        view(rf.get("/"))


@pytest.mark.parametrize("returned", [7, None, b"name", ["a", 7], object()])
def test_a_channel_of_a_wrong_type_is_the_views_mistake(returned):
    view = define("WrongView", channel_name=lambda self: returned).as_view()
    told = r"WrongView\.channel_name\(\) must return a channel.*: channel must be a string or a saved model instance"
    with pytest.raises(TypeError, match=told):
        call(view)


def test_an_async_channel_name_is_an_error():
    async def channel_name(self):
        return "x"

    with pytest.raises(TypeError, match=r"WrongView\.channel_name\(\) must .*, not coroutine"):
        call(define("WrongView", channel_name=channel_name).as_view())


@pytest.mark.parametrize("returned", ["", "a\nb", "a\rb", "a\0b", "\ud800", [], ["a", ""], ["a", "b\n"]])
def test_an_invalid_channel_name_is_not_found(returned):
    view = define("EmptyView", channel_name=lambda self: returned).as_view()
    assert call(view, **DATASTAR).status_code == 404
    assert call(view, **RETURNING).status_code == 204


@pytest.mark.parametrize("is_debug, level", [(True, "WARNING"), (False, "INFO")])
def test_a_possible_mistake_in_a_view_is_logged_louder_in_development(is_debug, level, settings, caplog):
    settings.DEBUG = is_debug
    caplog.set_level("INFO", "ds_broadcaster")
    call(define("UnsavedGroupView", channel_name=lambda self: Group()).as_view(), **DATASTAR)
    anonymous = AsyncRequestFactory().get("/")
    anonymous.user = AnonymousUser()
    slip = define("SlipView", has_permission=lambda self: self.request.usr.is_staff).as_view()
    with pytest.raises(PermissionDenied):
        call(slip, anonymous)
    found = [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "ds_broadcaster"]
    assert [each for each, _ in found] == [level, level]
    assert found[0][1].startswith("UnsavedGroupView refused the stream at '/': Http404('channel_name() returned")
    assert "save it before it names a channel" in found[0][1]
    assert "has_permission() failed for an anonymous user: AttributeError" in found[1][1]


def test_a_mistake_inside_channel_name_is_not_the_clients():
    view = define("WrongView", channel_name=lambda self: f"room-{int('x')}").as_view()
    with pytest.raises(ValueError, match="invalid literal"):
        call(view, **DATASTAR)


def test_a_model_instance_names_a_channel():
    view = define("GroupView", channel_name=lambda self: [Group(pk=7), "room"]).as_view()
    assert call(view).status_code == 200
    unsaved = define("UnsavedView", channel_name=lambda self: Group()).as_view()
    assert call(unsaved, **DATASTAR).status_code == 404


# Signals


def signals(**values):
    return {"datastar": json.dumps(values)}


def test_signals_are_typed_by_the_aliases_of_their_schema(site):
    found = site.ask("search/", user="ann", query=signals(searchFor="abc", page=3, more="x"), **DATASTAR)
    assert (found.status, found.channels) == (200, ["search-abc-3"])


def test_bad_signals_are_named_and_not_repeated(site, debug):
    for query, said in (
        (signals(searchFor="c7Pq9-too-long"), "Bad signals: searchFor."),
        (signals(query="c7Pq9"), "Bad signals: searchFor."),
        (signals(searchFor="abc", page="c7Pq9"), "Bad signals: page."),
        ({"datastar": "c7Pq9"}, "Bad signals: they are not JSON."),
        ({"datastar": '["c7Pq9"]'}, "Bad signals: they are not a JSON object."),
    ):
        found = site.ask("search/", user="ann", query=query, **DATASTAR)
        assert (found.status, found.text, found.stream) == (400, said, False)
        assert found.headers["content-type"] == "text/plain; charset=utf-8"


def test_signals_are_validated_even_if_no_method_reads_them():
    from tests.project.channel_site import Filter

    view = define("DeafView", signals_model=Filter, channel_name=lambda self: "deaf").as_view()
    for value, status in (("abc", 200), ("too long", 400)):
        request = AsyncRequestFactory().get("/", signals(searchFor=value), headers=DATASTAR)
        assert call(view, request).status_code == status


def test_a_refusal_does_not_name_the_signals(site):
    found = site.ask("search/", query=signals(page="x"), **DATASTAR)
    assert (found.status, found.body) == (403, b"")


def test_signals_without_a_model_are_refused_too(site):
    assert site.ask("said/", query={"datastar": "{"}, **DATASTAR).status == 400
    assert site.ask("said/", query=signals(name="room"), **DATASTAR).channels == ["room"]


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\ud800", "\udfff\ud800"])
def test_an_invalid_channel_name_from_a_signal_is_not_found(site, debug, name):
    found = site.ask("said/", query=signals(name=name), **DATASTAR)
    assert (found.status, found.stream) == (404, False)


@pytest.mark.parametrize("name", [None, 7, ["a", "b"], {"a": 1}])
def test_of_other_types_in_a_signal_only_a_list_names_channels(name):
    """A view without a model passes the signal on as it is."""
    from tests.project.channel_site import SaidChannel

    request = AsyncRequestFactory().get("/", signals(name=name), headers=DATASTAR)
    if isinstance(name, list):
        assert call(SaidChannel.as_view(), request).status_code == 200
    else:
        with pytest.raises(TypeError, match="channel must be a string"):
            call(SaidChannel.as_view(), request)


# Fuzzing: no 500, no stream without permission, no unexpected channel

# Servers decode a path as UTF-8: half a surrogate pair can only come in signals.
words = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["\0", "\r\n", "a\nb", "\u2028", "..", "%0a", "é\u0301"]
)


@given(word=words, path=st.sampled_from(["words/%s/", "paths/%s"]), datastar=st.booleans())
@settings(deadline=None, max_examples=150 * FACTOR)
def test_any_path(site, word, path, datastar):
    found = site.ask(path % word.replace("?", ""), **(DATASTAR if datastar else {}))
    assert found.status in (200, 404)
    assert found.stream == (found.status == 200)
    assert len(found.channels) == found.stream
    if found.stream:
        assert found.channels[0] in word.replace("?", "")


@given(
    text=st.text()
    | st.dictionaries(st.sampled_from(["name", "searchFor", "page"]), words | st.integers()).map(json.dumps)
)
@settings(deadline=None, max_examples=150 * FACTOR)
def test_any_signals(site, text):
    query = {"datastar": text.encode("utf-8", "replace")}
    found = site.ask("search/", query=query, user="ann", **DATASTAR)
    assert found.status in (200, 400, 404)
    assert found.stream == (found.status == 200)
    assert not found.stream or found.channels[0].startswith("search-")
    assert site.ask("search/", query=query, **DATASTAR).status == 403


@given(name=words | st.text(st.characters(categories=["Cs", "Cc", "Ll"]), max_size=3))
@settings(deadline=None, max_examples=100 * FACTOR)
def test_any_channel_name_from_a_signal(site, name):
    found = site.ask("said/", query=signals(name=name), **DATASTAR)
    assert found.status in (200, 404)
    # Two halves that meet are a character.
    assert found.channels == ([json.loads(json.dumps(name))] if found.stream else [])
    assert found.stream == (found.status == 200)


headers_of_a_client = st.fixed_dictionaries(
    {},
    optional={
        "Datastar-Request": st.sampled_from(["true", "", "x"]),
        "last-event-id": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
        | st.sampled_from(["abc-1", "0-99999999999999999999", "-", "a-b-c"]),
        "Accept": st.sampled_from(["text/event-stream", "*/*", "text/html"]),
        "Content-Type": st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain", "x"]),
    },
)
query_of_a_client = st.dictionaries(
    st.sampled_from(["cursor", "element", "datastar", "answer", "tab"]), st.text(max_size=10), max_size=3
)


@given(
    path=st.sampled_from(["any/a/b/", "with-login/", "decorated/", "async/", "search/", "years/2026/", "with-test/"]),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "DELETE", "BREW"]),
    headers=headers_of_a_client,
    query=query_of_a_client,
)
@settings(deadline=None, max_examples=150 * FACTOR)
def test_no_request_of_an_anonymous_user_opens_a_stream(site, path, method, headers, query):
    query = {name: value.encode("utf-8", "replace") for name, value in query.items()}
    found = site.ask(path, method=method, query=query, **headers)
    assert found.status in (200, 204, 302, 400, 403, 405)
    assert found.status != 200 or method == "OPTIONS"
    assert not found.stream
    assert found.status != 302 or not {"Datastar-Request", "last-event-id"} & set(headers)
    assert found.status != 204 or "last-event-id" in headers
    assert broadcast.get_channels() == []


@given(method=st.sampled_from(["GET", "HEAD"]), headers=headers_of_a_client, query=query_of_a_client)
@settings(deadline=None, max_examples=100 * FACTOR)
def test_no_header_or_query_keeps_a_permitted_stream_closed(site, method, headers, query):
    query = {name: value.encode("utf-8", "replace") for name, value in query.items() if name != "answer"}
    found = site.ask("open/room/", method=method, query=query, **headers)
    assert (found.status, found.stream) == (200, method == "GET")


# The class


def test_views_are_served_by_an_ordinary_urlconf(site, rf):
    from tests.project.channel_site import ByHandChannel

    view = ByHandChannel.as_view(name="given")
    assert view.view_class is ByHandChannel
    assert view.view_initkwargs == {"name": "given"}
    assert view.__doc__ == ByHandChannel.__doc__
    assert not asyncio.iscoroutinefunction(view)
    with pytest.raises(TypeError, match="invalid keyword 'wrong'"):
        ByHandChannel.as_view(wrong=1)


def test_a_grant_carries_the_attributes_and_hooks_of_the_view():
    def opening_of(cls, **scope):
        request = AsyncRequestFactory().get("/")
        request.scope.update({SCOPE_KEY: {}, **scope})
        call(cls.as_view(), request)
        (stream,) = request.scope[SCOPE_KEY].values()
        return stream.grant

    plain = define("PlainView", channel_name=lambda self: "room")
    found = opening_of(plain)
    assert (found.channels, found.user_id, found.recheck_interval) == (("room",), 7, None)
    assert (found.presence_callback, found.attendance_hook) == (None, None)
    hurried = define("HurriedView", plain, recheck_interval=2.5, on_join=lambda self, user_id: None)
    found = opening_of(hurried)
    assert found.recheck_interval == 2.5
    assert found.attendance_hook is not None


def test_a_missing_request_is_an_error_that_says_so():
    view = define("SomeChannel")()
    for look in (lambda: view.request, lambda: view.signals):
        with pytest.raises(AttributeError, match=r"SomeChannel has no request here: .*self\.kwargs and self.channel"):
            look()
    assert not hasattr(view, "request")


def test_an_error_in_a_property_of_a_view_keeps_its_message():
    view = view_of(define("SomeChannel", broken=property(lambda self: self.kwargs.nothing)))
    with pytest.raises(AttributeError, match="'dict' object has no attribute 'nothing'"):
        _ = view.broken
    with pytest.raises(AttributeError, match="'SomeChannel' object has no attribute 'missing'"):
        _ = view.missing


def test_a_view_is_copied_like_any_object():
    view = view_of(define("SomeChannel"), pk=7)
    for twin in (copy.copy(view), copy.copy(define("Fresh")())):
        assert type(twin).__name__ in ("SomeChannel", "Fresh")
    assert copy.copy(view).request is view.request
    assert copy.copy(view).kwargs == {"pk": 7}
    empty = object.__new__(BroadcastChannelView)
    assert not hasattr(empty, "anything")


def test_a_snapshot_is_rendered_once_for_each_client_with_its_request(site, served):
    seen = []

    def render_snapshot(self):
        seen.append(self.request.headers["x-user"])
        return "<p id=s></p>"

    names = ["a", "b", "c"]
    served("SnapshotChannel", url_path="snapshot/", channel_name=lambda self: names, render_snapshot=render_snapshot)
    for user in ("ann", "bob"):
        assert site.ask("snapshot/", user=user, **RETURNING).text.count("<p id=s></p>") == 1
    assert seen == ["ann", "bob"]
    assert "<p id=s></p>" not in site.ask("snapshot/", user="eve", **DATASTAR).text
    assert seen == ["ann", "bob"]


def test_a_failing_snapshot_opens_no_stream(site):
    assert site.ask("failing/room/", user="ann", **RETURNING).status == 500
    assert broadcast.get_channels() == []
    assert site.ask("failing/room/", user="ann", **DATASTAR).stream


def test_an_async_handler_is_awaited_in_process_too():
    async def get(self, request):
        return await broadcast.aconnect("async", request)

    view = define("AsyncView", get=get).as_view()
    assert call(view).status_code == 200
    assert call(view, AsyncRequestFactory().get("/")).status_code == 200


def test_setup_may_be_overridden(site):
    assert site.ask("years/2026/", user="ann").channels == ["century-20"]
    assert site.ask("years/26/", user="ann").status == 404


# Presence


def test_presence_has_the_arguments_of_as_view(site):
    found = site.ask("with-arguments/", user="ann", until="said")
    assert '<p id="said">given, x.html, [7]</p>' in found.text


def test_presence_has_the_channel_and_the_arguments_of_the_url_and_no_request(site, served):
    seen = []

    def note(hook, returned=None):
        def method(self, said):
            seen.append((hook, self.channel, said, self.args, self.kwargs, hasattr(self, "request")))
            return returned

        return method

    served(
        "NotingChannel",
        url_path="noting/<int:pk>/",
        channel_name=lambda self: "one",
        render_presence=note("render", {"noted": True}),
        on_join=note("join"),
        on_leave=note("leave"),
    )
    assert site.ask("noting/5/", user="ann", until="noted").stream
    site.wait(lambda: len(seen) == 3)
    assert sorted(each[:3] for each in seen) == [("join", "one", 7), ("leave", "one", 7), ("render", "one", [7])]
    assert [each[3:] for each in seen] == [((), {"pk": 5}, False)] * 3


def test_presence_has_a_record_of_each_user_with_what_the_stream_says_about_itself(site, served):
    served(
        "SayingChannel",
        url_path="saying/<int:pk>/",
        channel_name=lambda self: "one",
        presence_meta=lambda self: {"page": self.kwargs["pk"], "device": self.request.headers["x-device"]},
        render_presence=lambda self, user_ids: {
            "told": [[each.user_id, each.tabs, each.away, each.meta] for each in self.present]
        },
    )
    answer = site.ask("saying/5/", user="ann", until="told", **{"x-device": "phone"})
    assert '{"told":[[7,1,false,{"page":5,"device":"phone"}]]}' in answer.text


@pytest.mark.parametrize(
    "meta, said", [("page", "SayingChannel.presence_meta() must be a small dict"), ({"a": "x" * 2000}, "2008 bytes")]
)
def test_what_is_no_metadata_is_an_error_that_names_the_hook(site, served, caplog, meta, said):
    served("SayingChannel", url_path="saying/", channel_name=lambda self: "one", presence_meta=lambda self: meta)
    assert site.ask("saying/", user="ann").status == 500
    assert said in caplog.text


def test_each_channel_of_a_stream_has_its_own_presence(site):
    for name in ("a", "b"):
        text = site.ask("any/a/b/", user="ann", until=f'{{"online":{{"{name}":1}}}}').text
        assert "event: datastar-patch-signals" in text


def test_a_view_may_define_one_hook_of_the_two(site, served, caplog):
    joined, left = [], []
    served(
        "Joining", url_path="joining/", channel_name=lambda self: "a", on_join=lambda self, user: joined.append(user)
    )
    served("Leaving", url_path="leaving/", channel_name=lambda self: "b", on_leave=lambda self, user: left.append(user))
    for path in ("joining/", "leaving/"):
        assert site.ask(path, user="ann").stream
    site.wait(lambda: joined and left and not broadcast.get_channels())
    assert (joined, left) == ([7], [7])
    assert caplog.records == []


@pytest.mark.django_db
def test_the_default_presence_template_gets_users_channel_and_arguments():
    users = [get_user_model().objects.create(username=name) for name in ("ann", "bob", "eve")]
    view = define("TemplateView", presence_template_name="club_members.html")()
    view.setup(AsyncRequestFactory().get("/"), pk=9, users="not these", channel="nor this")
    view.channel = "club-9"
    html = view.render_presence([users[2].pk, users[0].pk])
    assert html.strip() == '<ul id="members" data-channel="club-9" data-pk="9"><li>ann</li><li>eve</li></ul>'
    context = view.get_presence_context([])
    assert (context["view"], context["present"]) == (view, ())
    assert BroadcastChannelView().render_presence([1]) is None


# Live


clubs = itertools.count(1000)


@pytest.fixture
def club(live):
    number = next(clubs)  # Never one of an earlier test, whose members may still be leaving.
    visitors = {name: live.login(name) for name in ("ann", "bob", "eve")}

    def member(name, verb="add"):
        assert live.get(f"/membership/{number}/{name}/{verb}/").status == 200

    member("ann")
    member("bob")
    return SimpleNamespace(
        pk=number, path=f"/events/clubs/{number}/", channel=f"club-{number}", member=member, **visitors
    )


@needs_orm
def test_members_are_shown_to_members(live, club):
    ann = club.ann.connect(path=club.path, headers=DATASTAR)
    members = f'<ul id="members" data-channel="{club.channel}" data-pk="{club.pk}">'
    assert ann.expect(members).elements == f"{members}<li>ann</li></ul>"
    club.bob.connect(path=club.path, headers=DATASTAR)
    ann.expect(f"{members}<li>ann</li><li>bob</li></ul>")
    assert club.eve.connect(path=club.path, headers=DATASTAR).status == 403
    live.call("elements", club.channel, '<p id="news"></p>')
    ann.expect('<p id="news">')


@needs_orm
def test_hooks_run_once_for_a_user_and_in_order(live, club):
    watcher = live.connect("attendance")
    begun(watcher)
    tabs = [club.ann.connect(path=club.path, headers=DATASTAR) for _ in range(3)]
    begun(*tabs)
    begun(club.bob.connect(path=club.path, headers=DATASTAR))
    for each in tabs:
        each.close()
    until(lambda: live.call("get_users", club.channel) == [club.bob.user_id])
    came = [club.channel, club.pk, club.ann.user_id]
    watcher.expect(json.dumps({"left": came}, separators=(",", ":")))
    begun(club.ann.connect(path=club.path, headers=DATASTAR))
    until(lambda: len([each for each in watcher.events if str(club.channel) in each.signals]) == 4)
    said = [json.loads(each.signals) for each in watcher.events if club.channel in each.signals]
    bob = [club.channel, club.pk, club.bob.user_id]
    assert said == [{"came": came}, {"came": bob}, {"left": came}, {"came": came}]


@needs_orm
def test_a_gap_brings_each_client_a_snapshot_of_its_own(live, club):
    for visitor, name in ((club.ann, "ann"), (club.bob, "bob")):
        client = visitor.connect(path=club.path, headers=DATASTAR, last_event_id="gone-1")
        client.expect(f'<p id="snapshot">for {name}</p>')
        assert sum("snapshot" in each.data for each in client.events) == 1
    begun(fresh := club.ann.connect(path=club.path, headers=DATASTAR))
    fresh.expect("members")
    assert not any("snapshot" in each.data for each in fresh.events)


def test_reading_the_request_in_presence_is_logged_and_ends_no_stream(live, channel):
    for name in ("plain", "signals", "property"):
        room = f"{name}-{channel}"
        size = live.log_size()
        client = live.login("ann").connect(path=f"/events/peeking/{room}/", headers=DATASTAR)
        begun(client)
        until(lambda size=size: "PeekingChannel has no request here" in live.log(size))
        assert f"The presence callback of channel '{room}' failed" in live.log(size)
        live.call("elements", room, '<p id="still">here</p>')
        client.expect('<p id="still">here</p>')
        client.close()


def test_failing_hooks_are_logged_and_leak_nothing(live, channel):
    size = live.log_size()
    client = live.login("ann").connect(path=f"/events/failing/{channel}/", headers=DATASTAR)
    begun(client)
    live.call("elements", channel, '<p id="still">here</p>')
    client.expect('<p id="still">here</p>')
    client.close()
    until(lambda: "on_leave() fails" in live.log(size))
    assert "on_join() fails" in live.log(size)
    until(lambda: channel not in live.call("get_channels"))
    status = live.login("ann").request("GET", f"/events/failing/{channel}/", headers=RETURNING).status
    assert status == 500
    assert channel not in live.call("get_channels")


def test_streams_keep_neither_their_request_nor_their_view(live, channel):
    visitor = live.login("ann")
    live.get("/held/").json()
    before = live.get("/held/").json()
    clients = [
        visitor.connect(path=f"/events/{path}", headers=DATASTAR)
        for path in (f"any/{channel}/b-{channel}/", f"failing/{channel}/", f"peeking/{channel}/")
        for _ in range(5)
    ]
    begun(*clients)
    if live.mode == "handoff":
        until(lambda: live.get("/held/").json() == before)
    else:
        # Django's own request cycle holds the request of a stream, and nothing holds more than that.
        until(lambda: live.get("/held/").json()["views"] == before["views"])


@needs_orm
def test_a_view_with_its_template_given_by_hand(live):
    client = live.login("ann").connect(path="/with-template/", headers=DATASTAR)
    assert client.expect("members").elements == '<ul id="members" data-channel="templated" data-pk=""><li>ann</li></ul>'


def test_refusals_over_real_sockets(locked):
    for path in ("/events/open/room/", "/events/with-login/", "/by-hand/"):
        assert locked.visitor().request("GET", path, headers=DATASTAR).status == 403
        assert locked.visitor().request("GET", path, headers=RETURNING).status == 204
    begun(locked.visitor().connect(path="/events/public/", headers=DATASTAR))
    begun(locked.login("ann").connect(path="/by-hand/", headers=DATASTAR))
    assert locked.visitor().request("HEAD", "/events/public/", headers=DATASTAR).status == 200
    assert locked.visitor().request("POST", "/events/public/").status in (403, 405)  # No CSRF token.
    assert locked.call("get_channels") == ["public", "by-our-hand"]
