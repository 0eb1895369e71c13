"""Projects made of other people's apps, live without a line changed in these, and tested as a project tests itself.

Each has settings of its own, and so a process of its own. Its tests are in its tests.py: one's are Django's test cases,
run by Django, and the other's are functions, run by pytest.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.requirements import require_apps

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*arguments):
    command = [sys.executable, "-W", "error", "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_newsroom_of_wagtail():
    require_apps("wagtail")
    run("django", "test", "tests.trial.newsroom", "--settings=tests.trial.newsroom.settings", "--pythonpath=.")


def test_support_desk_of_helpdesk_rest_framework_and_allauth():
    require_apps("django-allauth", "django-helpdesk", "djangorestframework")
    folder = "tests/trial/support"
    # The folder's fixtures are those of the kit alone.
    ours = ("--ds=tests.trial.support.settings", f"--confcutdir={folder}", "-p", "no:cacheprovider")
    run("pytest", f"{folder}/tests.py", *ours)
