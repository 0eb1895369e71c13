"""Refusals for which the project's own code does nothing."""

import asyncio
from urllib.parse import unquote

import pytest
from django.http import HttpResponse

from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.middleware import BroadcasterMiddleware
from ds_broadcaster.streams.responses import without_redirect
from tests.live import begun, live_server, until

pytestmark = pytest.mark.django_db(transaction=True)

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
OURS = "ds_broadcaster.middleware.BroadcasterMiddleware"
# A project needs one of the two: the handoff or the middleware.
PROJECTS = {
    "handoff": ("handoff", [*MIDDLEWARE, OURS]),
    "handoff alone": ("handoff", MIDDLEWARE),
    "middleware alone": ("plain", [*MIDDLEWARE, OURS]),
}

DATASTAR = {"Datastar-Request": "true"}


@pytest.fixture(scope="module", params=PROJECTS)
def site(request, django_db_setup):
    mode, middleware = PROJECTS[request.param]
    with live_server(mode, settings={"ROOT_URLCONF": "tests.project.channel_site", "MIDDLEWARE": middleware}) as server:
        yield server


@pytest.fixture
def club(site):
    ann = site.login("ann")
    site.get("/membership/77/ann/add/")
    return ann


def test_permission_that_fails_for_an_anonymous_user_is_a_refusal(site):
    for headers, status in (({}, 403), (DATASTAR, 403), (DATASTAR | {"last-event-id": "a-1"}, 204)):
        assert site.get("/events/careless/77/", headers=headers).status == status


@pytest.mark.parametrize("what", ["logout", "off", "password", "delete"])
def test_permission_that_fails_for_an_anonymous_user_ends_the_stream(site, what):
    name = f"careless-{what}"
    visitor = site.login(name)
    site.get(f"/membership/78/{name}/add/")
    client = visitor.connect(path="/events/careless/78/")
    begun(client)
    if what == "logout":
        visitor.get("/logout/")
    else:
        site.get(f"/account/{name}/{what}/")
    assert client.wait_end(5) == "cut"
    assert visitor.get("/events/careless/78/", headers=DATASTAR | {"last-event-id": "a-1"}).status == 204


def test_view_that_fails_for_a_deleted_object_loses_its_stream(site, club):
    client = club.connect(path="/events/gone/77/")
    begun(client)
    site.get("/remove-club/77/")
    site.call("recheck")
    assert client.wait_end(5) == "cut"


def test_service_that_is_away_refuses_nobody(site):
    visitor = site.login("ann")
    client = visitor.connect(path="/events/elsewhere/")
    begun(client)
    asked = site.get("/service/").json()["asked"]
    site.get("/service/away/")
    site.call("recheck")
    # Once for the re-check, and once a moment later.
    until(lambda: site.get("/service/").json()["asked"] == asked + 2)
    answer = visitor.get("/events/elsewhere/", headers=DATASTAR)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    site.call("signals", "elsewhere", {"still": "here"})
    client.expect("here")
    site.get("/service/mistake/")
    site.call("recheck")
    assert client.wait_end(5) == "cut"
    site.get("/service/well/")


@pytest.mark.parametrize("status, headers", [(403, DATASTAR), (204, DATASTAR | {"last-event-id": "a-1"})])
def test_our_element_is_not_redirected_to_a_login_page(site, status, headers):
    for query in ("cursor=a-1&element=broadcast-1", "element=broadcast-1"):
        answer = site.get(f"/function/room/?{query}", headers=headers)
        assert answer.status == status
        assert "Location" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.body == b""


def test_other_requests_are_redirected(site):
    for path, headers in [
        ("/function/room/", {}),
        ("/function/room/?element=broadcast-1", {}),
        ("/function/room/", DATASTAR),
        ("/function/room/?no-element=1", DATASTAR),
    ]:
        answer = site.get(path, headers=headers)
        assert answer.status == 302
        assert answer.headers["Location"].startswith("/login/nobody/")


@pytest.mark.parametrize("headers", [{}, DATASTAR])
def test_other_answers_to_our_element_are_untouched(site, headers):
    answer = site.get("/held/?element=broadcast-1", headers=headers)
    assert answer.status == 200
    assert set(answer.json()) == {"requests", "views"}


@pytest.mark.parametrize("is_debug", [False, True])
def test_replaced_redirect_has_its_reason_with_debug_alone(settings, rf, is_debug):
    settings.DEBUG = is_debug
    answer = HttpResponse(status=302, headers={"Location": "/login/?next=/a\u00e4/"})
    scope = {"headers": [(b"datastar-request", b"true")], "query_string": b"element=x"}
    start = {"status": 302, "headers": [(b"Location", answer["Location"].encode("latin-1"))]}
    by_handoff = dict(without_redirect(scope, start)["headers"]).get(b"broadcast-refused", b"").decode()
    request = rf.get("/?element=x", headers=DATASTAR)
    request.resolver_match = None
    by_middleware = BroadcasterMiddleware(lambda request: answer)(request).headers.get("Broadcast-Refused", "")
    told = "the answer was a redirect to /login/?next=/a\u00e4/, which would replace the whole page: is a login needed?"
    for found in (by_handoff, by_middleware):
        assert found.isascii()
        assert unquote(found) == (told if is_debug else "")


@pytest.mark.parametrize(
    "query, expected", [(b"a=1&element=x", (403, {b"cache-control": b"no-store"}, b"")), (b"elements=x", None)]
)
def test_body_of_a_redirect_goes_with_it(query, expected):
    sent = []
    start = {
        "type": "http.response.start",
        "status": 307,
        "headers": [(b"Location", b"/in/"), (b"content-length", b"9"), (b"Cache-Control", b"max-age=60")],
    }
    bodies = [{"type": "http.response.body", "body": body, "more_body": True} for body in (b"<a hre", b"f=>")]

    async def django(scope, receive, send):
        for message in (start, *bodies):
            await send(message)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"datastar-request", b"true")], "query_string": query}
    asyncio.run(HandoffApplication(django)(scope, None, send))
    first, *rest = sent
    found = first["status"], dict(first["headers"]), b"".join(each["body"] for each in rest)
    assert found == (expected or (307, dict(start["headers"]), b"<a href=>"))
    assert [each["more_body"] for each in rest] == [True, True]
