"""The projects of the cookbook pass their own tests, as their readers run them."""

import os
import subprocess
import sys

import pytest

from tests.harness.server import ROOT

PYTEST = "-m pytest -q -W error -p no:asyncio -p no:cacheprovider"


def run(folder, command):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT / "cookbook" / folder,
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_recipes():
    run("recipes", PYTEST)


def test_room():
    run("room", "-W error manage.py test")


def test_page_about_testing():
    run("testing", f"{PYTEST} --ignore=rooms/test_browser.py")


def test_page_about_testing_has_ten_tests():
    assert (ROOT / "cookbook/testing/rooms/tests.py").read_text().count("\ndef test_") == 10


@pytest.mark.browser
@pytest.mark.servers
def test_page_about_testing_in_a_browser():
    assert "1 passed" in run("testing", f"{PYTEST} -p tests.cookbook.playwright_page rooms/test_browser.py")
