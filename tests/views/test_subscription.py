"""Signed subscriptions: the contents of a token, and the refusal of all others."""

import logging
import time
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import quote
from uuid import UUID

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, RequestFactory
from hypothesis import example, given
from hypothesis import strategies as st

from ds_broadcaster.ids import channel_name
from ds_broadcaster.views.subscription import (
    MAX_TOKEN_LENGTH,
    SALT,
    BadToken,
    PageSubscription,
    make_token,
    read_token,
)
from tests.live import begun, live_server
from tests.project import tag_site

pytestmark = pytest.mark.urls(tag_site.__name__)

ANONYMOUS = AnonymousUser()
FROM_DATASTAR = {"Datastar-Request": "true"}


def user(pk):
    return SimpleNamespace(pk=pk, is_authenticated=True)


def url(token):
    return f"/events/subscribe/{token}/"


def is_channel(name):
    try:
        return bool(channel_name(name))
    except ValueError:
        return False


names = st.text(max_size=40).filter(is_channel) | st.characters(categories=["Cs"])
users = st.none() | st.just(ANONYMOUS) | st.builds(user, st.integers() | st.uuids() | st.text())


# The token


@given(st.lists(names, max_size=30), users)
def test_token_brings_its_channels_to_its_user(channels, owner):
    token = make_token(channels, owner)
    assert read_token(token, owner) == tuple(channels)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_:.")


@given(st.data(), st.lists(names, min_size=1, max_size=30), users)
def test_every_change_of_a_token_is_refused(data, channels, owner):
    token = make_token(channels, owner)
    place = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(place, len(token)))
    changed = token[:place] + data.draw(st.text(max_size=3) | st.sampled_from(token)) + token[end:]
    if changed != token:
        with pytest.raises(BadToken, match="not signed here"):
            read_token(changed, owner)


@pytest.mark.parametrize("extra", ["=", "A", " ", "\n", "\0", ":", "é"])
def test_no_text_may_be_added_to_a_token(extra):
    token = make_token(["room"], user(1))
    for changed in (token + extra, extra + token, token.replace(":", extra + ":", 1)):
        with pytest.raises(BadToken):
            read_token(changed, user(1))


@pytest.mark.parametrize(
    "owner, other",
    [
        (user(1), user(2)),
        (user(1), user(11)),
        (user(1), ANONYMOUS),
        (user(1), None),
        (ANONYMOUS, user(1)),
        (None, user(1)),
        (ANONYMOUS, user("None")),
        (ANONYMOUS, user("")),
    ],
)
def test_token_is_its_users_alone(owner, other):
    with pytest.raises(BadToken, match="came with the token of"):
        read_token(make_token(["room"], owner), other)


def test_none_and_an_anonymous_user_are_the_same():
    assert read_token(make_token(["room"], None), ANONYMOUS) == ("room",)
    assert read_token(make_token(["room"], ANONYMOUS), None) == ("room",)


def test_primary_keys_of_any_type_are_compared_as_text():
    key = UUID(int=7)
    assert read_token(make_token(["room"], user(key)), user(str(key))) == ("room",)


def test_token_expires(settings):
    settings.DS_BROADCASTER_TOKEN_MAX_AGE = 60
    token, now = make_token(["room"], user(1)), time.time()
    with patch("django.core.signing.time.time", lambda: now + 58):
        assert read_token(token, user(1)) == ("room",)
    with patch("django.core.signing.time.time", lambda: now + 62), pytest.raises(BadToken, match="expired"):
        read_token(token, user(1))


def test_a_signature_for_another_purpose_makes_no_token():
    for salt in ("django.core.signing", "x" + SALT):
        with pytest.raises(BadToken):
            read_token(signing.dumps(["1", "room"], salt=salt), user(1))


def test_token_survives_a_change_of_the_secret_key(settings):
    token = make_token(["room"], user(1))
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new one", [settings.SECRET_KEY]
    assert read_token(token, user(1)) == ("room",)
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(BadToken):
        read_token(token, user(1))


def test_many_channels_make_a_short_token():
    assert len(make_token([f"chat.room-{number}" for number in range(200)], user(1))) < 1200


def test_more_channels_than_a_url_carries_are_refused_with_what_to_do():
    channels = [f"{number * 7919 % 1_000_003:x}-{number * 104_729 % 1_299_709:x}" for number in range(2000)]
    told = rf"2000 channels .* {MAX_TOKEN_LENGTH}: subscribe to fewer .* BroadcastChannelView"
    with pytest.raises(ValueError, match=told):
        make_token(channels, user(1))


# The view


@pytest.fixture
def refusals(caplog):
    """The log messages of refused subscriptions."""
    caplog.set_level(logging.WARNING, "ds_broadcaster")
    return lambda: [each.getMessage() for each in caplog.records if each.name == "ds_broadcaster"]


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
@example("a:b:c")
@example(":::")
@example(make_token(["room"], user(1)))
@example(make_token(["room"], user(1))[:-1])
@example("." + make_token(["room"], None))
def test_junk_gets_403_and_never_an_error_or_a_stream(token):
    response = Client().get(url(quote(token, safe="")), headers=FROM_DATASTAR)
    # A token with a slash matches no URL.
    assert response.status_code == (404 if "/" in token else 403)
    assert not getattr(response, "streaming", False)


@pytest.mark.parametrize(
    "token, reason",
    [
        ("junk", "the token was not signed here"),
        (make_token(["room"], user(5)), "an anonymous user came with the token of user '5'"),
        ("old", "the token has expired"),
    ],
    ids=["junk", "stolen", "old"],
)
@pytest.mark.parametrize("headers", [{}, FROM_DATASTAR])
def test_reason_of_a_refusal_is_logged_and_not_sent(refusals, token, reason, headers):
    if token == "old":
        with patch("django.core.signing.time.time", lambda: 1):
            token = make_token(["room"], None)
    response = Client().get(url(token), headers=headers)
    assert response.status_code == 403
    assert refusals() == [f"Refused a subscription: {reason}."]
    assert token not in refusals()[0]
    assert b"token" not in response.content
    assert b"expired" not in response.content


def test_client_that_returns_with_a_bad_token_is_stopped(refusals):
    response = Client().get(url("junk"), headers={**FROM_DATASTAR, "last-event-id": "1-1"})
    assert response.status_code == 204
    assert len(refusals()) == 1


def test_project_that_requires_a_login_still_serves_public_pages(settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert Client().get(url("junk")).status_code == 403  # And no redirect.
    with pytest.raises(ImproperlyConfigured, match="ASGI"):  # As far as a stream comes with this client.
        Client().get(url(make_token(["room"], None)))


def test_project_without_users_serves_subscriptions(settings):
    settings.MIDDLEWARE = []
    assert Client().get(url(make_token(["room"], user(1)))).status_code == 403


@pytest.fixture(scope="module")
def server(django_db_setup):
    with live_server("handoff", settings={"ROOT_URLCONF": tag_site.__name__}) as server:
        yield server


@pytest.mark.django_db(transaction=True)
def test_stream_carries_every_channel_of_the_token(server, channel):
    ann = server.login("ann")
    others = [f"{channel}/{word}" for word in ("é", "a&b", "<i>")]
    stream = ann.connect(path=url(make_token([channel, *others], user(ann.user_id))))
    assert stream.opened() == 200
    begun(stream)
    for each in (channel, *others):
        server.call("", each, f'<p id="x">{each.encode().hex()}</p>')
        stream.expect(each.encode().hex())
    assert server.call("get_users", others[0]) == [ann.user_id]


@pytest.mark.django_db(transaction=True)
def test_stream_of_anonymous_users_is_closed_to_a_user(server, channel):
    token = make_token([channel], ANONYMOUS)
    stream = server.visitor().connect(path=url(token))
    begun(stream)
    server.call("", channel, '<p id="x">hello</p>')
    stream.expect("hello")
    assert server.login("ann").connect(path=url(token)).status == 403


def test_pages_that_fetch_themselves_share_one_render():
    renders = set()
    for pk, room in ((1, "a"), (2, "b")):
        view = PageSubscription()
        request = RequestFactory().get("/")
        request.user = user(pk)
        view.setup(request, token=make_token([room], user(pk)))
        assert view.has_permission()
        renders.add(view._audience())
    assert len(renders) == 1
    # Each is new, or it would not be sent.
    assert view.render_snapshot() != view.render_snapshot()
