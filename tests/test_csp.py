"""Content-Security-Policies: what they stop of a page with a stream."""

import pytest
from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse
from django.template import RequestContext, Template
from django.test import AsyncClient, Client
from django.urls import include, path

from ds_broadcaster import csp, middleware
from ds_broadcaster.conf import DATASTAR_URL

OURS = "ds_broadcaster.middleware.BroadcasterMiddleware"
EVAL, CLIENT, STREAMS = "W031", "W032", "W033"
OWN = "/static/datastar.js"
FINE = "script-src 'self' 'unsafe-eval'"


def stopped(header, client=OWN, **given):
    """Return the ids of what the policies of a header stop on example.org, without their prefix."""
    given = {"has_attribute": True, "host": "example.org"} | given
    found = [each for policy in csp.parsed(header) for each in csp.problems(policy, client, **given)]
    return [each.id.removeprefix("ds_broadcaster.") for each in found]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "img-src 'none'",
        f"{FINE}; connect-src 'self'",
        "default-src 'self' 'unsafe-eval'",
        "default-src 'self'; script-src 'nonce-abc' 'strict-dynamic'",
        "DEFAULT-SRC * 'unsafe-eval'",
        f"{FINE}; connect-src https:",
        f"{FINE}; connect-src https://example.org",
        "script-src 'unsafe-eval'; script-src-elem example.org:8000/static/",
        "script-src 'unsafe-eval' 'sha384-abc'",
    ],
)
def test_policy_that_allows_everything_needed(header):
    assert stopped(header) == []


@pytest.mark.parametrize(
    "header, expected",
    [
        ("script-src 'self'", [EVAL]),
        ("script-src 'none'; connect-src 'self'", [EVAL, CLIENT]),
        ("default-src 'none'", [EVAL, CLIENT, STREAMS]),
        ("script-src 'self' 'unsafe-eval' 'strict-dynamic'", [CLIENT]),
        ("script-src https://cdn.example 'unsafe-eval'", [CLIENT]),
        (f"{FINE}; connect-src 'none'", [STREAMS]),
        (f"{FINE}; connect-src https://api.example", [STREAMS]),
        (f"{FINE}; connect-src *.example.org", [STREAMS]),
        (f"{FINE}, default-src 'none'", [EVAL, CLIENT, STREAMS]),
        (f"{FINE}; script-src-elem 'none'", [CLIENT]),
    ],
)
def test_policy_that_stops_something(header, expected):
    assert stopped(header) == expected


@pytest.mark.parametrize(
    "sources, allows",
    [
        ("'self'", False),
        ("https://cdn.jsdelivr.net", True),
        ("cdn.jsdelivr.net/gh/", True),
        ("*.jsdelivr.net", True),
        ("https:", True),
        ("wss:", False),
        ("https://cdn.example", False),
        ("*", True),
    ],
)
def test_client_of_a_cdn(sources, allows):
    assert stopped(f"script-src 'unsafe-eval' {sources}", DATASTAR_URL) == ([] if allows else [CLIENT])
    assert stopped(f"script-src 'unsafe-eval' {sources}", None) == []


def test_nonce_needs_the_attribute_on_the_root_element():
    assert stopped("script-src 'nonce-abc'") == []
    assert stopped("script-src 'nonce-abc'", has_attribute=False) == [EVAL]


def test_hint_says_what_to_write():
    (policy,) = csp.parsed("default-src 'none'")
    evaluation, client, streams = csp.problems(policy, DATASTAR_URL, has_attribute=False)
    assert "<html {% datastar_nonce %}>" in evaluation.hint
    assert client.hint.startswith(
        "Add https://cdn.jsdelivr.net to script-src, or a nonce, which {% datastar_script %} "
    )
    assert streams.hint == "Add 'self' to connect-src."


# The middleware


def outer(get_response):
    """Set the policy where the middleware has answered already."""

    def respond(request):
        response = get_response(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    return respond


@login_not_required
def page(request):
    tag = '{% broadcast_subscribe "news" for=request.user %}' if "live" in request.GET else ""
    source = "{% load ds_broadcaster %}{% datastar_script %}" + tag
    return HttpResponse(Template(source).render(RequestContext(request)))


urlpatterns = [path("page/", page), path("events/", include("ds_broadcaster.urls"))]


@pytest.fixture
def site(settings, caplog):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.outer", *settings.MIDDLEWARE[3:7], OURS]
    settings.DEBUG = True
    middleware._warn_once.cache_clear()
    yield lambda: [each.getMessage() for each in caplog.records if each.name == "ds_broadcaster"]
    middleware._warn_once.cache_clear()


@pytest.mark.django_db
async def test_page_with_a_stream_is_checked_with_debug_and_told_of_once(site):
    for _ in range(2):
        await AsyncClient().get("/page/?live")
    found = site()
    assert [each.partition("'unsafe-eval'")[1] or each.partition("cdn.jsdelivr.net ")[1] for each in found] == [
        "'unsafe-eval'",
        "cdn.jsdelivr.net ",
    ]


@pytest.mark.django_db
def test_page_without_a_stream_and_production_are_not_checked(site, settings):
    Client().get("/page/")
    assert site() == []
    settings.DEBUG = False
    Client().get("/page/?live")
    assert site() == []
