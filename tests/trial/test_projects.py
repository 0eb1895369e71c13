"""Projects made of other people's apps, live without a line changed in these, and tested as a project tests itself.

Each has settings of its own, and so a process of its own. Its tests are in its tests.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.requirements import require_apps

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "project, packages",
    [("support", ["django-allauth", "django-helpdesk", "djangorestframework"])],
    ids=["support"],
)
def test_tests_of_the_project_pass(project, packages):
    require_apps(*packages)
    folder = f"tests/trial/{project}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"{folder}/tests.py", f"--confcutdir={folder}", "-p", "no:cacheprovider"),
            # Their migrations take longer than the tests.
            *(f"--ds=tests.trial.{project}.settings", "--nomigrations"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
