"""The staff page: its permission, its forms, its stream. This module is also a ROOT_URLCONF."""

import asyncio
import html
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import quote

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.core.management import call_command
from django.db import connection
from django.template import Context, Template
from django.test import Client
from django.urls import include, path

from ds_broadcaster import broadcast
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.hub.threads import Threads
from ds_broadcaster.inspector.overview import CHANNEL, CHANNELS, READ_ONLY, USERS, Overview, Rates
from ds_broadcaster.inspector.views import DONE
from ds_broadcaster.signals import user_joined
from tests.fakes import make_request, make_scope, virtual_world
from tests.harness import MODES, expect
from tests.project import views

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["inspector", "inspector-stream", "inspector-style"]
STREAMS = ["subscribe", "subscribe-page", "tab-closed"]
URL = "/events/inspector/"
STREAM = "/events/inspector/stream/"
CLIENT = {"DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js"}
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7|add:7 }}", "' & é"]

urlpatterns = [
    path("sign-in/", views.log_out, name="sign-in"),
    path("events/", include("ds_broadcaster.urls")),
    path("nested/", include(([path("live/", include("ds_broadcaster.urls", namespace="live"))], "nested"))),
]


class Forms(HTMLParser):
    """The buttons of a page's rows, as (title, value)."""

    def __init__(self, page):
        super().__init__()
        self.rows = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "button" and attributes.get("name") == "row":
            self.rows.append((attributes["title"], attributes["value"]))


def log_in(*permissions, **attributes):
    """Return a client that is logged in as a user with these permissions, through a group."""
    user = get_user_model().objects.create_user("boss", **attributes)
    group = Group.objects.create(name="bosses")
    group.permissions.set(Permission.objects.filter(content_type__app_label="ds_broadcaster", codename__in=permissions))
    user.groups.add(group)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def staff(db):
    return log_in("send", "disconnect", is_staff=True)


@pytest.fixture
def ordinary_user(db):
    client = Client()
    client.force_login(get_user_model().objects.create_user("ann"))
    return client


def run(program):
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def published(monkeypatch):
    """The calls of the verbs that succeeded."""
    calls = []
    for verb in ("elements", "signals", "kill", "disconnect"):
        original = getattr(Broadcaster, verb)

        def record(self, *args, _verb=verb, _original=original, **kwargs):
            _original(self, *args, **kwargs)
            calls.append((_verb, *args, *kwargs.values()))

        monkeypatch.setattr(Broadcaster, verb, record)
    return calls


# Permission


def test_anonymous_users_get_the_admins_login_page(client):
    answer = client.get(URL + "?a=1&b=2")
    assert answer.status_code == 302
    assert answer["Location"] == "/admin/login/?next=%2Fevents%2Finspector%2F%3Fa%3D1%26b%3D2"


@pytest.mark.parametrize(
    "login_url,location",
    [
        ("/sign-in/", "/sign-in/?next=%2Fevents%2Finspector%2F"),
        ("sign-in", "/sign-in/?next=%2Fevents%2Finspector%2F"),
        ("/sign-in/?a=1", "/sign-in/?a=1&next=%2Fevents%2Finspector%2F"),
        ("https://login.example/", "https://login.example/?next=%2Fevents%2Finspector%2F"),
    ],
)
def test_without_the_admin_they_get_the_projects_login_page(client, settings, login_url, location):
    settings.ROOT_URLCONF = __name__
    settings.LOGIN_URL = login_url
    assert client.get(URL)["Location"] == location


@pytest.mark.parametrize("login_url", ["/accounts/login/", "no-such-name", None, ""])
def test_without_any_login_page_they_are_refused(client, settings, login_url):
    settings.ROOT_URLCONF = __name__
    settings.LOGIN_URL = login_url
    assert client.get(URL).status_code == 403
    assert client.post(URL).status_code == 403


def test_signed_in_users_who_are_not_staff_are_refused(ordinary_user, published):
    assert ordinary_user.get(URL).status_code == 403
    form = {"verb": "kill", "channel": "room", "confirmed": "yes"}
    assert ordinary_user.post(URL, form).status_code == 403
    assert published == []


def test_a_datastar_request_is_refused_and_never_redirected(client):
    assert client.post(URL, {"verb": "kill"}, headers={"Datastar-Request": "true"}).status_code == 403


@pytest.mark.parametrize("headers,status", [({}, 403), ({"last-event-id": "a-1"}, 204)])
def test_the_stream_is_for_staff_alone(client, ordinary_user, headers, status):
    for visitor in (client, ordinary_user):
        assert visitor.get(STREAM, headers=headers).status_code == status


def test_an_inactive_staff_member_is_refused(client, db, settings, published):
    # With Django's default backend such a user is not logged in any more; others leave it to the view.
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    client.force_login(get_user_model().objects.create_user("former", is_staff=True, is_active=False))
    assert client.get(URL).status_code == 403
    assert client.get(STREAM).status_code == 403
    assert client.post(URL, {"verb": "kill", "channel": "room", "confirmed": "yes"}).status_code == 403
    assert published == []


SEND_FORM = {"verb": "signals", "channel": "room", "signals": "{}"}
KILL_FORM = {"verb": "kill", "channel": "room", "confirmed": "yes"}
# Each verb, with its arguments right and wrong.
FORMS = {
    "send": [
        SEND_FORM,
        {"verb": "elements", "channel": "room", "html": "<b>x</b>"},
        {"verb": "elements"},
        {"verb": "signals", "channel": "a\nb", "signals": "nonsense"},
    ],
    "disconnect": [
        KILL_FORM,
        {"verb": "kill", "channel": "room"},
        {"verb": "disconnect", "channel": "room", "user": "7", "confirmed": "yes"},
        {"verb": "disconnect"},
        {"row": '["kill", "room"]'},
        {"row": '["disconnect", "room", "7"]', "confirmed": "yes"},
        {"row": '["kill"]'},
        {"row": '["kill", 1, 2, 3, 4]'},
        # The row counts, and not what is beside it.
        {"row": '["kill", "room"]', "verb": "signals", "channel": "room", "signals": "{}", "confirmed": "yes"},
    ],
}


@pytest.mark.django_db
@pytest.mark.parametrize("headers", [{}, {"Datastar-Request": "true"}])
@pytest.mark.parametrize("permission", ["send", "disconnect"])
def test_each_verb_needs_its_permission(published, permission, headers):
    (other,) = FORMS.keys() - {permission}
    client = log_in(permission, is_staff=True)
    for form in FORMS[other]:
        assert client.post(URL, form, headers=headers).status_code == 403
    assert published == []
    form = SEND_FORM if permission == "send" else KILL_FORM
    assert client.post(URL, form, headers=headers).status_code == (200 if headers else 302)
    assert len(published) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    "form", [*FORMS["send"], *FORMS["disconnect"], {}, {"verb": "explode"}, {"row": "["}, {"row": "[[]]"}]
)
def test_staff_without_a_permission_may_only_look(published, form):
    client = log_in(is_staff=True)
    assert client.get(URL).status_code == 200
    assert client.post(URL, form).status_code == 403
    assert published == []


@pytest.mark.django_db
@pytest.mark.parametrize("form", [SEND_FORM, KILL_FORM])
def test_permissions_without_staff_status_open_nothing(published, form):
    client = log_in("send", "disconnect")
    for answer in (client.get(URL), client.post(URL, form), client.get(STREAM)):
        assert answer.status_code == 403
    assert published == []


@pytest.mark.django_db
def test_superusers_need_no_permission(published):
    client = log_in(is_staff=True, is_superuser=True)
    for form in (SEND_FORM, KILL_FORM):
        assert client.post(URL, form).status_code == 302
    assert len(published) == 2


@pytest.mark.django_db
@pytest.mark.parametrize("permissions", [(), ("send",), ("disconnect",), ("send", "disconnect")])
def test_page_has_the_forms_that_its_user_may_use(permissions):
    broadcast.new("room-with-a-row")
    text = log_in(*permissions, is_staff=True).get(URL).content.decode()
    broadcast.kill("room-with-a-row")
    assert "room-with-a-row" in text
    assert ("<h2>Send</h2>" in text) == ('value="elements"' in text) == ("send" in permissions)
    for mark in ("<h2>Close</h2>", 'id="act"', 'value="kill"', ">Kill<"):
        assert (mark in text) == ("disconnect" in permissions), mark


@pytest.mark.django_db
def test_done_is_told_to_those_who_may_only_disconnect():
    client = log_in("disconnect", is_staff=True)
    page = client.get(URL + client.post(URL, KILL_FORM)["Location"]).content.decode()
    assert re.search(r'<p id="act-notice" class="notice done"[^>]*>The channel was killed\.</p>', page)


@pytest.mark.django_db
def test_permissions_are_djangos_own_and_change_no_table():
    found = Permission.objects.filter(content_type__app_label="ds_broadcaster").values_list("codename", flat=True)
    assert set(found) == {"send", "disconnect"}
    assert "ds_broadcaster_inspector" not in connection.introspection.table_names()
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    for options in ({}, {"use_base_manager": True}):
        out = io.StringIO()
        call_command("dumpdata", "ds_broadcaster", stdout=out, **options)
        assert json.loads(out.getvalue()) == []


# The switch


@pytest.mark.parametrize("url", [URL, STREAM, URL + "style.css"])
def test_page_that_is_switched_off_is_not_found(staff, published, settings, url):
    settings.DS_BROADCASTER_INSPECTOR = False
    assert staff.get(url).status_code == 404
    assert staff.post(URL, SEND_FORM).status_code == 404
    assert published == []


def test_page_that_is_switched_off_has_no_urls():
    program = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["ds_broadcaster"], ROOT_URLCONF="ds_broadcaster.urls",
                   SECRET_KEY="x", ALLOWED_HOSTS=["*"], DS_BROADCASTER_INSPECTOR=%r)
django.setup()
from ds_broadcaster.urls import urlpatterns
print(sorted(each.name for each in urlpatterns))
"""
    for given, names in [(False, STREAMS), (True, [*PAGES, *STREAMS]), ("no", STREAMS)]:
        done = run(program % given)
        assert (done.returncode, done.stdout.strip()) == (0, str(names)), done.stderr


# Its channels


NAMES = [CHANNEL, READ_ONLY, "ds_broadcaster.", "ds_broadcaster.anything"]
CALLS = [
    lambda b, name: b(name, "<p id=a>"),
    lambda b, name: b.signals(name, {}),
    lambda b, name: b.remove(name, "#a"),
    lambda b, name: b.new(name),
    lambda b, name: b.kill(name),
    lambda b, name: b.disconnect(name, 1),
    lambda b, name: b.recheck(name),
    lambda b, name: b.get_users(name),
    lambda b, name: b.connect(name, make_request(make_scope())),
    lambda b, name: b.connect(["room", name], make_request(make_scope())),
    lambda b, name: asyncio.run(b.aconnect(name, make_request(make_scope()))),
    lambda b, name: asyncio.run(b.asignals(name, {})),
    lambda b, name: Template("{% load ds_broadcaster %}{% broadcast_subscribe name user %}").render(
        Context({"name": name, "user": AnonymousUser()})
    ),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", CALLS)
def test_its_names_are_reserved(call, name):
    with pytest.raises(ValueError, match=r'^channel must not begin with "ds_broadcaster\.", .*reserved for the inspec'):
        call(broadcast, name)


def test_its_channels_are_not_listed(world):
    world.client((CHANNEL,), 1, is_inspectors=True)
    world.client((READ_ONLY,), 2, is_inspectors=True)
    world.client("room", 3)
    assert world.broadcast.get_channels() == ["room"]
    assert world.loop.run_until_complete(world.broadcast.aget_channels()) == ["room"]


def test_no_signal_is_sent_about_its_channels():
    """A receiver could do nothing with a name that no verb takes."""
    heard = []

    def receive(channel, **kwargs):
        heard.append(channel)

    user_joined.connect(receive)
    try:
        threads = Threads(type(broadcast), ordered=(ordered := ThreadPoolExecutor(1)))
        for name in (CHANNEL, READ_ONLY, "room"):
            threads.send(user_joined, name, 1)
        ordered.shutdown(wait=True)
        threads.close()
    finally:
        user_joined.disconnect(receive)
    assert heard == ["room"]


def test_login_middleware_does_not_redirect_the_stream(client, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert client.get(STREAM).status_code == 403
    assert client.get(URL)["Location"].startswith("/admin/login/")
    assert client.get(URL + "style.css").status_code == 200


def test_without_auth_middleware_all_are_refused(client, settings):
    settings.MIDDLEWARE = []
    settings.ROOT_URLCONF = __name__
    assert client.get(URL).status_code == 403
    assert client.get(STREAM).status_code == 403


def test_a_project_without_auth_and_templates_still_gets_an_answer():
    program = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["ds_broadcaster"], ROOT_URLCONF="ds_broadcaster.urls",
                   SECRET_KEY="x", ALLOWED_HOSTS=["*"])
django.setup()
from django.core.management import call_command
call_command("check")
from django.test import Client, RequestFactory
assert Client().get("/inspector/").status_code == 403
from django.urls import resolve
request = RequestFactory().get("/inspector/")
staff = {"is_active": True, "is_staff": True, "is_authenticated": True}
request.user = type("Staff", (), staff)()
answer = resolve("/inspector/").func(request)
assert answer.status_code == 200 and b"<h2>Send</h2>" not in answer.content
request.user = type("Superuser", (), staff | {"is_superuser": True})()
assert b"<h2>Send</h2>" in resolve("/inspector/").func(request).content
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


# The page


def test_the_page_shows_channels_and_cursor(staff, settings):
    settings.X_FRAME_OPTIONS = "SAMEORIGIN"  # The page is stricter than its project.
    broadcast.new("made before its first connection")
    page = staff.get(URL)
    assert page.status_code == 200
    assert page["X-Frame-Options"] == "DENY"
    assert "no-store" in page["Cache-Control"]
    text = page.content.decode()
    assert "made before its first connection" in text
    assert broadcast.cursor() in text
    assert "{#" not in text
    broadcast.kill("made before its first connection")
    assert "made before its first connection" not in staff.get(URL).content.decode()


@pytest.mark.parametrize("url", [URL, "/nested/live/inspector/"])
def test_the_page_works_under_any_namespace(staff, settings, url):
    settings.ROOT_URLCONF = __name__
    assert staff.get(url).status_code == 200
    assert staff.get(url + "style.css")["Content-Type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    "templates",
    [
        [],
        [{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"autoescape": False}}],
    ],
)
def test_the_page_escapes_names_under_any_template_settings(staff, settings, templates):
    settings.TEMPLATES = templates
    broadcast.new(HOSTILE[0])
    text = staff.get(URL).content.decode()
    broadcast.kill(HOSTILE[0])
    assert html.escape(HOSTILE[0]) in text
    assert HOSTILE[0] not in text


def test_half_a_surrogate_pair_in_a_name_does_not_fail_the_page(staff):
    broadcast.new("half \ud800 a pair")
    page = staff.get(URL)
    (row,) = [value for _, value in Forms(page.content.decode()).rows if "half" in value]
    staff.post(URL, {"row": row, "confirmed": "yes"})
    assert "half" not in staff.get(URL).content.decode()


needs_csp = pytest.mark.skipif(find_spec("django.middleware.csp") is None, reason="Django 6.0 has this middleware")


@needs_csp
def test_the_page_carries_the_nonce_of_djangos_csp_middleware(staff, settings):
    from django.utils.csp import CSP

    settings.MIDDLEWARE = [
        "django.middleware.csp.ContentSecurityPolicyMiddleware",
        *(name for name in settings.MIDDLEWARE if not name.startswith("tests.")),
    ]
    settings.SECURE_CSP = {"script-src": [CSP.NONCE, CSP.UNSAFE_EVAL], "style-src": [CSP.NONCE]}
    page = staff.get(URL)
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", page["Content-Security-Policy"]))
    # On the style sheet, on the client, and for the expressions that the client runs.
    assert page.content.decode().count(f'nonce="{nonce}"') == 3


# The forms


@pytest.mark.parametrize("with_middleware", [True, False])
def test_forms_need_a_csrf_token(staff, published, settings, with_middleware):
    if not with_middleware:
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "csrf" not in name]
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = staff.cookies
    form = {"verb": "signals", "channel": "room", "signals": "{}"}
    assert strict.post(URL, form).status_code == 403
    assert published == []
    page = strict.get(URL).content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    assert strict.post(URL, form | {"csrfmiddlewaretoken": token}).status_code == 302
    assert published == [("signals", "room", {}, False)]


@pytest.mark.parametrize(
    "form,call",
    [
        ({"verb": "elements", "html": "<b>x</b>"}, ("elements", "room", "<b>x</b>", None, None)),
        (
            {"verb": "elements", "html": "<b>x</b>", "selector": "#log", "mode": "append"},
            ("elements", "room", "<b>x</b>", "#log", "append"),
        ),
        (
            {"verb": "elements", "html": "", "selector": "#a", "mode": "remove"},
            ("elements", "room", "", "#a", "remove"),
        ),
        ({"verb": "signals", "signals": '{"a": [1]}'}, ("signals", "room", {"a": [1]}, False)),
        (
            {"verb": "signals", "signals": "{}", "only_if_missing": "on"},
            ("signals", "room", {}, True),
        ),
        ({"verb": "kill", "confirmed": "yes"}, ("kill", "room")),
        ({"verb": "disconnect", "user": "7", "confirmed": "yes"}, ("disconnect", "room", "7")),
        ({"row": '["disconnect", "room", "7"]', "confirmed": "yes"}, ("disconnect", "room", "7")),
    ],
)
def test_a_form_does_what_it_says_and_redirects(staff, published, form, call):
    answer = staff.post(URL, {"channel": "room"} | form)
    assert published == [call]
    assert (answer.status_code, answer["Location"]) == (302, f"?done={call[0]}")
    assert DONE[call[0]] in staff.get(URL + answer["Location"]).content.decode()


@pytest.mark.parametrize(
    "form,message",
    [
        ({"verb": "elements", "html": "<b>", "mode": "append"}, 'mode "append" needs a selector'),
        ({"verb": "elements", "html": "<b>", "mode": "up"}, "mode must be one of"),
        ({"verb": "elements", "html": "<b>", "selector": "a\nb"}, "selector must not hold a line break"),
        ({"verb": "elements", "html": " "}, "Write some HTML"),
        ({"verb": "elements", "html": "<b>", "channel": "a\nb"}, "channel must not hold a line break"),
        ({"verb": "elements", "html": "<b>", "channel": ""}, "channel must not be empty"),
        ({"verb": "elements", "html": "x" * (1 << 20)}, "DS_BROADCASTER_MAX_EVENT_BYTES"),
        ({"verb": "signals", "signals": "{a: 1}"}, "signals must be JSON"),
        ({"verb": "signals", "signals": "[" * 100_000}, "signals must be JSON"),
        ({"verb": "signals", "signals": '{"a": NaN}'}, "signals must have a JSON form"),
        ({"verb": "signals", "signals": "[1]"}, "signals must be a dict"),
        ({"verb": "disconnect", "user": "<i>", "confirmed": "yes"}, "user_id must be a primary key"),
        ({"verb": "disconnect", "user": "", "confirmed": "yes"}, "user_id must be a primary key"),
        ({"verb": "explode"}, "verb must be one of"),
        ({}, "verb must be one of"),
        ({"row": "["}, "row must be"),
        ({"row": '{"kill": 1}'}, "row must be"),
        ({"row": "[1, 2]"}, "row must be"),
        ({"row": '["kill"]'}, "row must be"),
        ({"row": '["kill", "a", "b", "c"]'}, "row must be"),
    ],
)
def test_an_error_is_shown_beside_its_form(staff, published, form, message):
    form = {"channel": "room"} | form
    answer = staff.post(URL, form)
    assert answer.status_code == 400
    text = html.unescape(answer.content.decode())
    assert message in re.search(r'<p id="(send|act)-notice" class="notice error"[^>]*>([^<]+)', text)[2]
    if form.get("selector"):
        assert 'value="a\nb"' in text
    # For the Datastar client, which patches nothing of a 400.
    answer = staff.post(URL, form, headers={"Datastar-Request": "true"})
    assert answer.status_code == 200
    assert message in html.unescape(answer.content.decode())
    assert "<i>" not in answer.content.decode()
    assert published == []


@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_without_javascript_the_server_asks_first(staff, published, verb):
    page = staff.post(URL, {"row": json.dumps([verb, HOSTILE[1], "<b>7"])}).content.decode()
    assert published == []
    assert HOSTILE[1] not in page
    assert "<b>7" not in page
    row = html.unescape(re.search(r'<input type="hidden" name="row" value="([^"]*)"', page)[1])
    assert json.loads(row) == [verb, HOSTILE[1], "<b>7"]


# The numbers


def test_rates_are_taken_between_two_readings():
    rates = Rates()
    assert rates.update(1000, {"a": 5}) == {}
    assert rates.update(1002, {"a": 9, "b": 3}) == {"a": 2}
    assert rates.update(1002.1, {"a": 99}) == {"a": 2}
    assert rates.update(1004, {"a": 4, "b": 3}) == {"a": 2, "b": 0}
    assert rates.update(1400, {"a": 400}) == {}


class CountingOverview(Overview):
    renders = 0

    def render(self, *args):
        self.renders += 1
        return super().render(*args)


@pytest.fixture
def world(monkeypatch):
    """A broadcaster and its clients, whose clock is also that of the rates."""
    with virtual_world() as world:
        monkeypatch.setattr("ds_broadcaster.inspector.overview.time", SimpleNamespace(monotonic=world.loop.time))
        yield world


def test_overview_is_bounded(world, settings):
    overview = Overview(world.broadcast)
    for number in range(CHANNELS + 7):
        world.client(f"channel {number:04}")
    for user in [0, *range(USERS + 5)]:
        world.client("popular", user)
    world.client((CHANNEL,), 1, is_inspectors=True)
    world.client((READ_ONLY,), 1, is_inspectors=True)
    text = overview(CHANNEL, [])
    assert text.count("<tr id=") == CHANNELS
    assert "and 8 more, with fewer connections" in text
    assert text.count("Disconnect user") == USERS
    assert "and 5 more</span>" in text
    assert "\N{MULTIPLICATION SIGN}2" in text
    assert f"<dd>{CHANNELS + 7 + USERS + 6}</dd>" in text
    assert f"Streams here: {CHANNELS + 7 + USERS + 8} handed off</span>" in text
    assert f">{CHANNEL}<" not in text
    settings.DS_BROADCASTER_MAX_EVENT_BYTES = 20_000
    text = overview(CHANNEL, [])
    assert 0 < text.count("<tr id=") < CHANNELS
    assert len(text) < 20_000
    settings.DS_BROADCASTER_MAX_EVENT_BYTES = 2_000
    assert "108 channels, too many to show in one event." in overview(CHANNEL, [])


def test_long_names_are_cut_and_the_buttons_keep_the_whole(world):
    world.client("x" * 5000)
    text = Overview(world.broadcast).render()
    assert f">{'x' * 199}…<" in text
    assert json.loads(Forms(text).rows[0][1]) == ["kill", "x" * 5000, ""]


def test_it_is_refreshed_each_second_while_it_has_viewers_and_only_then(world):
    overview = CountingOverview(world.broadcast)
    watchers = [world.client((CHANNEL,), user, presence_callback=overview, is_inspectors=True) for user in (1, 2)]
    members = [world.client("room") for _ in range(3)]
    world.advance(2)
    assert "room" in watchers[0].texts[-1]
    for number in range(20):
        world.broadcast.signals("room", {"number": number})
    world.broadcast.signals("no connections", {})
    world.advance(1)
    assert "Events a second</dt><dd>20<" in watchers[0].texts[-1]
    assert "Deliveries a second</dt><dd>60<" in watchers[1].texts[-1]
    world.advance(1)
    assert "Events a second</dt><dd>0<" in watchers[0].texts[-1]

    # What did not change is not sent again.
    sent, rendered = len(watchers[0].texts), overview.renders
    world.advance(10)
    assert (len(watchers[0].texts), overview.renders) == (sent, rendered + 10)

    # A second tab alone does not make it render more often; without any, nothing is left.
    watchers[0].vanish()
    world.advance(10)
    assert overview.renders == rendered + 20
    watchers[1].vanish()
    world.settle()
    for member in members:
        member.vanish()
    world.advance(10)
    assert overview.renders == rendered + 20
    assert [handle for handle in world.loop._scheduled if not handle.cancelled()] == []
    assert world.hub.is_idle()


def test_an_error_does_not_end_the_refreshing(world, caplog):
    overview = CountingOverview(world.broadcast)
    watcher = world.client((CHANNEL,), 1, presence_callback=overview, is_inspectors=True)
    with patch.object(Overview, "_facts", side_effect=RuntimeError("it fails")):
        world.advance(3)
    assert "it fails" in caplog.text
    world.client("room")
    world.advance(2)
    assert "room" in watcher.texts[-1]


# Live

# The tables are made only where a test is marked so.
server_with_users = pytest.mark.django_db(transaction=True)


@server_with_users
@pytest.mark.parametrize("mode", MODES)
def test_the_stream_shows_every_change_and_leaks_nothing(start_server, mode):
    server = start_server(mode=mode)
    boss = server.login("boss", staff=True)
    # The first of everything makes the threads and caches that stay.
    with boss.connect(path=STREAM) as first:
        first.expect("No connections.")
    before = server.facts()
    stream = boss.connect(path=STREAM)
    ann = server.login("ann")
    clients = [ann.connect(path=f"/connect/{quote(name)}/") for name in HOSTILE]
    event = stream.expect(lambda event: event.elements.count("<tr id=") == len(HOSTILE))
    for name in HOSTILE:
        assert f">{html.escape(name)}</th>" in event.elements
    assert "<script" not in event.elements
    assert "<img" not in event.elements
    assert "csrf" not in event.elements
    server.call("signals", HOSTILE[0], {"a": 1})
    rate = re.compile(r"Events a second</dt><dd>(\d)\.(\d)<")
    stream.expect(lambda event: rate.search(event.elements))

    # The row's own buttons reach exactly the channel they stand for.
    page = boss.get(URL)
    rows = dict(Forms(page.text).rows)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    for title, client, name in [
        (f"Disconnect user {ann.user_id} from {HOSTILE[1]}?", clients[1], HOSTILE[1]),
        (
            f"Kill {HOSTILE[0]}? Its connections are closed and its history is forgotten.",
            clients[0],
            HOSTILE[0],
        ),
    ]:
        body = f"row={quote(rows[title])}&csrfmiddlewaretoken={token}".encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Datastar-Request": "true"}
        answer = boss.request("POST", URL, body, headers)
        assert html.escape(name) in answer.text
        assert "1 connection closed" in answer.text
        assert client.wait_end() == "clean"
    stream.expect(lambda event: event.elements.count("<tr id=") == len(HOSTILE) - 2)
    stream.close()
    for client in clients:
        client.close()

    def settled():
        now = server.facts()
        return now["tasks"] <= before["tasks"] and now["files"] <= before["files"]

    # Each look is a request of its own, in which the server gets on with its work.
    assert any(settled() for _ in range(200)), (before, server.facts())


@server_with_users
def test_former_staff_are_stopped_for_good(start_server):
    server = start_server()
    boss = server.login("boss-for-a-day", staff=True)
    with boss.connect(path=STREAM) as stream:
        stream.expect("overview")
    get_user_model().objects.filter(pk=boss.user_id).update(is_staff=False)
    assert boss.connect(path=STREAM, last_event_id=stream.last_event_id).status == 204


@server_with_users
@pytest.mark.parametrize("mode", MODES)
def test_stream_ends_when_its_user_is_staff_no_more(start_server, mode):
    server = start_server(mode=mode)
    boss = server.login("boss-for-an-hour", staff=True)
    stream = boss.connect(path=STREAM)
    stream.expect("overview")
    assert "Kill" in boss.get(URL).text
    user = get_user_model().objects.get(pk=boss.user_id)

    # Another kind of stream is for those who may only look, so the page is asked to return.
    user.is_superuser = False
    user.save()
    server.call("recheck")
    assert stream.wait_end() == "cut"
    assert "Kill" not in boss.get(URL).text
    with boss.connect(path=STREAM, last_event_id=stream.last_event_id) as stream:
        stream.expect("overview")
        user.is_staff = False
        user.save()
        server.call("recheck")
        assert stream.wait_end() == "cut"
    assert boss.connect(path=STREAM, last_event_id=stream.last_event_id).status == 204


@server_with_users
@pytest.mark.parametrize("mode", MODES)
def test_in_the_browser(chromium, start_server, channel, mode):
    server = start_server(mode=mode, settings=CLIENT)
    tab = chromium.tab(server.login("boss", staff=True))
    tab.add_init_script(
        """
        const asked = [], answers = [false, true, true];
        window.confirm = question => { asked.push(question); window.asked = asked; return answers.shift(); };
        """
    )
    tab.goto(URL)
    expect(tab.locator(".link")).to_have_text("Live")
    expect(tab.locator("#overview")).to_contain_text("No connections.")

    # A channel appears.
    ann = server.login("ann")
    client = ann.connect(channel)
    hostile = [ann.connect(path=f"/connect/{quote(name)}/") for name in HOSTILE[:2]]
    row = tab.locator("tbody tr", has_text=channel)
    expect(row).to_have_count(1)
    expect(row.locator(".user")).to_have_text(str(ann.user_id))
    expect(tab.locator("tbody th", has_text=HOSTILE[0])).to_have_text(HOSTILE[0])
    expect(tab.locator("#overview img")).to_have_count(0)

    # The form sends, keeps its text, and shows errors.
    form = tab.locator("form", has_text="Send elements")
    form.locator("[name=channel]").fill(channel)
    form.locator("[name=html]").fill('<p id="a">one\ntwo</p>')
    form.locator("[name=mode]").select_option("append")
    form.locator("[value=elements]").click()
    expect(tab.locator("#send-notice")).to_contain_text('mode "append" needs a selector')
    form.locator("[name=selector]").fill("#log")
    form.locator("[value=elements]").click()
    expect(tab.locator("#send-notice")).to_have_text(f"Sent to {channel}: 1 connection.")
    event = client.expect('<p id="a">')
    assert (event.elements, event.args["mode"]) == ('<p id="a">one\ntwo</p>', "append")
    form.locator("[name=signals]").fill('{"count": 3}')
    form.locator("[value=signals]").click()
    client.expect('{"count":3}')
    expect(form.locator("[name=html]")).to_have_value('<p id="a">one\ntwo</p>')

    # Its buttons ask first.
    row.locator(".user").click()
    server.call("signals", channel, {"still": "here"})
    client.expect("here")
    row.locator(".user").click()
    assert client.wait_end() == "clean"
    expect(tab.locator("#act-notice")).to_contain_text("1 connection closed")
    expect(row).to_have_count(0)
    tab.locator("tbody tr", has_text=HOSTILE[0]).locator(".danger").click()
    assert hostile[0].wait_end() == "clean"
    asked = tab.evaluate("window.asked")
    assert asked[:2] == [f"Disconnect user {ann.user_id} from {channel}?"] * 2
    assert asked[2].startswith(f"Kill {HOSTILE[0]}?")
    assert len(asked) == 3
    assert tab.errors == []

    # It says when it is refused, and when it is no longer live.
    tab.context.clear_cookies()
    form.locator("[value=signals]").click()
    expect(tab.locator("[role=alert]")).to_be_visible()
    server.kill()
    expect(tab.locator(".link")).to_have_text("Connecting…")


@server_with_users
@needs_csp
def test_page_is_live_under_a_policy_that_forbids_to_evaluate(chromium, start_server, settings):
    from django.utils.csp import CSP

    names = [name for name in settings.MIDDLEWARE if not name.startswith("tests.")]
    policy = {"default-src": [CSP.SELF], "img-src": ["data:"], "script-src": [CSP.NONCE], "style-src": [CSP.NONCE]}
    own = {"MIDDLEWARE": ["django.middleware.csp.ContentSecurityPolicyMiddleware", *names], "SECURE_CSP": policy}
    server = start_server(settings=CLIENT | own)
    tab = chromium.tab(server.login("boss", staff=True))
    tab.goto(URL)
    expect(tab.locator(".link")).to_have_text("Live")
    assert tab.errors == []


@server_with_users
def test_in_a_browser_without_javascript(chromium, start_server, channel):
    server = start_server(settings=CLIENT)
    client = server.login("ann").connect(channel)
    tab = chromium.tab(server.login("boss", staff=True), java_script_enabled=False)
    tab.goto(URL)
    tab.locator("form", has_text="Send elements").locator("[name=channel]").fill(channel)
    tab.locator("[name=signals]").fill("[1]")
    tab.locator("[value=signals]").click()
    expect(tab.locator("#send-notice")).to_contain_text("signals must be a dict")
    expect(tab.locator("[name=signals]")).to_have_value("[1]")
    tab.locator("[name=signals]").fill('{"count": 3}')
    tab.locator("[value=signals]").click()
    expect(tab.locator("#send-notice")).to_have_text("The signals were sent.")
    client.expect('{"count":3}')
    tab.locator("tbody .danger").click()
    expect(tab.locator(".question h2")).to_have_text(f"Kill {channel}?")
    tab.locator(".question .danger").click()
    expect(tab.locator("#act-notice")).to_have_text("The channel was killed.")
    assert client.wait_end() == "clean"
