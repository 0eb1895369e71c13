"""The middleware: the tab of a change, anywhere in the handling of a request; and redirects around a view."""

import json
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.urls import path

from ds_broadcaster import BrokerUnavailable, broadcast, middleware
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.middleware import BroadcasterMiddleware
from ds_broadcaster.streams.requests import CURSOR_ATTRIBUTE
from ds_broadcaster.streams.tabs import TAB, current_tab
from tests.settings import MIDDLEWARE

ID = "1234567890-12-345"
SIGNALS = json.dumps({TAB: ID})
OURS = "ds_broadcaster.middleware.BroadcasterMiddleware"

seen = []


def note(where):
    seen.append((where, current_tab()))


@login_not_required
def sync_view(request):
    note("view")
    with transaction.atomic():
        transaction.on_commit(lambda: note("commit"))
    transaction.on_commit(lambda: note("outer commit"))
    return HttpResponse()


@login_not_required
@transaction.non_atomic_requests
async def async_view(request):
    note("view")
    await sync_to_async(sync_view)(request)
    return HttpResponse()


@login_not_required
def failing_view(request):
    note("view")
    raise RuntimeError


@login_not_required
def streaming_view(request):
    def parts():
        note("part")
        yield b"part"

    return StreamingHttpResponse(parts())


@login_not_required
def members_only(request):
    raise PermissionDenied("members only")


@login_not_required
async def gone(request):
    raise Http404("no such room")


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("failing/", failing_view),
    path("streaming/", streaming_view),
    path("members-only/", members_only),
    path("gone/", gone),
]


@pytest.fixture(autouse=True)
def _site(settings):
    seen.clear()
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [*MIDDLEWARE, OURS]
    yield
    assert current_tab() is None


def post(client, url):
    return client.post(url, SIGNALS, content_type="application/json")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("url", ["/sync/", "/async/"])
@pytest.mark.parametrize("last", [True, False])
async def test_tab_is_known_in_views_and_on_commit_under_asgi(settings, url, atomic, last):
    from django.db import connections

    settings.MIDDLEWARE = [*MIDDLEWARE, OURS] if last else [OURS, *MIDDLEWARE]
    connections.settings["default"]["ATOMIC_REQUESTS"] = atomic
    try:
        answer = await post(AsyncClient(), url)
    finally:
        connections.settings["default"]["ATOMIC_REQUESTS"] = False
    assert answer.status_code == 200
    assert {tab for _, tab in seen} == {ID}
    assert {where for where, _ in seen} == {"view", "commit", "outer commit"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("url", ["/sync/", "/async/"])
def test_tab_is_known_under_wsgi(url):
    assert post(Client(), url).status_code == 200
    assert {tab for _, tab in seen} == {ID}
    assert {where for where, _ in seen} == {"view", "commit", "outer commit"}


def test_request_is_forgotten_when_a_view_fails():
    assert post(Client(raise_request_exception=False), "/failing/").status_code == 500
    assert seen == [("view", ID)]


def test_request_is_over_before_its_body_is_streamed():
    assert b"".join(post(Client(), "/streaming/")) == b"part"
    assert seen == [("part", None)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_middleware_is_sync_or_async_as_the_function_it_wraps(kind):
    async def aview(request):
        return HttpResponse()

    wrapped = BroadcasterMiddleware(aview if kind == "async" else lambda request: HttpResponse())
    assert iscoroutinefunction(wrapped) is (kind == "async")


# The moment a page began

factory = RequestFactory()


def page(accept="text/html,application/xhtml+xml", method="get"):
    request = getattr(factory, method)("/", headers={"accept": accept} if accept else None)
    BroadcasterMiddleware(lambda request: HttpResponse())(request)
    return getattr(request, CURSOR_ATTRIBUTE, None)


def test_pages_have_the_id_of_their_beginning():
    assert page() == broadcast.cursor()


@pytest.mark.parametrize("options", [{"accept": "application/json"}, {"accept": ""}, {"method": "post"}])
def test_other_requests_need_no_id(monkeypatch, options):
    monkeypatch.setattr(middleware, "broadcast", SimpleNamespace())
    assert page(**options) is None


def test_page_is_served_while_the_broker_is_away(monkeypatch):
    def cursor():
        raise BrokerUnavailable

    broadcaster = Broadcaster()
    monkeypatch.setattr(broadcaster.page_cursor, "_cursor", cursor)
    monkeypatch.setattr(middleware, "broadcast", broadcaster)
    assert page() is None
    # For a while the next pages do not wait for it either.
    monkeypatch.setattr(broadcaster.page_cursor, "_cursor", lambda: "now-1")
    assert page() is None
    broadcaster.page_cursor.away_until = 0
    assert page() == "now-1"


async def test_async_pages_have_it_too():
    request = factory.get("/", headers={"accept": "text/html"})

    async def view(request):
        return HttpResponse()

    await BroadcasterMiddleware(view)(request)
    assert getattr(request, CURSOR_ATTRIBUTE) == broadcast.cursor()


# A page that fetches itself

PAGE_QUERY = "q=a%20b&datastar=%7B%22q%22%3A1%7D&q=%2B&datastars=1"


def seen_by_the_view(kind, query, **headers):
    """Return what a view sees of a GET: its query, in three forms."""
    found = []

    def view(request):
        found.extend([request.GET.dict(), request.META["QUERY_STRING"], request.get_full_path()])
        return HttpResponse()

    async def aview(request):
        return view(request)

    request = (factory if kind == "sync" else AsyncRequestFactory()).get("/page/", headers=headers)
    request.META["QUERY_STRING"] = query
    assert request.GET  # A middleware before ours has looked.
    if kind == "sync":
        BroadcasterMiddleware(view)(request)
    else:
        async_to_sync(BroadcasterMiddleware(aview))(request)
    return found


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_view_of_a_page_that_fetches_itself_sees_its_own_url(kind):
    assert seen_by_the_view(kind, PAGE_QUERY, broadcast_refresh="true") == [
        {"q": "+", "datastars": "1"},
        "q=a%20b&q=%2B&datastars=1",
        "/page/?q=a%20b&q=%2B&datastars=1",
    ]
    assert seen_by_the_view(kind, "datastar=%7B%7D", broadcast_refresh="true") == [{}, "", "/page/"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_view_that_reads_signals_of_a_get_has_them(kind):
    query, raw, _ = seen_by_the_view(kind, PAGE_QUERY, datastar_request="true")
    assert query["datastar"] == '{"q":1}'
    assert raw == PAGE_QUERY


@pytest.mark.parametrize("answer, status", [(302, 204), (301, 204), (304, 304), (404, 404), (200, 200)])
def test_page_that_fetches_itself_is_not_redirected(answer, status):
    def page(request):
        return HttpResponse(status=answer, headers={"Location": "/login/"})

    request = factory.get("/", headers={"broadcast-refresh": "true"})
    assert BroadcasterMiddleware(page)(request).status_code == status
    assert BroadcasterMiddleware(page)(factory.get("/")).status_code == answer


# Redirects around a channel view

REDIRECT = {"ROOT_URLCONF": "tests.project.channel_site", "MIDDLEWARE": [*MIDDLEWARE, OURS]}


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Datastar-Request": "true"}, 403),
        ({"Datastar-Request": "true", "last-event-id": "a-1"}, 204),
        ({}, 302),  # In the address bar the login page is the right answer.
    ],
)
@pytest.mark.django_db(transaction=True)
def test_decorated_channel_view_redirects_no_datastar_client(settings, headers, status):
    for name, value in REDIRECT.items():
        setattr(settings, name, value)
    assert Client(headers=headers).get("/login-by-hand/").status_code == status


@pytest.mark.django_db(transaction=True)
def test_other_views_may_redirect_a_datastar_client(settings):
    for name, value in REDIRECT.items():
        setattr(settings, name, value)
    assert Client(headers={"Datastar-Request": "true"}).get("/admin/").status_code == 302


# Why a view of the project's own refused a stream


@pytest.mark.parametrize("handler", [Client, AsyncClient])
@pytest.mark.parametrize("is_debug", [True, False])
def test_reason_of_a_views_own_refusal_is_told_with_debug_alone(settings, handler, is_debug):
    settings.DEBUG = is_debug

    def reason(path):
        get = handler().get if handler is Client else async_to_sync(handler().get)
        return unquote(get(path, headers={"Datastar-Request": "true"}).headers.get("Broadcast-Refused", ""))

    found = [reason(path) for path in ("/members-only/?element=x", "/gone/?element=x", "/gone/")]
    told = ["members_only: PermissionDenied('members only')", "gone: Http404('no such room')", ""]
    assert found == (told if is_debug else ["", "", ""])
