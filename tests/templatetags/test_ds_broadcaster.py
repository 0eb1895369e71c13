"""The template tags: their output, its escaping, and the messages of their errors."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from unittest.mock import ANY
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.middleware.csrf import _does_token_match
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.urls import NoReverseMatch
from django.utils.functional import SimpleLazyObject
from hypothesis import given
from hypothesis import strategies as st

from ds_broadcaster import BrokerUnavailable, broadcast
from ds_broadcaster.conf import DATASTAR_INTEGRITY, DATASTAR_URL
from ds_broadcaster.streams.requests import CURSOR_ATTRIBUTE
from ds_broadcaster.views.connect_element import _string, connect_element
from ds_broadcaster.views.subscription import read_token
from tests.harness.requirements import require_client_bundle
from tests.project import tag_site

pytestmark = pytest.mark.urls(tag_site.__name__)

CONNECT = '{% broadcast_connect "tag-room" channel=channel %}'
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' + alert(1) + '", "$tab @post('x')", "é&☃"]
BEGIN = r"\$broadcastTab \|\|= [^;]*; \$_broadcast \|\|= 'connecting'; const f=[^;]*;window.fetch=[^;]*;"
ACTION = re.compile(BEGIN + r"@get\('(?P<url>[^']*)', \{(?P<options>[^{}]*)\}\);window.fetch=f")


class Elements(HTMLParser):
    """Every tag of a piece of HTML, as (name, attributes)."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def only(html, name="div"):
    """Return the attributes of the only element; fail for any other content."""
    elements = Elements(html)
    assert [tag for tag, _ in elements.found] == [name]
    assert not elements.text.strip()
    return elements.found[0][1]


def url_of(html):
    """Return the URL that an element opens, as its JavaScript says it."""
    first, *inner = Elements(html).found
    assert inner in ([], [("i", ANY)])
    written = ACTION.fullmatch(first[1]["data-init"])["url"]
    assert re.fullmatch(r"[0-9A-Za-z/._~%?=&:+,\\-]*", written)
    return json.loads(f'"{written}"')


def query_of(html):
    return {name: value for name, (value,) in parse_qs(urlsplit(url_of(html)).query).items()}


def request_of(user=None, path="/"):
    request = RequestFactory().get(path)
    if user is not None:
        request.user = user
    return request


def render(source, request=None, **context):
    template = Template("{% load ds_broadcaster %}" + source)
    return template.render(Context(context) if request is None else RequestContext(request, context))


def user(pk=1):
    return get_user_model()(pk=pk)


def token_of(html):
    return urlsplit(url_of(html)).path.removeprefix("/events/subscribe/").removesuffix("/").removesuffix("/page")


# The element


def test_element_matches_the_documentation():
    attributes = only(render(CONNECT, channel="a"))
    assert list(attributes) == [
        "id",
        "hidden",
        "data-ignore-morph",
        "data-broadcast",
        "data-on:datastar-fetch",
        "data-on:visibilitychange__window",
        "data-on:pagehide__window",
        "data-init",  # Last: the client goes from left to right, and nothing is to be missed.
    ]
    assert attributes["data-broadcast"] == "connecting"
    options = ACTION.fullmatch(attributes["data-init"])["options"]
    assert options == (
        "retry: 'always', retryInterval: 1000 + 1000 * Math.random(), retryMaxCount: Infinity, "
        "retryMaxWait: 7500 + 2500 * Math.random(), requestCancellation: 'cleanup'"
    )


def test_element_is_short():
    assert len(render(CONNECT, channel="a")) < 2000


def test_element_tells_the_console_of_refusals_with_debug_alone(settings):
    assert "console" not in render(CONNECT, channel="a")
    settings.DEBUG = True
    assert "console.warn" in only(render(CONNECT, channel="a"))["data-init"]


def test_element_carries_the_cursor_of_now_and_its_own_id():
    html = render(CONNECT, channel="a")
    assert query_of(html) == {"cursor": broadcast.cursor(), "element": only(html)["id"]}


def test_element_carries_the_moment_at_which_the_request_came_in():
    request = request_of()
    setattr(request, CURSOR_ATTRIBUTE, "abc-7")
    assert query_of(render(CONNECT, request, channel="a"))["cursor"] == "abc-7"


@pytest.mark.parametrize("with_middleware", [True, False])
def test_events_during_the_render_come_after_the_cursor_of_the_middleware(settings, with_middleware):
    if with_middleware:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"]
    before = broadcast.cursor()
    source = "{{ send }}" + CONNECT
    page = Client().get("/tags/", {"source": source, "channels": "a"}, headers={"accept": "text/html"}).content.decode()
    element = re.search(r"<div id=.broadcast-.*?</div>", page)[0]
    assert (query_of(element)["cursor"] == before) is with_middleware


def test_id_is_the_same_in_every_render_and_another_for_another_stream():
    first, again, other = (only(render(CONNECT, channel=each))["id"] for each in "aab")
    assert re.fullmatch("broadcast-[0-9a-f]{8}", first)
    assert first == again
    assert first != other


def test_page_is_rendered_without_a_cursor_while_the_broker_is_away(monkeypatch):
    def away():
        raise BrokerUnavailable

    monkeypatch.setattr(broadcast.page_cursor, "away_until", 0.0)
    monkeypatch.setattr(broadcast.page_cursor, "_cursor", away)
    html = render(CONNECT, channel="a")
    assert query_of(html) == {"element": only(html)["id"]}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("autoescape", ["on", "off"])
def test_everything_in_the_url_is_escaped(text, autoescape):
    source = "{% autoescape " + autoescape + ' %}{% broadcast_connect "any-path" path=text %}{% endautoescape %}'
    html = render(source, text=text)
    assert unquote(urlsplit(url_of(html)).path) == f"/any/{text}"


@given(st.text())
def test_any_url_is_one_string_in_one_attribute(text):
    written = Elements(f'<p title="{_string("/" + text)}">').found[0][1]["title"]
    assert re.fullmatch(r"'(/|\\u00[0-9a-f]{2}|[0-9A-Za-z/._~%?=&:+,-])*'", written)


def test_query_that_the_url_has_already_is_kept():
    html = connect_element("/stream/?a=1&b=%26", "x", "1-2")
    assert query_of(html) == {"a": "1", "b": "&", "cursor": "1-2", "element": only(html)["id"]}
    assert "?a=1&amp;b=%26&amp;cursor=1-2&amp;element=" in html


def test_cursor_is_encoded():
    assert query_of(connect_element("/", "x", "a&b=c'\"<é"))["cursor"] == "a&b=c'\"<é"


# Names


@pytest.mark.parametrize(
    "arguments, path",
    [
        ('"tag-room" channel=channel', "/events/tag-rooms/a/"),
        ('"tag-room" channel', "/events/tag-rooms/a/"),
        ('"ds_broadcaster:tag-room" channel', "/events/tag-rooms/a/"),
        ('"own-stream" channel', "/own/a/"),
        ('"pair" channel second', "/own/a/b/"),
        ('"pair" first=channel second=second', "/own/a/b/"),
        ('"nested:stream" channel', "/nested/own/a/"),
        ('"odd-names" name=channel context=second', "/odd/a/b/"),
        ("name channel", "/own/a/"),
    ],
)
def test_stream_is_found_by_its_name(arguments, path):
    html = render("{% broadcast_connect " + arguments + " %}", channel="a", second="b", name="own-stream")
    assert urlsplit(url_of(html)).path == path


@pytest.mark.parametrize("arguments", ["channel request.GET", "request.GET channel=channel"])
@pytest.mark.parametrize("query", ["", "q=a%20b&q=%26&sort=-pk"])
def test_stream_has_the_query_of_its_page(arguments, query):
    html = render('{% broadcast_connect "own-stream" ' + arguments + " %}", request_of(path=f"/?{query}"), channel="a")
    url = urlsplit(url_of(html))
    expected = parse_qs(query) | {name: [value] for name, value in (("cursor", ANY), ("element", only(html)["id"]))}
    assert (url.path, parse_qs(url.query)) == ("/own/a/", expected)


def test_name_that_is_none_is_an_error_that_says_where_it_was_looked_for():
    with pytest.raises(NoReverseMatch) as raised:
        render('{% broadcast_connect "no-such" pk=1 %}')
    for part in ("'ds_broadcaster:no-such'", "'no-such'", "BroadcastChannelView", 'include("ds_broadcaster.urls")'):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["room_channel", "channel"])
def test_name_without_quotes_is_an_error_that_says_so(name):
    with pytest.raises(TemplateSyntaxError, match="must be the name of a view, in quotes"):
        render("{% broadcast_connect " + name + " pk=1 %}", channel=7)


def test_subscription_says_which_urls_it_needs(settings):
    settings.ROOT_URLCONF = ()
    with pytest.raises(NoReverseMatch, match=r'broadcast_subscribe needs .*include\("ds_broadcaster.urls"\)'):
        render('{% broadcast_subscribe "a" user %}', user=user())


def test_wrong_arguments_are_an_error_that_shows_them():
    with pytest.raises(NoReverseMatch, match=r"'room': 7.*tag\\\\-rooms/"):
        render('{% broadcast_connect "tag-room" room=7 %}')


@pytest.mark.parametrize("source", [CONNECT, "{% broadcast_subscribe channel %}"])
@pytest.mark.parametrize("where, begin", [(None, "/events/"), ("live", "/live/"), ("ds_broadcaster", "/events/")])
def test_stream_of_the_pages_own_instance_of_the_application_is_taken(source, where, begin):
    explicit, matched = request_of(user()), request_of(user())
    explicit.current_app = where
    matched.resolver_match = SimpleNamespace(namespace=where)
    for request in (explicit, matched):
        assert url_of(render(source, request, channel="a")).startswith(begin)


def test_element_may_be_kept_in_a_variable():
    html = render('{% broadcast_connect "own-stream" "a" as stream %}[{{ stream }}]')
    assert only(html.strip("[]"))["id"].startswith("broadcast-")


# Signed subscriptions


def test_subscription_is_for_these_channels_and_this_user():
    html = render("{% broadcast_subscribe room user %}", room="room-1", user=user(7))
    assert read_token(token_of(html), user(7)) == ("room-1",)


def test_subscription_carries_names_instances_and_lists_of_them_each_once():
    html = render(
        '{% broadcast_subscribe "news" group rooms group user %}',
        group=Group(pk=3),
        rooms=["a", Group(pk=4)],
        user=user(),
    )
    assert read_token(token_of(html), user()) == ("news", "auth.group-3", "a", "auth.group-4")


@pytest.mark.parametrize("several", [("a", "b"), ["a", "b"], {"a": 0, "b": 1}.keys(), (x for x in "ab")])
def test_channels_may_be_anything_that_can_be_walked_through(several):
    html = render("{% broadcast_subscribe several user %}", several=several, user=user())
    assert read_token(token_of(html), user()) == ("a", "b")


def test_user_is_the_requests_unless_given():
    html = render("{% broadcast_subscribe room %}", request_of(user(9)), room="a")
    assert read_token(token_of(html), user(9)) == ("a",)
    html = render("{% broadcast_subscribe room other %}", request_of(user(9)), room="a", other=user(5))
    assert read_token(token_of(html), user(5)) == ("a",)


@pytest.mark.parametrize(
    "arguments, channels, owner",
    [
        ("room other_room", ("a", "b"), 9),
        ("room rooms", ("a", "c", "d"), 9),
        ("room other_room for=other", ("a", "b"), 5),
        ("room other_room refresh=True", ("a", "b"), 9),
        ("room other", ("a",), 5),
        ("room other for=request.user", ("a", "auth.user-5"), 9),
        ("other for=other", ("auth.user-5",), 5),
    ],
)
def test_user_of_several_channels_is_the_requests_unless_given(arguments, channels, owner):
    context = {"room": "a", "other_room": "b", "rooms": ["c", "d"], "other": user(5)}
    html = render("{% broadcast_subscribe " + arguments + " %}", request_of(user(9)), **context)
    assert read_token(token_of(html), user(owner)) == channels


@pytest.mark.parametrize("visitor", [user(9), SimpleLazyObject(lambda: user(9))])
def test_users_own_channel_is_one_argument(visitor):
    html = render("{% broadcast_subscribe request.user %}", request_of(visitor))
    assert read_token(token_of(html), user(9)) == ("auth.user-9",)


def test_an_anonymous_user_is_one_and_so_is_a_lazy_one():
    html = render("{% broadcast_subscribe room user %}", room="a", user=SimpleLazyObject(AnonymousUser))
    assert read_token(token_of(html), AnonymousUser()) == ("a",)
    html = render("{% broadcast_subscribe room user %}", room="a", user=SimpleLazyObject(lambda: user(UUID(int=3))))
    assert read_token(token_of(html), user(UUID(int=3))) == ("a",)


def test_id_of_a_subscription_is_made_from_its_channels():
    ids = [
        only(render("{% broadcast_subscribe rooms user %}", rooms=rooms, user=user(pk)))["id"]
        for rooms, pk in ([["a", "b"], 1], [["a", "b"], 2], [["a\u2028b"], 1], [["ab"], 1])
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_lists_without_a_channel_open_no_stream():
    assert render("{% broadcast_subscribe rooms others user %}", rooms=[], others=(), user=user()) == ""


def test_no_request_and_no_user_is_an_error_that_says_what_to_write():
    for request in (None, request_of()):
        with pytest.raises(TemplateSyntaxError, match=r"Write \{% broadcast_subscribe room for=user %\}"):
            render("{% broadcast_subscribe room %}", request, room="a")


@pytest.mark.parametrize("other", ["b", "", None, 7, Group(pk=1)])
def test_for_must_name_a_user(other):
    with pytest.raises(TemplateSyntaxError, match="`for` names the user of broadcast_subscribe"):
        render("{% broadcast_subscribe room for=other %}", request_of(user()), room="a", other=other)


def test_unknown_option_is_an_error_that_names_the_known_ones():
    with pytest.raises(TemplateSyntaxError, match="takes refresh=True and for=user, not 'user'"):
        render("{% broadcast_subscribe room user=other %}", request_of(user()), room="a", other=user())


def test_tag_without_arguments_is_an_error():
    with pytest.raises(TemplateSyntaxError):
        render("{% broadcast_subscribe %}", request_of(user()))


@pytest.mark.parametrize(
    "source, number, name",
    [
        ("{% broadcast_subscribe rom user %}", 1, "rom"),
        ("{% broadcast_subscribe rom %}", 1, "rom"),
        ("{% broadcast_subscribe room.name user %}", 1, "room.name"),
        ("{% broadcast_subscribe room empty user %}", 2, "empty"),
    ],
)
def test_variable_that_is_not_there_is_an_error_that_names_it(source, number, name):
    told = rf"^Argument {number} of broadcast_subscribe is no channel: .*\. The context has no `{name}`, or it is empty"
    with pytest.raises(TemplateSyntaxError, match=told):
        render(source, request_of(user()), room="a", user=user(), empty=None)


@pytest.mark.parametrize("tag", ['broadcast_connect "tag-room" channel=rom.pk', 'broadcast_connect "tag-room" rom.pk'])
def test_undefined_argument_is_named_with_its_template_and_line(settings, tmp_path, tag):
    (tmp_path / "base.html").write_text("<body>{% block body %}{% endblock %}")
    page = "{% extends 'base.html' %}{% load ds_broadcaster %}\n{% block body %}\n{% " + tag + " %}{% endblock %}"
    (tmp_path / "page.html").write_text(page)
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    told = r"^No stream is named 'tag-room'.* The context has no `rom.pk`, or it is empty. \(page.html, line 3\)$"
    with pytest.raises(NoReverseMatch, match=told):
        render_to_string("page.html")


def test_user_who_is_not_there_is_an_error_that_says_so():
    with pytest.raises(TemplateSyntaxError, match=r"the user of.*context has no `usr`, or it is"):
        render("{% broadcast_subscribe room for=usr %}", request_of(user()), room="a", user=user())
    # The request's user takes no other's place.
    with pytest.raises(TemplateSyntaxError, match=r"^Argument 2 of broadcast_subscribe is no channel"):
        render("{% broadcast_subscribe room usr %}", request_of(user()), room="a")


@pytest.mark.parametrize("channel", ["a\nb", Group(), [""], [None]])
def test_channel_that_cannot_be_one_is_an_error(channel):
    with pytest.raises((ValueError, TypeError), match=r"channel must|no primary key"):
        render("{% broadcast_subscribe channel user %}", channel=channel, user=user())


def test_too_many_channels_are_an_error_that_says_what_to_do():
    rooms = [f"{number * 7919 % 1_000_003:x}-{number * 104_729 % 1_299_709:x}" for number in range(2000)]
    with pytest.raises(ValueError, match="write a BroadcastChannelView"):
        render("{% broadcast_subscribe rooms user %}", rooms=rooms, user=user())


# The small ones


def test_dom_id():
    assert render('<li id="{{ group|dom_id }}">', group=Group(pk="a b")) == '<li id="auth-group-a_20_b">'
    with pytest.raises(TypeError, match="dom_id needs a model instance"):
        render("{{ missing|dom_id }}")


def test_tab_is_a_hidden_field():
    assert only(render("{% broadcast_tab %}"), "input") == {
        "type": "hidden",
        "name": "broadcastTab",
        "data-attr:value": "$broadcastTab",
    }


class LazyNonce(str):
    """As Django's own: false until str() makes it."""

    def __bool__(self):
        return False


@pytest.mark.parametrize(
    "request_has, context_has, nonce",
    [
        ({}, {}, None),
        ({"csp_nonce": "abc"}, {}, "abc"),
        ({"_csp_nonce": LazyNonce("abc")}, {}, "abc"),
        ({"csp_nonce": SimpleLazyObject(lambda: "abc")}, {}, "abc"),
        ({"csp_nonce": '"><b>'}, {}, '"><b>'),
        ({"_csp_nonce": None}, {}, None),
        ({}, {"csp_nonce": "abc"}, "abc"),
        ({}, {"csp_nonce": LazyNonce("abc")}, "abc"),
        ({}, {"csp_nonce": None}, None),
    ],
)
def test_script_has_the_nonce_where_there_is_one(settings, request_has, context_has, nonce):
    settings.DS_BROADCASTER_DATASTAR_URL = "/a.js?x=1&y='\""
    request = request_of()
    vars(request).update(request_has)
    attributes = only(render("{% datastar_script %}", request, **context_has), "script")
    expected = {"type": "module", "src": "/a.js?x=1&y='\""}
    assert attributes == (expected if nonce is None else {**expected, "nonce": nonce})
    html = only(render("<html lang=en {% datastar_nonce %}>", request, **context_has), "html")
    assert html == ({"lang": "en"} if nonce is None else {"lang": "en", "data-nonce": nonce})
    if not request_has:
        assert only(render("{% datastar_script %}", **context_has), "script") == attributes
        assert only(render("<html lang=en {% datastar_nonce %}>", **context_has), "html") == html


def test_script_of_the_pinned_client_is_checked_by_the_browser_and_no_other(settings):
    attributes = only(render("{% datastar_script %}"), "script")
    assert attributes["src"] == DATASTAR_URL
    assert attributes["crossorigin"] == "anonymous"
    method, _, value = attributes["integrity"].partition("-")
    assert (method, len(base64.b64decode(value))) == ("sha384", 48)
    for url in ("/client/datastar.js", DATASTAR_URL + "?x", DATASTAR_URL.replace("1.0.4", "1.0.5")):
        settings.DS_BROADCASTER_DATASTAR_URL = url
        assert only(render("{% datastar_script %}"), "script") == {"type": "module", "src": url}


def test_hash_is_that_of_the_client():
    digest = base64.b64encode(hashlib.sha384(require_client_bundle().read_bytes()).digest()).decode()
    assert f"sha384-{digest}" == DATASTAR_INTEGRITY


@pytest.mark.parametrize(
    "url, src",
    [
        ("js/datastar.js", "/static/js/datastar.js"),
        ("/js/datastar.js", "/js/datastar.js"),
        ("//cdn.example/a.js", "//cdn.example/a.js"),
        ("https://cdn.example/a.js", "https://cdn.example/a.js"),
    ],
)
def test_path_without_a_slash_in_front_is_that_of_a_static_file(settings, url, src):
    settings.DS_BROADCASTER_DATASTAR_URL = url
    assert only(render("{% datastar_script %}"), "script")["src"] == src


@pytest.mark.parametrize("setting", ["STATIC", "URL"])
def test_static_file_has_the_name_that_its_storage_gives_it(settings, setting):
    setattr(settings, f"DS_BROADCASTER_DATASTAR_{setting}", "js/datastar.js")
    assert only(render("{% datastar_script %}"), "script") == {"type": "module", "src": "/static/js/datastar.js"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": f"{__name__}.Hashing"}}
    assert only(render("{% datastar_script %}"), "script")["src"] == "/static/js/datastar.js.0123"


class Hashing(StaticFilesStorage):
    def url(self, name):
        return super().url(f"{name}.0123")


POST = """<form data-on:submit="@post('/x', { {% datastar_headers %} })">"""


def test_headers_are_the_option_that_passes_djangos_csrf_check(settings):
    request = request_of()
    code = only(render(POST, request), "form")["data-on:submit"]
    token = re.fullmatch(r"@post\('/x', \{ headers: \{'X-CSRFToken': '(\w+)'\} \}\)", code)[1]
    # The response gets the cookie that belongs to it.
    assert _does_token_match(token, request.META["CSRF_COOKIE"])
    settings.CSRF_HEADER_NAME = "HTTP_X_XSRF_TOKEN"
    assert "{ headers: {'X-Xsrf-Token': '" in render(POST, request_of())


def test_headers_in_what_is_broadcast_are_an_error_that_says_what_to_write():
    with pytest.raises(TemplateSyntaxError, match=r"write \{headers: \{'X-CSRFToken': \$_csrf\}\}"):
        render(POST)


# A page that fetches itself

REFRESH = "{% broadcast_subscribe channel refresh=True %}"


def test_element_of_a_page_that_fetches_itself(settings):
    settings.DS_BROADCASTER_REFRESH_SPREAD = 2.5
    html = render(REFRESH, request_of(user()), channel="a")
    (outer, attributes), (inner, refreshing) = Elements(html).found
    assert (outer, inner) == ("div", "i")
    assert list(refreshing) == ["data-broadcast-refresh", "data-on:datastar-signal-patch"]
    assert refreshing["data-broadcast-refresh"] == ""
    assert "2500*Math.random()" in refreshing["data-on:datastar-signal-patch"]
    assert attributes["id"] == only(render("{% broadcast_subscribe channel %}", request_of(user()), channel="a"))["id"]
    assert re.fullmatch("/events/subscribe/[^/]+/page/", urlsplit(url_of(html)).path)
    assert len(html) < 4000


@pytest.mark.parametrize("value", ["#list, .more", *HOSTILE])
def test_selector_of_what_is_refreshed_is_data(value):
    html = render("{% broadcast_subscribe 'a' refresh=value %}", request_of(user()), value=value)
    assert Elements(html).found[1][1]["data-broadcast-refresh"] == value


@pytest.mark.parametrize("value", ["False", "None", "missing"])
def test_page_does_not_fetch_itself_unless_told(value):
    html = render("{% broadcast_subscribe channel refresh=" + value + " %}", request_of(user()), channel="a")
    assert only(html)
    assert "/page/" not in url_of(html)


def test_page_that_answers_a_form_does_not_fetch_itself():
    request = RequestFactory().post("/")
    request.user = user()
    assert read_token(token_of(render(REFRESH, request, channel="a")), user()) == ("a",)
    assert "/page/" not in url_of(render(REFRESH, request, channel="a"))


# In includes and other contexts


def test_tags_work_in_includes(settings):
    request = request_of(user(2))
    setattr(request, CURSOR_ATTRIBUTE, "abc-7")
    for source in ('{% include "tags/part.html" %}', '{% include "tags/part.html" with channel=channel only %}'):
        html = render(source, request, channel="a")
        connect, subscribe = re.findall(r"<div.*?</div>", html)
        for each in (connect, subscribe):
            assert query_of(each)["cursor"] == "abc-7"
        assert read_token(token_of(subscribe), user(2)) == ("a",)


def test_tags_work_without_the_context_processor_for_the_request(settings):
    engine = settings.TEMPLATES[0]
    settings.TEMPLATES = [{**engine, "OPTIONS": {"context_processors": []}}]
    html = render_to_string("tags/part.html", {"channel": "a"}, request_of(user(2)))
    assert read_token(token_of(re.findall(r"<div.*?</div>", html)[1]), user(2)) == ("a",)


def test_request_in_the_context_may_be_a_stand_in():
    template = Template("{% load ds_broadcaster %}{% broadcast_subscribe room %}")
    html = template.render(Context({"request": SimpleNamespace(user=user(4)), "room": "a"}))
    assert read_token(token_of(html), user(4)) == ("a",)


@pytest.mark.django_db
def test_no_tag_queries_the_database(django_assert_num_queries):
    me, group = user(3), Group(pk=1)
    source = (
        f"{CONNECT}{{% broadcast_subscribe group me %}}{{% broadcast_tab %}}{{% datastar_script %}}{{{{ me|dom_id }}}}"
    )
    with django_assert_num_queries(0):
        render(source, request_of(me), channel="a", me=me, group=group)
