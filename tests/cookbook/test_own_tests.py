"""The projects of the cookbook pass their own tests, as their readers run them."""

import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
from django.core.management import call_command

from tests.harness.server import ROOT

COOKBOOK = ROOT / "cookbook"
# A file on a page, or a part of one.
FILE = re.compile(r'^```[\w+]+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PYTEST = "-m pytest -q -W error -p no:asyncio -p no:cacheprovider"


# What the page shows of failures.
FAILING = """
from ds_broadcaster.testing import assert_may_listen

from .models import Room
from .views import RoomChannel


def test_mode(broadcasts, room, channel, ann):
    room.messages.create(author=ann, text="The beans are up")
    broadcasts.assert_sent(channel, mode="prepend", target="#messages", contains="The beans are up")


def test_queries(broadcasts, open_stream, room, ann, bob, monkeypatch):
    monkeypatch.setattr(Room, "history", lambda room: room.messages.order_by("pk"))
    for author in (ann, bob, ann):
        room.messages.create(author=author, text="Hello")
    open_stream(RoomChannel, pk=room.pk, user=ann, cursor="of-another-server-1")
    broadcasts.assert_max_queries(2)


def test_permission(room, eve):
    assert_may_listen(eve, RoomChannel, pk=room.pk)
"""


def run(folder, command, expected=0):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def test_recipes():
    run(COOKBOOK / "recipes", PYTEST)


def test_room():
    run(COOKBOOK / "room", "-W error manage.py test")


def test_page_about_testing_from_an_empty_folder(tmp_path):
    """What the page says to run and to write is all that its tests need."""
    (tmp_path / "rooms").mkdir()
    call_command("startproject", "mysite", str(tmp_path))
    call_command("startapp", "rooms", str(tmp_path / "rooms"))
    run(tmp_path, "-m ds_broadcaster init --yes")
    for file in ("mysite/settings.py", "mysite/urls.py"):
        path = tmp_path / file
        text = path.read_text().replace("INSTALLED_APPS = [", "INSTALLED_APPS = ['rooms',")
        path.write_text(text.replace("urlpatterns = [", "urlpatterns = [path('rooms/', include('rooms.urls')),"))
    page = (COOKBOOK / "guide" / "testing.md").read_text()
    written = defaultdict(list, {"rooms/test_failing.py": [FAILING]})
    for file, code in FILE.findall(page):
        written[file].append(code)
    for file, codes in written.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n\n".join(codes))
    said = run(tmp_path, f"{PYTEST} --no-migrations --ignore=rooms/test_browser.py", expected=1)
    assert "3 failed, 14 passed" in said
    shown = re.findall("^[>E] .*", page, re.MULTILINE)
    assert len(shown) > 10
    assert [line for line in shown if line not in said] == [], said


def test_page_about_testing_has_ten_tests():
    assert (COOKBOOK / "testing" / "rooms" / "tests.py").read_text().count("\ndef test_") == 10


@pytest.mark.browser
@pytest.mark.servers
def test_page_about_testing_in_a_browser():
    assert "1 passed" in run(COOKBOOK / "testing", f"{PYTEST} -p tests.cookbook.playwright_page rooms/test_browser.py")
