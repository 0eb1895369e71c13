"""`manage.py runserver` of ds_broadcaster.contrib.runserver."""

import asyncio
import logging
import re
import socket
import sys
import time
from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command, load_command_class
from django.test import override_settings

from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import find_link
from ds_broadcaster.contrib.runserver import checks
from ds_broadcaster.contrib.runserver.application import get_application
from ds_broadcaster.contrib.runserver.management.commands import runserver
from ds_broadcaster.contrib.runserver.server import Listener, RequestLog
from tests.harness.server import ROOT
from tests.live import begun, until
from tests.settings import INSTALLED_APPS, TEMPLATES

APP = "ds_broadcaster.contrib.runserver"
STYLE = "/static/admin/css/base.css"

SITE = """
import os
import time

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.autoreload import StatReloader

from ds_broadcaster.contrib.runserver import server
from tests.project import tag_site

StatReloader.SLEEP_TIME = 0.05  # seconds
server.GRACE, server.LAST_SECONDS = 0.2, 0.1
os.environ["DJANGO_COLORS"] = "nocolor"


def page(request):
    return render(request, "edited.html", {"word": "first"})


def stuck(request):
    print("stuck", flush=True)
    time.sleep(30)


urlpatterns = [*tag_site.urlpatterns, path("edited/", page), path("stuck/", stuck)]
"""

PAGE = """{% load ds_broadcaster %}<!doctype html>
<html lang="en"><head><title>Edited</title><link rel="icon" href="data:,">{% datastar_script %}</head>
<body>{% broadcast_connect "tag-room" channel="edited" %}<p>{{ word }}</p><p id="target"></p></body></html>"""

STATE = "document.querySelector('[data-broadcast]').dataset.broadcast"


@pytest.fixture
def start(tmp_path, start_server):
    """Serve a site of one page that is being edited, whose files are in `tmp_path`."""
    (tmp_path / "edited_site.py").write_text(SITE)
    (tmp_path / "edited.html").write_text(PAGE)

    def start(*args, **settings):
        settings |= {
            "DEBUG": True,
            "INSTALLED_APPS": [APP, *INSTALLED_APPS],
            "ROOT_URLCONF": "edited_site",
            "TEMPLATES": [{**TEMPLATES[0], "DIRS": [str(tmp_path)]}],
            "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
            "LOGGING": {},
        }
        env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "WEB_CONCURRENCY": "4"}
        return start_server("runserver", settings=settings, args=args, env=env)

    return start


def test_edited_code_and_templates_reach_a_live_page_which_returns_by_itself(start, tmp_path, chromium):
    server = start()
    tab = chromium.tab(server.visitor())
    tab.goto("/edited/")
    tab.wait(f"{STATE} == 'live'")
    assert server.get(STYLE).status == 200
    client = server.connect("edited")
    begun(client)

    template = tmp_path / "edited.html"
    template.write_text(PAGE.replace("<p>", "<p>edited "))
    # The reloader may look at the folder for the first time after this edit, and would not know it for one.
    until(lambda: template.touch() or "<p>edited first" in server.get("/edited/").text, 20)
    assert client.end is None

    # A view in a debugger does not hold the reload up, nor do streams.
    with socket.create_connection(("127.0.0.1", server.port)) as busy:
        busy.sendall(b"GET /stuck/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.wait_for_log("stuck\n")
        (tmp_path / "edited_site.py").write_text(SITE.replace("first", "second"))
        begin = time.monotonic()
        assert client.wait_end(5) == "cut"
        assert 1000 <= client.retry <= 2000  # milliseconds
        tab.wait(f"{STATE} == 'lost'")
        tab.wait(f"{STATE} == 'live'")
    assert time.monotonic() - begin < 8
    assert "edited second" in server.get("/edited/").text
    server.call("elements", "edited", '<p id="target">from the new process</p>')
    tab.wait("document.querySelector('#target').innerText == 'from the new process'")
    assert server.sigint() < 5
    log = server.log()
    assert "edited_site.py changed, reloading." in log
    assert not re.search("Traceback|plain mode|worker processes", log), log


def test_ctrl_c_ends_it_at_once_and_the_log_is_as_of_django(start):
    server = start("--noreload")
    client = server.connect("edited")
    begun(client)
    assert server.get("/no-such-page/?a=%C3%A4").status == 404
    assert server.get(STYLE).status == 200
    assert server.sigint() < 5
    assert client.wait_end(5) == "cut"
    log = server.log()
    assert "Performing system checks..." in log
    assert f"Starting ASGI/uvicorn development server at http://127.0.0.1:{server.port}/\nQuit the server with" in log
    assert re.search(r'^\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "GET /connect/edited/ HTTP/1.1" 200 -$', log, re.MULTILINE)
    assert re.search(r'\] "GET /no-such-page/\?a=%C3%A4 HTTP/1.1" 404 \d{3,}$', log, re.MULTILINE)
    assert re.search(rf'\] "GET {STYLE} HTTP/1.1" 200 \d{{4,}}$', log, re.MULTILINE)
    assert not re.search("Traceback|plain mode|worker processes", log), log


# Parts of it


def test_port_in_use_is_what_django_tells_of(monkeypatch):
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr(runserver.Command, "check_migrations", lambda self: None)
    command = runserver.Command(stderr=StringIO())
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit):
        call_command(command, str(other.getsockname()[1]), "--noreload", "--skip-checks")
    assert command.stderr.getvalue() == "Error: That port is already in use.\n"


def test_listener_takes_either_family_of_addresses():
    for address, ipv6 in (("127.0.0.1", False), ("::1", True)):
        listener = Listener((address, 0), object, ipv6=ipv6)
        with listener._socket, socket.create_connection((address, listener.server_port)):
            pass


@pytest.mark.parametrize(
    "installed, options, expected",
    [
        (["django.contrib.staticfiles"], [], True),
        (["django.contrib.staticfiles"], ["--nostatic"], False),
        (["django.contrib.staticfiles", "whitenoise.runserver_nostatic"], [], False),
    ],
)
def test_static_files_are_served_unless_told_otherwise(monkeypatch, installed, options, expected):
    monkeypatch.setattr(runserver.apps, "is_installed", installed.__contains__)
    parser = runserver.Command().create_parser("manage.py", "runserver")
    assert parser.parse_args(options).use_static_handler is expected


def test_missing_uvicorn_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(runserver, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match=r'pip install "ds-broadcaster\[uvicorn\]"'):
        call_command(runserver.Command())


def test_nothreading_is_accepted_with_a_word(monkeypatch):
    monkeypatch.setattr(runserver.BaseCommand, "inner_run", lambda *args, **options: None)
    command = runserver.Command(stderr=StringIO())
    call_command(command, "--nothreading", "--noreload")
    assert "each sync view has a thread" in command.stderr.getvalue()


def test_application_is_the_one_of_the_project_or_else_django_with_the_handoff():
    with override_settings(ASGI_APPLICATION="tests.project.asgi_plain.application"):
        from tests.project.asgi_plain import application

        assert get_application() is application
    assert isinstance(get_application(), HandoffApplication)
    with (
        override_settings(ASGI_APPLICATION="tests.project.no_such_module.application"),
        pytest.raises(ImproperlyConfigured, match=r'such as "yourproject\.asgi\.application"'),
    ):
        get_application()


@pytest.mark.parametrize(
    "first, is_wrong",
    [(APP, False), ("django.contrib.staticfiles", True), ("daphne", True), ("django.core", True)],
)
def test_app_that_is_not_the_first_with_a_runserver_is_an_error(monkeypatch, first, is_wrong):
    monkeypatch.setattr(checks, "get_commands", lambda: {"runserver": first})
    found = checks.check_order()
    assert [each.id for each in found] == ["ds_broadcaster.E040"] * is_wrong
    if is_wrong:
        assert first in found[0].msg
        assert f'"{APP}" first' in found[0].hint


def test_command_that_adds_to_ours_may_come_first(monkeypatch):
    class Wrapping(runserver.Command):
        pass

    monkeypatch.setattr(checks, "get_commands", lambda: {"runserver": "whitenoise.runserver_nostatic"})
    monkeypatch.setattr(checks, "load_command_class", lambda *args: Wrapping())
    assert checks.check_order() == []
    assert isinstance(load_command_class(APP, "runserver"), runserver.Command)


class FakeCycle:
    """Looks to find_link() like uvicorn's state of a response, which leads to its transport."""

    __module__ = "uvicorn.protocols.http.httptools_impl"
    transport = SimpleNamespace(abort=None)

    def __init__(self):
        self.sent = []

    async def send(self, message):
        self.sent.append(message)


@pytest.mark.parametrize(
    "status, headers, bodies, expected",
    [
        (200, [], [b"one", b"two"], ("INFO", '"GET /a%20b?c=1 HTTP/1.1" 200 6')),
        (404, [], [b""], ("WARNING", '"GET /a%20b?c=1 HTTP/1.1" 404 0')),
        (500, [], [b"x"], ("ERROR", '"GET /a%20b?c=1 HTTP/1.1" 500 1')),
        (200, [(b"Content-Type", b"text/event-stream")], [], ("INFO", '"GET /a%20b?c=1 HTTP/1.1" 200 -')),
    ],
)
def test_request_is_logged_once_and_the_handoff_finds_a_server(caplog, monkeypatch, status, headers, bodies, expected):
    caplog.set_level(logging.INFO, "django.server")
    monkeypatch.setattr(logging.getLogger("django.server"), "propagate", True)
    cycle = FakeCycle()
    links = []

    async def application(scope, receive, send):
        links.append(find_link(send))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    scope = {"type": "http", "method": "GET", "path": "/a b", "query_string": b"c=1", "http_version": "1.1"}
    asyncio.run(RequestLog(application)(scope, None, cycle.send))
    assert len(cycle.sent) == 1 + len(bodies)
    assert links[0].transport is cycle.transport
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == expected
    assert record.status_code == status
