"""A user who loses the right to a stream loses the stream: through the whole Django stack, on a real server."""

import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.contrib import auth
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.db.models.signals import post_delete, post_save
from django.test import RequestFactory

from ds_broadcaster import BrokerUnavailable, receivers
from tests.harness import Server
from tests.live import begun, until
from tests.project import recheck_site
from tests.settings import DATABASES

pytestmark = pytest.mark.django_db(transaction=True)

ATOMIC = {"DATABASES": {**DATABASES, "default": {**DATABASES["default"], "ATOMIC_REQUESTS": True}}}
CACHED = {"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}
SLIDING = {"SESSION_SAVE_EVERY_REQUEST": True}
SIGNED = {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}

# Kinds of projects: the mode, and settings that change when a logout or a save becomes visible.
PROJECTS = {
    "handoff": ("handoff", {}),
    "plain": ("plain", {}),
    "handoff, atomic, sliding": ("handoff", ATOMIC | SLIDING),
    "plain, atomic, cached": ("plain", ATOMIC | CACHED | SLIDING),
}

# Seconds: the documented time for a logout.
AT_ONCE = 2

names = (f"user{number}" for number in itertools.count(1))


def start(mode, settings):
    return Server("uvicorn-httptools", mode, settings={"ROOT_URLCONF": recheck_site.__name__, **settings})


@pytest.fixture(scope="module", params=PROJECTS)
def server(request, django_db_setup):
    with start(*PROJECTS[request.param]) as server:
        yield server


@pytest.fixture(scope="module", params=["handoff", "plain"])
def modes(request, django_db_setup):
    with start(request.param, {}) as server:
        yield server


@pytest.fixture
def signed(django_db_setup):
    with start("handoff", SIGNED) as server:
        yield server


def ends_within(client, seconds):
    """Wait for the stream's end, and return the seconds that took."""
    begin = time.monotonic()
    client.wait_end(seconds)
    return time.monotonic() - begin


def login(server):
    name = next(names)
    visitor = server.login(name)
    visitor.name = name
    return visitor


def asked(server, channel):
    return server.get(f"/asked/{channel}/").json()


# At once


@pytest.mark.parametrize("way", ["/logout/", "/log-out-late/", "off", "password", "delete"])
def test_logout_or_loss_of_the_account_ends_the_streams_at_once(server, channel, way):
    ann, ben = login(server), login(server)
    streams = [ann.connect(path=f"/{view}/{channel}/") for view in ("members", "amembers")]
    other = ben.connect(path=f"/members/{channel}/")
    begun(*streams, other)
    begin = time.monotonic()
    if way.startswith("/"):
        ann.get(way)  # In another tab.
    else:
        server.get(f"/account/{ann.name}/{way}/")
    for stream in streams:
        stream.wait_end(AT_ONCE)
    took = time.monotonic() - begin
    assert took < AT_ONCE
    print(f"{way} took {took:.2f} s")
    assert [stream.end for stream in streams] == ["cut", "cut"]
    assert until(lambda: server.call("get_users", channel) == [ben.user_id])
    assert ann.connect(path=f"/members/{channel}/").status == 403
    assert other.end is None


def test_other_changes_of_the_account_end_nothing(modes, channel):
    ann = login(modes)
    stream = ann.connect(path=f"/members/{channel}/")
    begun(stream)
    modes.get(f"/account/{ann.name}/name/")
    until(lambda: asked(modes, channel)["asked"] == 2)
    assert stream.end is None
    modes.call("", channel, "<p>still here</p>")
    stream.expect("still here")


def test_login_elsewhere_rechecks_nothing(modes, channel):
    ann = login(modes)
    stream = ann.connect(path=f"/members/{channel}/")
    begun(stream)
    modes.login(ann.name)
    modes.call("recheck", channel)
    until(lambda: asked(modes, channel)["asked"] == 2)
    assert stream.end is None


def test_new_password_keeps_the_own_browser_and_ends_the_others(server, channel):
    ann = login(server)
    elsewhere = server.login(ann.name)
    stream, other = ann.connect(path=f"/members/{channel}/"), elsewhere.connect(path=f"/members/{channel}/")
    begun(stream, other)
    ann.get("/own-password/")
    for each in (stream, other):
        assert each.wait_end(AT_ONCE) == "cut"
    assert elsewhere.connect(path=f"/members/{channel}/", last_event_id=other.last_event_id).status == 204
    back = ann.connect(path=f"/members/{channel}/", last_event_id=stream.last_event_id)
    begun(back)
    server.call("", channel, "<p>hello</p>")
    back.expect("hello")


def test_signed_cookies_are_granted_for_as_long_as_they_hold(signed, channel):
    """A logout changes nothing on the server, so it cannot be noticed; a change of the account can."""
    ann = login(signed)
    stream = ann.connect(path=f"/members/{channel}/")
    begun(stream)
    ann.get("/logout/")
    until(lambda: asked(signed, channel)["asked"] == 2)
    assert stream.end is None
    signed.get(f"/account/{ann.name}/off/")
    assert ends_within(stream, AT_ONCE)


# By hand, and by the clock


def test_removed_member_loses_the_room_at_the_next_recheck(modes, channel):
    ann = login(modes)
    modes.get(f"/membership/{channel}/{ann.name}/add/")
    stream = ann.connect(path=f"/events/rooms/{channel}/")
    begun(stream)
    modes.get(f"/membership/{channel}/{ann.name}/remove/")
    took = ends_within(stream, recheck_site.RoomChannel.recheck_interval + 1)
    print(f"removal took {took:.2f} s of {recheck_site.RoomChannel.recheck_interval}")
    assert stream.end == "cut"
    back = ann.connect(path=f"/events/rooms/{channel}/", last_event_id=stream.last_event_id)
    assert back.status == 204


@pytest.mark.parametrize("switch", ["redirect", "other-user", "other-channel", "endless"])
def test_recheck_ends_what_is_not_granted_now(modes, channel, switch):
    ann, ben = login(modes), login(modes)
    stream, other = ann.connect(path=f"/switched/{channel}/"), ben.connect(path=f"/switched/{channel}/")
    begun(stream, other)
    modes.get(f"/switch/{channel}/{switch}/")
    modes.acall("recheck", channel, ann.user_id)
    assert stream.wait_end(1) == "cut"
    assert other.end is None


@pytest.mark.parametrize("switch", ["500", "error"])
def test_server_in_trouble_ends_nothing(modes, channel, switch):
    stream = login(modes).connect(path=f"/switched/{channel}/")
    begun(stream)
    modes.get(f"/switch/{channel}/{switch}/")
    modes.call("recheck")
    until(lambda: asked(modes, channel)["asked"])
    modes.call("", channel, "<p>still here</p>")
    stream.expect("still here")


def test_stream_of_a_post_ends_at_its_first_recheck(modes, channel):
    ann = login(modes)
    stream = type(ann.connect(path="/ready/"))(
        f"{modes.url}/switched/{channel}/", ann._headers() | {"Content-Length": "0"}, method="POST"
    )
    begun(stream)
    modes.call("recheck", channel)
    assert stream.wait_end(1) == "cut"
    assert asked(modes, channel)["asked"] == 0


def test_rechecks_run_a_few_at_a_time_in_few_threads_while_pages_are_served(modes, channel):
    streams = [login(modes).connect(path=f"/switched/{channel}/") for _ in range(40)]
    begun(*streams)
    before = modes.facts()
    modes.get(f"/switch/{channel}/slow/")
    # On a busy machine a stream may be due for its second look before it had its first, and has one for both.
    for count in (40, 80):
        modes.call("recheck", channel)
        until(lambda count=count: asked(modes, channel)["asked"] >= count, 10)
    # The second look at each of them begins a second after the first.
    most = {"tasks": before["tasks"], "threads": before["threads"] + 2, "files": before["files"] + 2}
    until(lambda: (now := modes.facts()) and all(now[name] <= most[name] for name in most), 10)
    answer = asked(modes, channel)
    assert answer["most"] <= 4
    assert answer["threads"] <= before["threads"] + 4 + 4
    assert not any(stream.end for stream in streams)


@pytest.mark.parametrize("mode", ["handoff", "plain"])
def test_sessions_that_slide_are_not_kept_alive_by_rechecks(django_db_setup, channel, mode):
    with start(mode, SLIDING) as server:
        ann = login(server)

        def expiry():
            return Session.objects.get(pk=ann.cookies["sessionid"]).expire_date

        stream = ann.connect(path=f"/members/{channel}/")
        begun(stream)
        opened = expiry()
        server.call("recheck")
        # The second look, a second later, begins when the first has ended.
        until(lambda: asked(server, channel)["asked"] == 2)
        assert stream.end is None
        assert expiry() == opened
        ann.get("/ready/")
        assert expiry() > opened


@pytest.mark.parametrize("mode", ["handoff", "plain"])
def test_server_ends_in_time_during_rechecks(start_server, channel, mode):
    server = start_server(mode=mode, settings={"ROOT_URLCONF": recheck_site.__name__})
    streams = [login(server).connect(path=f"/switched/{channel}/") for _ in range(20)]
    begun(*streams)
    server.get(f"/switch/{channel}/slow/")
    server.call("recheck")
    until(lambda: asked(server, channel)["asked"])
    assert server.sigterm() < 2
    assert "Traceback" not in server.log()
    assert "destroyed but" not in server.log()


# The signals of Django, without a server


@pytest.fixture
def rechecked(monkeypatch):
    """The users whose streams were rechecked."""
    found = []
    for verb in ("recheck", "review"):
        monkeypatch.setattr(receivers.broadcast, verb, lambda channel=None, user_id=None: found.append(user_id))
    return found


@pytest.fixture
def user():
    return User.objects.create_user(next(names))


def test_save_delete_and_logout_recheck_and_the_rest_does_not(rechecked, user):
    assert rechecked == []  # It was only made.
    user.save(update_fields=["last_login"])
    user_logged_out.send(User, request=None, user=None)
    post_save.send(User, instance=user, created=False, raw=True, using="default", update_fields=None)
    assert rechecked == []
    user.save(update_fields=["is_active"])
    user.save()
    user_logged_out.send(User, request=None, user=user)
    pk = user.pk
    user.delete()
    assert rechecked == [pk] * 4


@pytest.mark.parametrize("log_out", [auth.logout, async_to_sync(auth.alogout)])
def test_logout_rechecks_again_when_the_session_has_ended(rechecked, user, log_out):
    """Other receivers of the signal may take their time."""
    found = []

    def look(sender, request, **kwargs):
        found.append(len(rechecked))
        request.session.delete = lambda key=None: found.append(len(rechecked))
        request.session.adelete = lambda key=None: found.append(len(rechecked)) or asyncio.sleep(0)

    request = RequestFactory().get("/")
    request.session = SessionStore()
    auth.login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.user, request.auser = user, sync_to_async(lambda: user)
    user_logged_out.connect(look)
    try:
        log_out(request)
    finally:
        user_logged_out.disconnect(look)
    assert found == [1, 1]
    assert rechecked == [user.pk] * 2
    assert "_auth_user_id" not in request.session


def test_recheck_waits_for_the_commit_and_a_rollback_cancels_it(rechecked, user):
    with transaction.atomic():
        user.save()
        user_logged_out.send(User, request=None, user=user)
        assert rechecked == []
    assert rechecked == [user.pk] * 2
    with transaction.atomic():
        user.save()
        transaction.set_rollback(True)
    assert len(rechecked) == 2


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_save_in_another_database_waits_for_the_commit_of_that_one(rechecked):
    user = User.objects.using("archive").create(username=next(names))
    with transaction.atomic(using="archive"):
        user.save()
        assert rechecked == []
    assert rechecked == [user.pk]
    with transaction.atomic():
        user.save()
        assert rechecked == [user.pk] * 2  # The transaction of the other database does not matter.
    with transaction.atomic(using="archive"):
        user.delete()
        assert len(rechecked) == 2
    assert len(rechecked) == 3


def test_recheck_without_autocommit_is_sent_at_once(rechecked, user):
    transaction.set_autocommit(False)
    try:
        user.save()
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert rechecked == [user.pk]


@pytest.mark.parametrize("error", [DatabaseError, ImproperlyConfigured])
def test_logout_without_a_database_rechecks_at_once(rechecked, monkeypatch, error):
    def on_commit(*args, **kwargs):
        raise error

    monkeypatch.setattr(transaction, "on_commit", on_commit)
    user_logged_out.send(User, request=None, user=SimpleNamespace(pk=3))
    assert rechecked == [3]


def test_save_and_logout_succeed_while_the_broker_is_away(monkeypatch, user, caplog):
    def recheck(channel=None, user_id=None):
        raise BrokerUnavailable

    monkeypatch.setattr(receivers.broadcast, "recheck", recheck)
    monkeypatch.setattr(receivers.broadcast, "review", recheck)
    user.save()
    assert f"{user.pk} could not be rechecked" in caplog.text


def test_proxies_of_the_user_model_are_watched(rechecked, user, django_apps_with_a_proxy):
    proxy = django_apps_with_a_proxy
    proxy.objects.get(pk=user.pk).save()
    assert rechecked == [user.pk]
    proxy.objects.get(pk=user.pk).delete()
    assert rechecked == [user.pk] * 2


@pytest.fixture
def django_apps_with_a_proxy(monkeypatch):
    class ProxyUser(User):
        class Meta:
            proxy = True
            app_label = "project"

    monkeypatch.setattr(receivers, "apps", SimpleNamespace(get_models=lambda: [User, ProxyUser]))
    receivers.watch_users()
    yield ProxyUser
    for signal in (post_save, post_delete):
        signal.disconnect(sender=ProxyUser, dispatch_uid="ds_broadcaster")
    del apps.all_models["project"]["proxyuser"]
    apps.clear_cache()


def test_project_without_users_starts(monkeypatch):
    def get_user_model():
        raise ImproperlyConfigured("AUTH_USER_MODEL refers to a model that has not been installed")

    monkeypatch.setattr(receivers, "get_user_model", get_user_model)
    before = len(post_save.receivers), len(post_delete.receivers)
    receivers.watch_users()
    assert (len(post_save.receivers), len(post_delete.receivers)) == before
