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


def run(folder, command):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
    written = defaultdict(list)
    for file, code in FILE.findall((COOKBOOK / "guide" / "testing.md").read_text()):
        written[file].append(code)
    for file, codes in written.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n\n".join(codes))
    said = run(tmp_path, f"{PYTEST} --no-migrations --ignore=rooms/test_browser.py")
    assert "14 passed" in said


def test_page_about_testing_has_ten_tests():
    assert (COOKBOOK / "testing" / "rooms" / "tests.py").read_text().count("\ndef test_") == 10


@pytest.mark.browser
@pytest.mark.servers
def test_page_about_testing_in_a_browser():
    assert "1 passed" in run(COOKBOOK / "testing", f"{PYTEST} -p tests.cookbook.playwright_page rooms/test_browser.py")
