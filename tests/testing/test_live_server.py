"""The live server of the testing kit, as a project uses it with playwright."""

import gc
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.template import RequestContext, Template
from django.test import Client, override_settings
from django.urls import include, path
from playwright.sync_api import expect, sync_playwright

from ds_broadcaster import BrokerUnavailable, broadcast
from ds_broadcaster.testing import BroadcastLiveServerTestCase, wait_for_live
from ds_broadcaster.testing.live_server import live_server
from tests.chat.models import Message, Room
from tests.harness.browser import FLAGS
from tests.harness.requirements import require_chromium
from tests.harness.server import ROOT
from tests.project import urls
from tests.testing.kit_site import open_to_all, say

STYLE = "/static/admin/css/base.css"

# The site

PAGE = Template(
    """{% load ds_broadcaster %}<!doctype html><title>{{ room }}</title><link rel="icon" href="data:,">
    {% datastar_script %}
    <form id="say" method="post" action="say/">{% csrf_token %}<input name="text"></form>
    <ul id="people"></ul><p id="status"></p><div id="messages"></div>
    {% broadcast_connect "kit-room-channel" pk=room.pk %}"""
)


@login_required
def room_page(request, pk):
    return HttpResponse(PAGE.render(RequestContext(request, {"room": get_object_or_404(Room, pk=pk)})))


def page_of(request):
    return HttpResponse(Template("{% load ds_broadcaster %}" + request.GET["source"]).render(RequestContext(request)))


def write(request):
    """Write to the database as often as asked, and tell how many rooms there are."""
    for _ in range(int(request.GET["times"])):
        Room.objects.create(name="another")
    return HttpResponse(str(Room.objects.count()))


urlpatterns = [
    path("rooms/<int:pk>/", room_page),
    path("rooms/<int:pk>/say/", say),
    path("open/<slug:name>/", open_to_all, name="open"),
    path("page/", page_of),
    path("write/", write),
    *urls.urlpatterns,
    path("events/", include("ds_broadcaster.urls")),
]

pytestmark = [pytest.mark.urls(__name__)]


@pytest.fixture(autouse=True)
def _client(settings):
    settings.DS_BROADCASTER_DATASTAR_URL = "/client/datastar.js"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    with ExitStack() as undo:

        def new_page(server, user=None):
            context = browser.new_context(base_url=str(server))
            undo.callback(context.close)
            if user is not None:
                client = Client()
                client.force_login(user)
                session = client.cookies["sessionid"].value
                context.add_cookies([{"name": "sessionid", "value": session, "url": server.url}])
            return context.new_page()

        yield new_page


@pytest.fixture
def room(transactional_db):
    room = Room.objects.create(name="garden")
    Group.objects.create(name=f"room-{room.pk}")
    return room


@pytest.fixture
def new_member(room):
    def new_member(username):
        user = get_user_model().objects.create_user(username)
        user.groups.add(Group.objects.get(name=f"room-{room.pk}"))
        return user

    return new_member


# In a browser


@pytest.mark.browser
@pytest.mark.servers
def test_pages_get_what_the_test_and_they_themselves_send(live_asgi_server, broadcasts, new_page, room, new_member):
    pages = [new_page(live_asgi_server, new_member(name)) for name in ("ann", "bob")]
    for page in pages:
        page.goto(live_asgi_server + f"/rooms/{room.pk}/")
        wait_for_live(page)
    broadcast(f"room-{room.pk}", "<p id=status>from the test</p>")
    for page in pages:
        expect(page.locator("#status")).to_have_text("from the test")
        expect(page.locator("#people li")).to_have_count(2)
    with pages[0].expect_navigation():
        pages[0].locator("[name=text]").fill("from a page")
        pages[0].locator("[name=text]").press("Enter")
    wait_for_live(pages[0])
    assert Message.objects.get().text == "from a page"
    broadcasts.assert_sent(f"room-{room.pk}", signals={"count": 1}, count=1)
    broadcasts.assert_sent(f"room-{room.pk}", mode="append", count=1)
    with urlopen(live_asgi_server + STYLE) as answer:
        assert answer.status == 200


@pytest.mark.browser
@pytest.mark.servers
def test_page_that_is_not_live_is_told_of_with_the_reason(live_asgi_server, new_page, room):
    eve = get_user_model().objects.create_user("eve")
    page = new_page(live_asgi_server, eve)

    def failure():
        with pytest.raises(AssertionError) as found:
            wait_for_live(page, timeout=0.1)
        return str(found.value)

    page.goto(f"/rooms/{room.pk}/")
    page.wait_for_selector("[data-broadcast=closed]", state="attached")
    path = f"/events/kit/rooms/{room.pk}/"
    found = failure()
    assert found.startswith(f"{page.url} is not live after 0.1 s:\n  - #broadcast-")
    assert f" is 'closed': its stream {path} was answered with " in found
    assert "(KitRoomChannel: has_permission() returned False" in found

    def source(text):
        page.goto(live_asgi_server + "/page/?source=" + text.replace("%", "%25"))

    source("<p>nothing")
    assert "has no stream: write {% broadcast_connect %}" in failure()
    source('{% broadcast_connect "open" name="a" %}')
    assert "'connecting': the page loads no script. Write {% datastar_script %}" in failure()
    source('<script type="module" src="/no-such.js"></script>{% broadcast_connect "open" name="a" %}')
    assert f"'connecting': the page could not load {live_asgi_server}/no-such.js" in failure()


@pytest.mark.browser
@pytest.mark.servers
def test_live_page_is_what_the_browser_shows(live_asgi_server, live_page, new_page):
    source = """{% load ds_broadcaster %}<!doctype html><head><link rel="icon" href="data:,">
        {% datastar_script %}</head><ul id="list" data-signals="{count: 0, o: {a: 1}}"><li id="a">one</li></ul>
        <b data-text="`${$count} new`" data-show="$count"></b><i data-class:down="$_broadcast !== 'live'"></i>
        <svg id="drawing" viewBox="0 0 1 1"></svg><table><tbody id="rows"><tr><td>1</td></tr></tbody></table>
        <input id="field" data-bind:name value="ann">{% broadcast_connect "open" name="a" %}"""
    url = f"/page/?source={quote(source)}"
    browser, page = new_page(live_asgi_server), live_page(url)
    browser.goto(url)
    wait_for_live(browser)
    broadcast("a", '<li id="b">two</li><li id="c">three</li>', selector="#list", mode="append")
    broadcast("a", '<ul id="list" class="x"><li id="c">3<li id="d">4<li id="a">1</ul>')
    broadcast.remove("a", "#d")
    broadcast.signals("a", {"count": 3, "o": {"a": None, "b": 2}})
    broadcast.signals("a", {"count": 4, "new": 1}, only_if_missing=True)
    broadcast("a", "<tr><td>2</td></tr>", selector="#rows", mode="prepend")
    broadcast("a", '<circle r="1"/>', selector="#drawing", mode="append", namespace="svg")
    broadcast("a", '<input id="field" data-bind:name value="bob">')
    broadcast.script("a", "window.told = 1")
    broadcast.dispatch("a", "told")
    broadcast("a", '<p id="last"></p>', selector="#list", mode="after")
    browser.wait_for_selector("#last", state="attached")
    page.settle()
    cursor = re.compile("cursor=[^&]*")
    shown = browser.evaluate("document.documentElement.outerHTML")
    assert cursor.sub("", shown) == cursor.sub("", page.select_one("html").html)
    assert page.scripts == ["window.told = 1"]
    assert (page.signals["name"], page.signals["o"], page.signals["count"]) == ("bob", {"b": 2}, 3)


# The server


def open_http(server, name="a"):
    connection = http.client.HTTPConnection(urlsplit(str(server)).netloc, timeout=5)
    connection.request("GET", f"/open/{name}/")
    answer = connection.getresponse()
    assert answer.status == 200
    answer.readline()
    return connection, answer


@pytest.mark.servers
def test_it_ends_at_once_with_open_streams_and_leaves_nothing(transactional_db):
    gc.collect()
    threads = {*threading.enumerate()}
    with live_server() as server:
        assert str(server) == server.url == server + ""
        assert "ann" not in {each.name for each in Room.objects.all()}
        streams = [open_http(server) for _ in range(20)]
        with urlopen(server + "/write/?times=1") as answer:
            assert answer.read() == b"1"
        broadcast("a", "<p id=status>hello</p>")
        for _, answer in streams:
            while b"hello" not in answer.readline():
                pass
        begin = time.monotonic()
    assert time.monotonic() - begin < 1
    for connection, answer in streams:
        with pytest.raises(http.client.IncompleteRead):  # So that a page returns.
            answer.read()
        connection.close()
    assert {*threading.enumerate()} - threads == set()
    with pytest.raises(OSError, match="refused"):
        urlopen(server.url)


@pytest.mark.servers
def test_streams_of_the_kit_and_outages_are_there_beside_it(broadcaster_outage, open_stream, live_asgi_server):
    connection, answer = open_http(live_asgi_server)
    stream = open_stream("open", name="a")
    with broadcaster_outage(), pytest.raises(BrokerUnavailable):
        broadcast("a", "<p id=status>hello</p>")
    broadcast("a", "<p id=status>again</p>")
    assert "again" in stream.next().html
    while b"again" not in answer.readline():
        pass
    connection.close()


@pytest.mark.servers
def test_many_requests_write_at_once(live_asgi_server):
    def ask(_):
        with urlopen(live_asgi_server + "/write/?times=5") as answer:
            return int(answer.read())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(16))) == 80
    assert Room.objects.count() == 80


@pytest.mark.servers
def test_database_in_memory_is_shared(tmp_path):
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    environment = os.environ | {"TEST_SETTINGS": json.dumps({"DATABASES": databases})}
    options = ["-q", "-p", "no:cacheprovider", "--no-migrations"]
    names = ("test_many_requests_write_at_once", "test_it_ends_at_once_with_open_streams_and_leaves_nothing")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(f"{__file__}::{each}" for each in names)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.servers
@override_settings(ROOT_URLCONF=__name__)
class TestWithUnittest(BroadcastLiveServerTestCase):
    def test_site_is_served_and_what_is_sent_is_recorded(self):
        connection, answer = open_http(self.live_server_url)
        broadcast("a", "<p id=status>hello</p>")
        while b"hello" not in answer.readline():
            pass
        connection.close()
        self.broadcasts.assert_sent("a", mode="outer", count=1)
        with urlopen(f"{self.live_server_url}/write/?times=2") as answer:
            assert answer.read() == b"2"

    def test_each_test_has_an_empty_database_and_history(self):
        assert Room.objects.count() == 0
        self.broadcasts.assert_nothing_sent()
