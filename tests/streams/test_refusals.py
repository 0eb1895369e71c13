"""Who loses a stream, and how they are told, where the project's own code does not think of it."""

import pytest

from tests.live import begun, each_mode_of

pytestmark = pytest.mark.django_db(transaction=True)

site = each_mode_of(
    settings={
        "ROOT_URLCONF": "tests.project.channel_site",
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "ds_broadcaster.middleware.BroadcasterMiddleware",
        ],
    }
)

DATASTAR = {"Datastar-Request": "true"}


@pytest.fixture
def club(site):
    ann = site.login("ann")
    site.get("/membership/77/ann/add/")
    return ann


def test_permission_that_cannot_be_asked_for_nobody_is_a_refusal(site):
    for headers, status in (({}, 403), (DATASTAR, 403), (DATASTAR | {"last-event-id": "a-1"}, 204)):
        assert site.get("/events/careless/77/", headers=headers).status == status


@pytest.mark.parametrize("what", ["logout", "off", "password", "delete"])
def test_permission_that_cannot_be_asked_for_nobody_ends_the_stream(site, what):
    name = f"careless-{what}"
    visitor = site.login(name)
    site.get(f"/membership/78/{name}/add/")
    client = visitor.connect(path="/events/careless/78/")
    begun(client)
    if what == "logout":
        visitor.get("/logout/")
    else:
        site.get(f"/account/{name}/{what}/")
    assert client.wait_end(5) == "cut"
    assert visitor.get("/events/careless/78/", headers=DATASTAR | {"last-event-id": "a-1"}).status == 204


def test_view_that_stumbles_over_what_is_gone_does_not_keep_its_stream(site, club):
    client = club.connect(path="/events/gone/77/")
    begun(client)
    site.get("/remove-club/77/")
    site.call("recheck")
    assert client.wait_end(5) == "cut"


@pytest.mark.parametrize("status, headers", [(403, DATASTAR), (204, DATASTAR | {"last-event-id": "a-1"})])
def test_our_element_is_not_sent_to_a_login_page(site, status, headers):
    answer = site.get("/function/room/?cursor=a-1&element=broadcast-1", headers=headers)
    assert answer.status == status
    assert "Location" not in answer.headers
    assert answer.body == b""


def test_others_are(site):
    assert site.get("/function/room/").status == 302
    assert site.get("/function/room/?element=broadcast-1").status == 302
    assert site.get("/function/room/", headers=DATASTAR).status == 302
