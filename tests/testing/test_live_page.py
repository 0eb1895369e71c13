"""Pages of a test: two people on a page, who see what the other does; what is posted, and what becomes of streams."""

import json

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import TestCase, override_settings

from ds_broadcaster import broadcast
from ds_broadcaster.testing import BroadcastTestMixin, kit
from ds_broadcaster.testing.kit import staged
from tests.chat.models import Message, Room
from tests.settings import MIDDLEWARE
from tests.testing import page_site

pytestmark = [pytest.mark.django_db, pytest.mark.urls(page_site.__name__)]


@pytest.fixture(autouse=True)
def _middleware():
    with override_settings(MIDDLEWARE=[*MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"]):
        yield


@pytest.fixture
def page(live_page, room, ann):
    return live_page(f"/rooms/{room.pk}/", user=ann)


def texts(page, css="#messages li"):
    return [each.text for each in page.select(css)]


# The words of the contract


def test_two_people(live_page, room, ann, bob):
    a, b = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    a.post(f"/rooms/{room.pk}/say/", {"text": "hi"})
    a.settle(), b.settle()
    assert [li.text for li in b.select("#messages li")] == ["hi 0 Yes"]
    assert b.signals["count"] == 1
    assert b.state == "live"


def test_away(live_page, broadcaster_clock, room, ann, bob):
    a, b = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    a.hide()
    broadcaster_clock.advance(3)
    b.settle()
    assert b.select_one("#people .away").text == str(ann.pk)
    a.show()
    b.settle()
    assert b.select_one("#people .away") is None
    assert len(b.select("#people li")) == 2


# What is posted


def test_the_tab_that_posts_is_left_out(live_page, room, ann, bob):
    a, b = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    broadcast(f"room-{room.pk}", "<p id=status></p>", selector="body", mode="append")
    a.post("/whisper/", {"room": room.pk})
    a.settle(), b.settle()
    assert (texts(a, "#status"), texts(b, "#status")) == ([""], ["psst"])


def test_without_data_the_signals_are_sent(page):
    page.signals.update(text="hi", _mine=1)
    said = json.loads(page.post("/signals/").headers["X-Said"])
    assert said == {"text": "hi", "broadcastTab": page.signals["broadcastTab"]}
    assert json.loads(page.get("/signals/").headers["X-Said"]) == said
    assert json.loads(page.post("/signals/", payload={"x": 1}).headers["X-Said"]) == {"x": 1}


@pytest.mark.parametrize("kind", ["events", "async-events", "html"])
def test_answer_of_elements_is_applied(page, kind):
    assert page.post(f"/answers/{kind}/", {}).status_code == 200
    assert texts(page, "#people li") == ["new"]


@pytest.mark.parametrize("kind", ["events", "async-events", "json"])
def test_answer_of_signals_is_applied(page, kind):
    page.get(f"/answers/{kind}/")
    assert page.signals["count"] == 7


def test_answer_of_a_script_is_recorded(page):
    page.post("/answers/script/")
    assert page.scripts == ["setTimeout(() => window.location = '/bare/')"]
    assert page.redirect == "/bare/"


def test_refusal_changes_nothing(page):
    assert page.post("/answers/refusal/", {}).status_code == 422
    assert texts(page, "#people li") != []


def test_url_is_relative_to_the_page(page, room):
    page.post("say/", {"text": "hi"})
    assert Message.objects.get().text == "hi"


def test_page_without_a_token_is_refused(live_page, room, ann):
    page = live_page("/bare/", user=ann)
    assert page.post(f"/rooms/{room.pk}/say/", {"text": "hi"}).status_code == 403
    assert (page.state, page.reason) == ("closed", "no element of the page opens a stream")


# Streams


def test_what_happens_while_the_page_renders_is_not_missed(page, room):
    Message.objects.create(room=room, text="hi")
    assert texts(page) == []
    page.settle()
    assert len(texts(page)) == 1


def test_user_who_may_not_listen(live_page, room):
    page = live_page(f"/rooms/{room.pk}/", user=get_user_model().objects.create_user("eve"))
    assert page.state == "closed"
    assert page.select_one("[data-broadcast]").attrs["data-broadcast"] == "closed"
    why = "KitRoomChannel: has_permission() returned False for user"
    assert page.reason.startswith(f"/events/kit/rooms/{room.pk}/ answered with 403: {why}")
    assert repr(page) == f"<LivePage /rooms/{room.pk}/ of eve: closed, {page.reason}>"


def test_kicked_user_does_not_come_back(page, room, ann):
    ann.groups.clear()
    broadcast.recheck(f"room-{room.pk}", ann.pk)
    page.settle()
    assert page.state == "closed"
    ann.groups.add(Group.objects.get())
    broadcast(f"room-{room.pk}", "<p id=say>for others</p>")
    page.settle()
    assert (page.state, page.select_one("#say").tag) == ("closed", "form")


def test_lost_stream_comes_back_with_what_it_missed(page, room):
    [stream] = page._streams.values()
    stream._stream._reading.cancel()
    Message.objects.create(room=room, text="hi")
    page.settle()
    assert page.state == "live"
    assert len(texts(page)) == 1


def test_stream_is_lost_during_an_outage(live_page, broadcaster_outage, room, ann):
    with broadcaster_outage():
        page = live_page(f"/rooms/{room.pk}/", user=ann)
        page.settle()
        assert page.state == "lost"
    page.settle()
    assert page.state == "live"


def test_hidden_page_gets_what_it_missed_when_it_is_shown(page, room):
    page.hide()
    Message.objects.create(room=room, text="hi")
    page.settle()
    assert texts(page) == []
    page.show()
    assert len(texts(page)) == 1


def test_user_of_a_closed_page_leaves(live_page, broadcaster_clock, room, ann, bob):
    a, b = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    a.close()
    broadcaster_clock.advance(3)
    b.settle()
    assert texts(b, "#people li") == [str(bob.pk)]
    a.settle()
    assert not a._streams


def test_element_that_comes_later_opens_its_stream(live_page, page, room, ann):
    bare = live_page("/bare/", user=ann)
    element = page.select_one("[data-broadcast]").html
    bare._document.patch(element, "body", "append")
    bare.settle()
    assert (bare.state, len(bare._streams)) == ("live", 1)


def test_page_that_is_shown_already_keeps_its_stream(page):
    before = list(page._streams.values())
    page.show()
    assert list(page._streams.values()) == before


def test_element_that_is_not_ours_is_left_alone(live_page, ann):
    page = live_page("/bare/", user=ann)
    page._document.patch('<i data-broadcast="connecting" data-init="start()"></i>', "body", "append")
    page.settle()
    assert not page._streams


def test_page_shows_the_signals(page, room):
    page._document.patch('<b id="count" data-text="`${$count} so far`" data-show="$count"></b>', "body", "append")
    assert page.select_one("#count").attrs["style"] == "display: none;"
    broadcast.signals(f"room-{room.pk}", {"count": 2})
    page.settle()
    assert page.select_one("#count").text == "2 so far"
    assert page.select_one("#count").attrs["style"] == ""


def test_element_that_is_gone_leaves(page, room):
    broadcast.elements(f"room-{room.pk}", "", selector="[data-broadcast]", mode="remove")
    page.settle()
    assert not page._streams


# Pages that fetch themselves


def test_page_fetches_itself(live_page, room, ann):
    page = live_page("/lists/all/", user=ann)
    page._document.set_attribute(page.select_one("html"), "class", "light")
    Message.objects.bulk_create([Message(room=room, text="hi")])
    broadcast.refresh("list")
    page.settle()
    assert (page.title, texts(page, "#note"), texts(page)) == ("1 rows", ["1"], ["hi"])
    assert page.select_one("html").attrs["class"] == "light"
    assert page.state == "live"


def test_page_fetches_a_part_of_itself(live_page, room, ann):
    page = live_page("/lists/%23messages/", user=ann)
    Message.objects.bulk_create([Message(room=room, text="hi")])
    broadcast.refresh("list")
    page.settle()
    assert (page.title, texts(page, "#note"), texts(page)) == ("0 rows", ["0"], ["hi"])


# Redirects


def test_redirect_is_followed_to_another_page(page, broadcaster_clock, room):
    broadcast.redirect(f"room-{room.pk}", "/bare/")
    page.settle()
    assert (page.redirect, page.url) == ("/bare/", f"/rooms/{room.pk}/")
    page.follow()
    assert (page.redirect, page.url, texts(page, "#status")) == (None, "/bare/", ["bare"])
    broadcaster_clock.advance(3)
    assert broadcast.get_presence(f"room-{room.pk}") == []


def test_page_after_a_redirect_is_live(page, room):
    broadcast.redirect(f"room-{room.pk}", f"/rooms/{room.pk}/?again")
    page.settle()
    page.follow()
    Message.objects.create(room=room, text="hi")
    page.settle()
    assert (page.url, page.state, len(texts(page))) == (f"/rooms/{room.pk}/?again", "live", 1)


def test_redirect_of_an_answer_is_followed_too(page):
    page.post("/elsewhere/", {})
    page.follow()
    assert page.url == "/bare/"


def test_page_that_redirects(live_page):
    assert live_page("/elsewhere/").url == "/bare/"


def test_redirect_to_another_site(page, live_page):
    page.post("/away/", {})
    with pytest.raises(AssertionError, match=r"another site: https://example\.com/"):
        page.follow()
    with pytest.raises(AssertionError, match="another site"):
        live_page("/away/")


def test_nothing_to_follow(page):
    with pytest.raises(AssertionError, match="Nothing sends /rooms/"):
        page.follow()


def test_what_is_no_page(live_page):
    with pytest.raises(AssertionError, match="/nowhere/ is no page: /nowhere/ answered with 404"):
        live_page("/nowhere/")
    with pytest.raises(AssertionError, match="answered with 200"):
        live_page("/answers/json/")


def test_page_is_named_for_people(page, room):
    assert page.reason is None
    assert repr(page) == f"<LivePage /rooms/{room.pk}/ of ann: live>"


def test_page_that_is_left_open_is_named(room, ann, caplog):
    caplog.set_level("INFO", "ds_broadcaster")
    with staged() as stage:
        kit.live_page(stage, f"/rooms/{room.pk}/", user=ann)
    assert f"the page /rooms/{room.pk}/ of ann, with the stream of /events/kit/rooms/{room.pk}/." in caplog.text


# Async


async def test_async_test(alive_page, room, ann, bob):
    path = f"/rooms/{room.pk}/"
    a, b = await alive_page(path, user=ann), await alive_page(path, user=bob)
    await a.apost("say/", {"text": "hi"})
    await b.asettle()
    assert len(texts(b)) == 1
    await a.ahide()
    await a.ashow()
    assert (await a.aget("/signals/")).status_code == 204
    await a.apost("/elsewhere/", {})
    await a.afollow()
    assert a.url == "/bare/"
    await b.aclose()


class PageTests(BroadcastTestMixin, TestCase):
    def test_mixin(self):
        room = Room.objects.create(name="garden")
        user = get_user_model().objects.create_user("ann")
        user.groups.add(Group.objects.create(name=f"room-{room.pk}"))
        page = self.live_page(f"/rooms/{room.pk}/", user=user)
        Message.objects.create(room=room, text="hi")
        page.settle()
        assert len(texts(page)) == 1

    async def test_mixin_in_an_async_test(self):
        page = await self.alive_page("/bare/")
        assert page.user is None


# Streams that a page opens by hand


def test_stream_that_is_opened_by_hand(live_page):
    page = live_page("/by-hand/")
    assert page.state == "live"
    assert texts(page, "#people li") == ["new"]  # The answer of another @get().
    broadcast("hall", "<p id=status>hello</p>")
    page.settle()
    assert texts(page, "#status") == ["hello"]
    page.hide()
    broadcast("hall", "<p id=status>missed</p>")
    page.show()
    assert texts(page, "#status") == ["missed"]
    broadcast.kill("hall")
    page.settle()
    assert (page.state, page.reason) == ("closed", "broadcast.kill() closed its channel")


def test_get_of_a_stream_says_how_to_open_it(live_page):
    with pytest.raises(AssertionError, match="/open/hall/ answered with a stream, which has no end: write"):
        live_page("/bare/").get("/open/hall/")
