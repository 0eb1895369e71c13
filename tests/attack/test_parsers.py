"""Fuzzers for all that a stranger may write: tokens, cursors, ids of tabs and elements, signals, whole requests.

What a parser does not accept it refuses in one known way, and nothing of it comes into a stream, a page or an error.
"""

import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from django.core import signing
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils.encoding import iri_to_uri
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ds_broadcaster.ids import channel_name, dom_id, format_id, parse_id
from ds_broadcaster.sse import OWING
from ds_broadcaster.streams.tabs import TAB, tab_of
from ds_broadcaster.views.client_signals import MAX_ERROR_LENGTH, BadSignals, signals_of
from ds_broadcaster.views.connect_element import connect_element
from ds_broadcaster.views.subscription import SALT, BadToken, make_token, read_token
from tests.attack import hostile
from tests.chat.models import Note
from tests.fakes import FACTOR, FakeClient, virtual_world

many = settings(max_examples=100 * FACTOR, deadline=None)

ids = st.builds("{}-{}".format, st.from_regex("[0-9a-z]{1,34}", fullmatch=True), st.integers(0, 10**20))
id_like = ids | hostile.any_text | st.builds("".join, st.lists(ids | hostile.texts, max_size=3))
tab_like = st.from_regex("[0-9A-Za-z_-]{1,70}", fullmatch=True) | hostile.any_text
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | tab_like,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(tab_like | st.just(TAB), children, max_size=3),
)
# Text that is JSON, nearly JSON, or nothing of the kind.
json_texts = (
    json_like.map(json.dumps)
    | hostile.texts
    | st.integers(1, 6000).map(lambda depth: "[" * depth)
    | st.integers(1, 6000).map(lambda depth: '{"a":' * depth + "1" + "}" * depth)
    | st.integers(1, 9000).map(lambda digits: f'{{"page": {"9" * digits}}}')
    | st.builds(lambda text, place: text[: place % (len(text) + 1)], json_like.map(json.dumps), st.integers(0, 99))
)


def user(key):
    return SimpleNamespace(pk=key, is_authenticated=key is not None)


users = st.sampled_from([user(None), user(1), user(2), user("1 "), user("01")])
channels = st.lists(hostile.texts, min_size=1, max_size=3)


def written(text):
    """Return a text without half pairs of surrogates, which no URL can hold."""
    return text.encode("utf-8", "replace").decode()


# Tokens


def read(token, owner):
    """Return the channels in a token, None for one that is refused; anything but BadToken fails the test."""
    try:
        return read_token(token, owner)
    except BadToken:
        return None


@many
@given(hostile.texts | st.from_regex(r"[\w.:-]{0,80}"), users)
@example(".eJw:1:1", user(None))
@example("." * 5000, user(1))
@example("\ud800:1:1", user(None))
@example(":" * 5000, user(1))
def test_no_text_is_a_token(text, owner):
    assert read(text, owner) is None


@many
@given(channels, users, users)
def test_a_token_is_its_users_alone(names, owner, other):
    assert read(make_token(names, owner), other) == (tuple(names) if owner is other else None)


@many
@given(channels, users, st.data())
def test_a_token_that_was_changed_is_refused(names, owner, data):
    token = make_token(names, owner)
    begin = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(begin, len(token)))
    changed = token[:begin] + data.draw(st.text(max_size=3) | st.sampled_from(token)) + token[end:]
    assume(changed != token)
    assert read(changed, owner) is None


@many
@given(channels, channels, users)
def test_parts_of_two_tokens_are_none(names, others, owner):
    assume(names != others)
    own, theirs = make_token(names, owner).split(":"), make_token(others, owner).split(":")
    for place, part in enumerate(theirs):
        mixed = [*own[:place], part, *own[place + 1 :]]
        if mixed != own:
            assert read(":".join(mixed), owner) is None


@pytest.mark.parametrize("make", ["another key", "another salt", "no salt", "a session", "a password reset"])
def test_what_is_signed_elsewhere_is_no_token(make):
    payload = ["1", "room"]
    token = {
        "another key": lambda: signing.dumps(payload, key="another", salt=SALT, compress=True),
        "another salt": lambda: signing.dumps(payload, salt="ds_broadcaster", compress=True),
        "no salt": lambda: signing.dumps(payload),
        "a session": lambda: signing.dumps(payload, salt="django.contrib.sessions.backends.signed_cookies"),
        "a password reset": lambda: signing.TimestampSigner().sign_object(payload),
    }[make]()
    assert read(token, user("1")) is None


# Cursors


@many
@given(id_like)
def test_an_id_is_read_as_it_was_written_or_not_at_all(text):
    found = parse_id(text)
    if found is not None:
        epoch, sequence = found
        assert re.fullmatch("[0-9a-z]{1,32}", epoch)
        assert 0 <= sequence < 10**18
        assert format_id(epoch, sequence) == text or text.partition("-")[2].startswith("0")


@settings(max_examples=100 * FACTOR, deadline=None)
@given(st.data(), st.booleans())
def test_a_client_with_any_cursor_gets_what_is_sent_from_now_on(data, in_query):
    """A cursor of the future, of no epoch, of nonsense: it opens a stream that misses nothing, or says so."""
    with virtual_world() as world:
        for number in range(3):
            world.broadcast.signals("room", {f"old{number}": number})
        epoch = world.broker.epoch
        sequences = st.integers(-5, 12) | st.integers(0, 10**18)
        cursor = data.draw(st.builds("{}-{}".format, st.just(epoch), sequences) | id_like)
        header = cursor.encode("latin-1", "replace").decode("latin-1")
        query = b"cursor=" + "".join(f"%{byte:02x}" for byte in cursor.encode("utf-8", "replace")).encode()
        client = FakeClient(
            world.loop, world.broadcast, "room", **({"query": query} if in_query else {"cursor": header or None})
        )
        world.settle()
        assert client.end is None
        world.broadcast.signals("room", {"new": 1})
        world.settle()
        assert client.signals[-1] == '{"new":1}'
        old = [each for each in client.signals if "old" in each]
        found = parse_id((cursor if in_query else header).removesuffix(OWING))
        if found is None or found[0] != epoch or found[1] > 3:
            assert old == []
            assert client.told_of_gap or not (cursor if in_query else header)
        else:
            assert old == [f'{{"old{number}":{number}}}' for number in range(found[1], 3)]


# Tabs, elements, whole requests


def check_tab(request):
    tab = tab_of(request)
    assert tab is None or re.fullmatch("[0-9A-Za-z_-]{8,64}", tab, re.ASCII)
    assert tab_of(request) == tab


@many
@given(json_texts | tab_like)
def test_a_tab_in_a_query_is_an_id_or_none(text):
    check_tab(RequestFactory().get("/", {"datastar": text.encode("utf-8", "replace")}))


@many
@given(st.binary(max_size=60) | json_texts.map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "multipart/form-data"],
)
def test_a_tab_in_a_body_is_an_id_or_none(content_type, body):
    check_tab(RequestFactory().post("/", body, content_type=content_type))


@many
@given(st.binary(max_size=80), st.lists(st.tuples(st.sampled_from(
    [b"last-event-id", b"datastar-request", b"content-type", b"content-length", b"host", b"cookie", b"accept-encoding",
     b"x-ds-broadcaster-handoff", b"ds_broadcaster.recheck", b"content-encoding"]
), st.binary(max_size=20)), max_size=4))  # fmt: skip
def test_any_request_of_bytes_opens_a_stream_like_another(query, headers):
    """Neither the query nor a header makes anything but an ordinary stream of it."""
    with virtual_world() as world:
        client = FakeClient(world.loop, world.broadcast, "room", user_id=3)
        client.scope.update(query_string=query, headers=headers)
        world.settle()
        if client.task.done():
            # Django itself refuses what it cannot read.
            assert client.frames == []
            return
        world.broadcast.signals("room", {"new": 1})
        world.settle()
        assert client.signals[-1] == '{"new":1}'
        assert world.broadcast.get_users("room") == [3]


def test_no_header_of_a_request_makes_a_recheck_or_a_handoff_of_it():
    headers = [(b"ds_broadcaster.recheck", b"1"), (b"x-ds-broadcaster-handoff", b"0")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    request = ASGIRequest(scope, io.BytesIO())
    assert {key for key in request.scope if key.startswith("ds_broadcaster")} == set()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@many
@given(hostile.texts.map(written), hostile.texts, ids)
@example("/events/'+alert(1)+'/", "room", "a-1")
@example("/events/\u2028/$x/@post('/y')/", 'room"><script>', "a-1")
def test_an_element_is_one_element_that_opens_its_url(url, identity, cursor):
    found = Tags(connect_element(url, identity, cursor))
    assert found.text == ""
    [(tag, attrs)] = found.found
    assert tag == "div"
    ours = {
        "data-broadcast",
        "data-on:datastar-fetch",
        "data-on:visibilitychange__window",
        "data-init",
        "data-on:pagehide__window",
    }
    assert set(attrs) == {"id", "hidden", "data-ignore-morph"} | ours
    assert re.fullmatch("broadcast-[0-9a-f]{8}", attrs["id"])
    # One string, in which nothing has a meaning to JavaScript or to Datastar.
    [string] = re.findall(r"@get\('([^']*)', \{", attrs["data-init"])
    assert re.fullmatch(r"(?:[0-9A-Za-z/._~%?=&:+,-]|\\u[0-9a-f]{4})*", string)
    assert attrs["data-init"].count("@") == 1
    assert (
        json.loads(f'"{string}"')
        == f"{iri_to_uri(url)}{'&' if '?' in url else '?'}cursor={cursor}&element={attrs['id']}"
    )


@many
@given(hostile.texts.filter(len))
def test_an_objects_id_needs_no_escaping_whatever_its_key(key):
    class Meta:
        app_label, model_name = "chat", "note"

    note = SimpleNamespace(pk=key, _meta=Meta)
    Meta.concrete_model = SimpleNamespace(_meta=Meta)
    Meta.pk = SimpleNamespace(to_python=lambda value: value)
    assert re.fullmatch(r"chat-note-[0-9A-Za-z_-]+", dom_id(note))


@many
@given(hostile.strings | hostile.junk)
def test_a_channels_name_is_one_line_or_refused(name):
    try:
        found = channel_name(name)
    except (TypeError, ValueError):
        return
    assert type(found) is str
    assert found
    assert not re.search("[\r\n\0]", found)


def test_a_model_is_no_instance_of_itself():
    with pytest.raises(TypeError):
        channel_name(Note)


# Signals


class Place(BaseModel):
    x: int
    label: str = Field("", max_length=3)


class Filter(BaseModel):
    query: str = Field("", alias="searchFor", max_length=5)
    page: int = 1
    near: Place | None = None
    places: list[Place] = []


def check_signals(request, model):
    try:
        found = signals_of(request, model)
    except BadSignals as error:
        message = str(error)
        assert message.startswith("Bad signals: ")
        assert len(message) <= MAX_ERROR_LENGTH + 1
        # It names fields of the model, and nothing that the client wrote.
        fields = message.removeprefix("Bad signals: ").removesuffix(".")
        if not fields.startswith(("they are", "signals")):
            assert re.fullmatch(r"[A-Za-z., ]*", fields), message
        return
    assert isinstance(found, dict if model is None else model)
    if model is None:
        assert TAB not in found


@many
@given(json_texts, st.sampled_from([None, Filter]))
def test_signals_of_a_query_fit_or_are_refused(text, model):
    query = {"datastar": text.encode("utf-8", "replace")}
    check_signals(RequestFactory().get("/", query, headers={"Datastar-Request": "true"}), model)


@many
@given(st.binary(max_size=60) | json_texts.map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("model", [None, Filter])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_signals_of_a_body_fit_or_are_refused(method, model, body):
    make = getattr(RequestFactory(), method)
    check_signals(make("/", body, content_type="application/json", headers={"Datastar-Request": "true"}), model)


@many
@given(st.dictionaries(st.sampled_from(["searchFor", "page", "near", "places", "x", TAB]), json_like, max_size=4))
def test_signals_of_the_right_names_fit_or_are_refused(signals):
    request = RequestFactory().get("/", {"datastar": json.dumps(signals)}, headers={"Datastar-Request": "true"})
    assert isinstance(request, HttpRequest)
    check_signals(request, Filter)
