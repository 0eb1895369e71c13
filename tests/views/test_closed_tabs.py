"""Where a page tells that it closes: it ends what the same user's tab left, and nothing else."""

import json

import pytest
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from ds_broadcaster import broadcast
from ds_broadcaster.streams.tabs import TAB

pytestmark = pytest.mark.django_db

URL = "/events/tab-closed/"
ID = "12345678-abcd"


@pytest.fixture
def closed(monkeypatch):
    """Return the tabs that are closed, each a user and an id."""
    found = []
    monkeypatch.setattr(broadcast.opener, "close_tab", lambda user_id, tab: found.append((user_id, tab)))
    return found


@pytest.fixture
def ann():
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create(pk=7, username="ann"))
    return client


def test_beacon_closes_a_tab_of_its_user(ann, closed):
    """A beacon has the body of a form, and no token."""
    answer = ann.post(URL, f"{TAB}={ID}", content_type="application/x-www-form-urlencoded;charset=UTF-8")
    assert (answer.status_code, answer.content, answer["Cache-Control"]) == (204, b"", "no-store")
    assert closed == [(7, ID)]


@override_settings(
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
)
def test_anonymous_beacon_changes_nothing(closed):
    assert Client().post(URL, {TAB: ID}).status_code == 204
    assert closed == []


@pytest.mark.parametrize(
    "fields", [{}, {TAB: ""}, {TAB: "short"}, {TAB: "x" * 65}, {TAB: "a b c d e f"}, {"other": ID}]
)
def test_what_names_no_tab_changes_nothing(ann, closed, fields):
    assert ann.post(URL, fields).status_code == 204
    assert closed == []


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json"])
def test_large_body_is_not_read(ann, closed, content_type):
    body = json.dumps({TAB: ID}).ljust(10_000) if content_type.endswith("json") else f"{TAB}={ID}&x=".ljust(10_000, "x")
    assert ann.post(URL, body, content_type=content_type).status_code == 204
    assert closed == []


def test_other_methods_are_refused(ann, closed):
    assert ann.get(URL, {TAB: ID}).status_code == 405
    assert closed == []
