"""The plugin in a project of its own: nothing to write in conftest.py, and nothing left behind."""

import subprocess
import sys

SETTINGS = """
SECRET_KEY = "only for tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "ds_broadcaster"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "project"
# Of a server that there is not.
DS_BROADCASTER_BROKER = {"BACKEND": "ds_broadcaster.brokers.redis.RedisBroker", "LOCATION": "redis://localhost:1"}
"""

PROJECT = """
from django.contrib.auth.models import User
from django.urls import include, path
from ds_broadcaster import BroadcastChannelView

class HallChannel(BroadcastChannelView):
    url_path = "hall/"

    def channel_name(self):
        return "hall"

    def render_presence(self, user_ids):
        return f"<p id=count>{User.objects.count()}</p>"

    def on_leave(self, user_id):
        User.objects.get(pk=user_id)

urlpatterns = [path("events/", include("ds_broadcaster.urls"))]
"""

TESTS = """
import asyncio
import threading
import pytest
from django.contrib.auth.models import User
from ds_broadcaster import broadcast
from ds_broadcaster.testing import assert_refused

@pytest.fixture
def ann(db):
    return User.objects.create_user("ann")

# The streams before the database, and the other way round.

@pytest.mark.parametrize("number", range(4))
def test_two_streams_left_open(open_stream, broadcasts, ann, number):
    one, other = (open_stream("ds_broadcaster:hall-channel", user=ann) for _ in range(2))
    one.close()
    broadcast("hall", "<p id=a></p>")
    other.next(mode="outer")
    broadcasts.assert_sent("hall", count=1)

@pytest.mark.django_db(transaction=True)
def test_without_a_transaction(ann, open_stream):
    broadcast("hall", "<p id=a></p>")
    open_stream("ds_broadcaster:hall-channel", user=ann, cursor="x-1").assert_open()

@pytest.mark.django_db
def test_anonymous_visitors():
    assert_refused(None, "ds_broadcaster:hall-channel")

def test_failing_test_leaves_nothing(open_stream, ann):
    open_stream("ds_broadcaster:hall-channel", user=ann)
    raise ZeroDivisionError

def test_failure_shows_the_test_alone(broadcasts):
    broadcasts.assert_sent("hall")

def test_nothing_is_left():
    assert not [each.name for each in threading.enumerate() if "ds_broadcaster" in each.name]
"""


def test_project_needs_no_conftest(tmp_path):
    for name, text in ("kit_settings.py", SETTINGS), ("project.py", PROJECT), ("test_project.py", TESTS):
        (tmp_path / name).write_text(text)
    options = "-q -W error --ds=kit_settings -p no:cacheprovider -p no:asyncio --rootdir=. -n2"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "2 failed, 7 passed" in done.stdout, done.stdout + done.stderr
    assert "- What the test had open -" in done.stdout
    assert "\nthe stream of /events/hall/\n" in done.stdout
    assert "no event to 'hall'" in done.stdout
    assert "broadcasts.py" not in done.stdout
