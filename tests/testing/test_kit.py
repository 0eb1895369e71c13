"""The testing kit, as a project uses it: recording, permission, streams, the clock, the outage."""

import re
from unittest.mock import patch

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import AsyncClient, Client
from django.urls import NoReverseMatch

from ds_broadcaster import BrokerUnavailable, bind_broadcasts, broadcast
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.testing import assert_may_listen, assert_refused, loop
from ds_broadcaster.testing.kit import open_stream as kit_open
from ds_broadcaster.testing.kit import staged
from ds_broadcaster.testing.visitor import Visitor
from tests.chat.models import Message, Reply, Room
from tests.testing import kit_site
from tests.testing.kit_site import KitRoomChannel

pytestmark = [pytest.mark.django_db, pytest.mark.urls(kit_site.__name__)]


# The words of the contract


def test_message_reaches_the_room(broadcasts, room, ann):
    Message.objects.create(room=room, text="hi")
    broadcasts.assert_sent(f"room-{room.pk}", mode="append", target="#messages", contains="hi", count=1)
    broadcasts.assert_nothing_sent("another-room")
    [sent] = broadcasts
    assert sent.channel == f"room-{room.pk}"


def test_who_may_listen(room, ann, eve):
    assert_may_listen(ann, "ds_broadcaster:kit-room-channel", pk=room.pk)
    assert_refused(eve, "ds_broadcaster:kit-room-channel", pk=room.pk)
    assert_refused(None, KitRoomChannel, pk=room.pk)
    assert_may_listen(ann, f"/events/kit/rooms/{room.pk}/")


def test_kick(open_stream, room, ann):
    stream = open_stream("ds_broadcaster:kit-room-channel", pk=room.pk, user=ann)
    broadcast(f"room-{room.pk}", "<p id=status>hello</p>")
    assert "hello" in stream.next().html
    ann.groups.clear()
    broadcast.recheck(f"room-{room.pk}", ann.pk)
    stream.assert_closed()
    assert "has_permission() returned False" in stream.reason


def test_outage(broadcasts, broadcaster_outage, room):
    with broadcaster_outage():
        Message.objects.create(room=room, text="saved all the same")
        with pytest.raises(BrokerUnavailable):
            broadcast("x", "<p id=a></p>")
    broadcasts.assert_nothing_sent()
    broadcast("x", "<p id=a></p>")
    broadcasts.assert_sent("x")


def test_presence_sees_the_tests_own_rows(open_stream, broadcaster_clock, room, ann, bob):
    kit_site.attended.clear()
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    assert kit_site.attended == [("join", ann.pk, 1)]
    other = open_stream(KitRoomChannel, pk=room.pk, user=bob)
    assert f"<li>{bob.pk}" in stream.next().html
    assert {each.user_id for each in broadcast.get_presence(f"room-{room.pk}")} == {ann.pk, bob.pk}
    other.close()
    stream.assert_nothing()
    broadcaster_clock.advance(60)
    assert f"<li>{bob.pk}" not in stream.next().html
    assert kit_site.attended[-1] == ("leave", bob.pk, 1)


# Streams


def test_two_streams_and_one_that_leaves_in_the_middle(open_stream, room, ann, bob):
    one, other = (open_stream(KitRoomChannel, pk=room.pk, user=user) for user in (ann, bob))
    broadcast(f"room-{room.pk}", "<p id=a>1</p>")
    one.close()
    broadcast(f"room-{room.pk}", "<p id=a>2</p>")
    assert [event.html for event in other if event.id] == ["<p id=a>1</p>", "<p id=a>2</p>"]
    assert one.reason == "the client left"
    assert [event.html for event in one if event.id] == []


def test_stream_begins_at_a_cursor(open_stream, room, ann):
    cursor = broadcast.cursor()
    broadcast(f"room-{room.pk}", "<p id=a>missed</p>")
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann, cursor=cursor)
    assert "missed" in stream.next().html
    broadcast(f"room-{room.pk}", "<p id=a>seen</p>")
    stream.next(contains="seen")
    stream.close()
    broadcast(f"room-{room.pk}", "<p id=a>missed, too</p>")
    again = open_stream(KitRoomChannel, pk=room.pk, user=ann, headers={"Last-Event-ID": stream.cursor})
    again.next(contains="missed, too")
    again.assert_nothing()


def test_gap_brings_the_snapshot(open_stream, room, ann):
    Message.objects.create(room=room, text="from before")
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann, cursor="another-1")
    assert "from before" in stream.next().html


def test_refreshes_come_one_after_the_other(open_stream, room, ann):
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    for number in range(3):
        Message.objects.bulk_create([Message(room=room, text=f"text {number}")])
        broadcast.refresh(f"room-{room.pk}")
        stream.next(contains=f"text {number}", target="#messages")


@pytest.mark.parametrize(
    "end, reason",
    [
        (lambda room, ann: broadcast.disconnect(room, ann), "broadcast.disconnect() closed it"),
        (lambda room, ann: broadcast.kill(room), "broadcast.kill() closed its channel"),
        (
            lambda room, ann: (
                get_user_model().objects.filter(pk=ann.pk).update(is_active=False) and broadcast.recheck()
            ),
            "a re-check refused it (KitRoomChannel: has_permission() returned False for an anonymous user)",
        ),
    ],
)
def test_reason_says_why_a_stream_ended(open_stream, room, ann, end, reason):
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    end(f"room-{room.pk}", ann)
    stream.assert_closed()
    assert stream.reason == reason


def test_reason_is_that_of_this_stream(open_stream, room, ann, eve):
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    assert_refused(eve, KitRoomChannel, pk=room.pk)
    broadcast.kill(f"room-{room.pk}")
    stream.assert_closed()
    assert stream.reason == "broadcast.kill() closed its channel"


def test_reason_is_the_answer_of_a_view_that_tells_no_more(open_stream, ann):
    stream = open_stream("own", "room", user=ann)
    get_user_model().objects.update(is_active=False)
    broadcast.recheck()
    stream.assert_closed()
    assert stream.reason == "a re-check refused it (it was answered with 302)"


def test_client_gives_its_cookies_and_headers(open_stream):
    client = Client(headers={"Accept-Language": "de", "X-Token": "client's"})
    client.cookies["theme"] = "dark"
    request = open_stream("open", "room", client=client, headers={"X-Token": "stream's"}).response.asgi_request
    assert (request.headers["Accept-Language"], request.headers["X-Token"]) == ("de", "stream's")
    assert request.COOKIES["theme"] == "dark"


def test_function_views_plain_and_async(open_stream):
    for view in ("open", "aopen", kit_site.open_to_all):
        stream = open_stream(view, name="hall")
        broadcast("hall", "<p id=a></p>")
        stream.next(target="#a")


def test_stream_may_be_compressed(open_stream):
    stream = open_stream("open", "hall", headers={"Accept-Encoding": "gzip"})
    assert stream.response.headers["Content-Encoding"] == "gzip"
    broadcast("hall", "<p id=a>hello</p>")
    stream.next(contains="hello")


def test_many_events_keep_no_publisher_waiting(open_stream):
    stream = open_stream("open", "hall")
    for number in range(2500):
        broadcast("hall", f"<p id=a>{number}</p>")
    assert sum(1 for _ in stream) == 2500


@pytest.mark.parametrize(
    "how, reason", [("ends", "its view ended it"), ("fails", "it failed with ZeroDivisionError('Half of it came.')")]
)
def test_stream_of_the_projects_own(open_stream, how, reason):
    stream = open_stream(f"/own-stream/{how}/")
    assert stream.next().signals == {"cut": 1}
    stream.assert_closed()
    assert stream.reason == reason


def test_stream_without_an_end_gives_what_is_there(open_stream, broadcaster_clock):
    stream = open_stream("/ticks/")
    assert [event.signals for event in stream] == [{"tick": 1}]
    broadcaster_clock.advance(3)
    assert len(list(stream)) == 3


def test_what_never_rests_fails_the_test_and_does_not_hang_it(open_stream, monkeypatch):
    monkeypatch.setattr(loop, "PATIENCE", 0.1)
    with pytest.raises(AssertionError, match=r"has not come to rest in 0\.1 s"):
        open_stream("/never-rests/")


def test_view_that_waits_for_what_never_comes_fails_the_test():
    with staged() as stage, pytest.raises(AssertionError, match="A view waits for what does not come within 60 s"):
        Visitor(stage).get("/waits/")


def test_view_that_sleeps_takes_no_time():
    with staged() as stage:
        assert Visitor(stage).get("/takes-its-time/").content == b"done"


def test_what_a_view_raises_reaches_the_test(open_stream):
    with pytest.raises(ZeroDivisionError, match="The view fails"):
        open_stream("/fails/")


def test_what_a_test_left_open_is_closed_and_named(caplog, room, ann):
    with staged() as stage:
        kit_open(stage, KitRoomChannel, pk=room.pk, user=ann)
        kit_open(stage, "open", "hall").close()
        kit_site.attended.clear()
    assert caplog.messages[-1] == f"Closed what the test left open: the stream of /events/kit/rooms/{room.pk}/."
    assert kit_site.attended == []  # The database may be gone by now.


async def test_async_test(aopen_stream, room, ann):
    stream = await aopen_stream(KitRoomChannel, pk=room.pk, user=ann)
    await broadcast.aelements(f"room-{room.pk}", "<p id=a></p>")
    assert (await stream.anext()).selector is None
    await stream.aassert_nothing()
    await stream.aassert_open()
    broadcast.disconnect(f"room-{room.pk}", ann)
    await stream.aassert_closed()


async def test_orm_of_an_async_test_is_in_its_transaction(aopen_stream, broadcasts, room, ann):
    stream = await aopen_stream(KitRoomChannel, pk=room.pk, user=ann)
    await Message.objects.acreate(room=room, text="hi")
    assert "hi" in (await stream.anext()).html
    assert [each.text async for each in Message.objects.all()] == ["hi"]
    # Plain code that waits for async code.
    await sync_to_async(async_to_sync(Message(room=room, text="there").asave))()
    await stream.anext(contains="there")
    response = await AsyncClient().post(f"/rooms/{room.pk}/say/", {"text": "bye"})
    assert response.status_code == 302
    broadcasts.assert_sent(f"room-{room.pk}", contains="bye", count=1)
    with pytest.raises(Room.DoesNotExist):
        await Room.objects.aget(pk=0)


# The clock


def test_clock_moves_on(open_stream, broadcaster_clock, room, ann):
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    ann.groups.clear()
    broadcaster_clock.advance(30)
    stream.assert_open()
    broadcaster_clock.advance(3600)
    stream.assert_closed()
    with staged() as stage:
        now = stage.loop.now
    broadcaster_clock.advance(24 * 3600)
    assert stage.loop.now == now + 24 * 3600
    with pytest.raises(ValueError, match="only goes forward"):
        broadcaster_clock.advance(-1)


# What failures say


def fails_with(text):
    return pytest.raises(AssertionError, match=re.escape(text))


def test_assert_sent_lists_the_nearest_first(broadcasts, room):
    message = Message.objects.create(room=room, text="hi")
    broadcast.signals("other", {"count": 1})
    with pytest.raises(AssertionError) as failure:
        broadcasts.assert_sent(f"room-{room.pk}", mode="prepend", contains="hi")
    first, second = str(failure.value).split("\n  - ")[1:]
    assert str(failure.value).startswith(f"no event to 'room-{room.pk}' with mode='prepend', contains='hi'.")
    assert first.startswith(f"'room-{room.pk}': elements mode='append'")
    assert first.endswith("mode 'append', not 'prepend'")
    assert second.startswith("'other': signals")
    broadcasts.assert_sent(f"room-{room.pk}", target=message, count=0)


@pytest.mark.parametrize(
    "description, said",
    [
        ({"verb": "signals"}, "verb 'elements', not 'signals'"),
        ({"mode": "inner"}, "mode 'outer', not 'inner'"),
        ({"target": "#b"}, "target '#a', not '#b'"),
        ({"contains": "bye"}, "does not contain 'bye'"),
        ({"signals": {"count": 1}}, "no signal 'count'"),
        ({"count": 2}, "1 event to 'room', not 2."),
    ],
)
def test_assert_sent_says_what_differs(broadcasts, description, said):
    broadcast("room", "<p id=a>hi</p>")
    with fails_with(said):
        broadcasts.assert_sent("room", **description)


def test_assert_sent_compares_some_signals(broadcasts):
    broadcast.signals("room", {"count": 2, "name": "x"})
    [sent] = broadcasts.assert_sent("room", verb="signals", signals={"count": 2})
    assert sent.signals == {"count": 2, "name": "x"}
    with fails_with("signal 'count' is 2, not 3"):
        broadcasts.assert_sent("room", signals={"count": 3})


def test_assert_nothing_sent(broadcasts):
    broadcasts.assert_nothing_sent()
    with fails_with("no event to 'room'. Nothing was sent."):
        broadcasts.assert_sent("room")
    broadcast("room", "<p id=a>hi</p>")
    with fails_with("1 sent:\n  - 'room': elements mode='outer' <p id=a>hi</p>"):
        broadcasts.assert_nothing_sent()
    with fails_with("1 sent to 'room':"):
        broadcasts.assert_nothing_sent("room")
    broadcasts.clear()
    broadcasts.assert_nothing_sent()


VERBS = {
    "elements": lambda: broadcast("room", "<p id=a></p>"),
    "remove": lambda: broadcast.remove("room", "#a"),
    "signals": lambda: broadcast.signals("room", {"a": 1}),
    "refresh": lambda: broadcast.refresh("room"),
    "script": lambda: broadcast.script("room", "alert(1)"),
    "redirect": lambda: broadcast.redirect("room", "/it's/"),
    "dispatch": lambda: broadcast.dispatch("room", "paid", {"order": 1}, "#a"),
    "template": lambda: broadcast.template("room", "chat/_reply.html", {"a": 1}, audience=True),
}


@pytest.mark.parametrize("verb", VERBS)
def test_sent_knows_its_verb(broadcasts, verb):
    VERBS[verb]()
    [sent] = broadcasts.assert_sent("room", verb=verb)
    details = {"script": "alert(1)", "redirect": "/it's/", "dispatch": ("paid", {"order": 1}, "#a")}
    assert sent.detail == details.get(verb, ("chat/_reply.html", {"a": 1}) if verb == "template" else None)
    assert str(sent).startswith(f"'room': {verb}")


def test_sent_is_shown_as_people_read_it(broadcasts, room):
    broadcast("room", "<p id=a></p>")
    broadcast.template("room", "chat/_reply.html", {"room": room}, audience=True)
    assert repr(broadcasts) == (
        "[<Sent 'room': elements mode='outer' <p id=a></p>>, "
        f"<Sent 'room': template mode='outer' ('chat/_reply.html', {{'room': 'chat.Room {room.pk}'}})>]"
    )


def test_sent_knows_who_is_left_out(broadcasts):
    broadcast(["a", "b"], "<p id=a></p>", exclude="tab-number-1", transient=True, key="k")
    assert [(each.channel, each.exclude, each.transient, each.key) for each in broadcasts] == [
        ("a", "tab-number-1", True, "k"),
        ("b", "tab-number-1", True, "k"),
    ]


def test_who_may_listen_says_who_and_why(room, ann, eve):
    with fails_with(
        f"User eve may not listen at /events/kit/rooms/{room.pk}/: it answered with 403: "
        f"KitRoomChannel: has_permission() returned False for user {eve.pk}."
    ):
        assert_may_listen(eve, KitRoomChannel, pk=room.pk)
    with fails_with(f"User ann may listen at /events/kit/rooms/{room.pk}/, and was to be refused with 403."):
        assert_refused(ann, KitRoomChannel, pk=room.pk)
    with fails_with("An anonymous visitor is refused at "):
        assert_refused(None, KitRoomChannel, pk=room.pk, status=404)
    page = (
        f"User ann may not listen at /rooms/{room.pk}/: it answered with 200 and a page, 'garden', which is no stream"
    )
    with fails_with(page):
        assert_may_listen(ann, f"/rooms/{room.pk}/")


def test_address_of_a_view_is_checked(room):
    with fails_with("'/a/' is a URL, and takes no arguments: {'pk': 1}."):
        assert_may_listen(None, "/a/", pk=1)
    with fails_with("No URL of KitRoomChannel takes the arguments {'slug': 'a'}."):
        assert_may_listen(None, KitRoomChannel, slug="a")
    with fails_with('The name of this view is "ds_broadcaster:kit-room-channel".'):
        assert_may_listen(None, "kit-room-channel", pk=room.pk)
    with pytest.raises(NoReverseMatch, match="'nowhere' not found"):
        assert_may_listen(None, "nowhere")
    with fails_with("The project's urls do not serve Elsewhere: give a BroadcastChannelView a url_path"):
        assert_may_listen(None, type("Elsewhere", (KitRoomChannel,), {}))


def test_what_is_no_user_verb_or_mode_is_refused(broadcasts, room):
    with pytest.raises(TypeError, match="user must be a saved user, or None for an anonymous visitor, not 'ann'"):
        assert_may_listen("ann", KitRoomChannel, pk=room.pk)
    with pytest.raises(ValueError, match=r"verb must be one of .elements., .*, not .element."):
        broadcasts.assert_sent(room, verb="element")
    with pytest.raises(ValueError, match=r"mode must be one of .outer., .*, not .apend."):
        broadcasts.assert_sent(room, mode="apend")


def test_stream_says_what_came_instead(open_stream, room, ann, eve):
    with fails_with("The stream was refused: /events/kit/rooms/"):
        open_stream(KitRoomChannel, pk=room.pk, user=eve)
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    with fails_with(f"No event came on /events/kit/rooms/{room.pk}/. Before came:\n  - elements"):
        stream.next()
    with fails_with("is open."):
        stream.assert_closed()
    broadcast(f"room-{room.pk}", "<p id=a></p>")
    with fails_with("1 came on "):
        stream.assert_nothing()
    with fails_with("Another event came on"):
        stream.next(target="#b")
    broadcast.kill(f"room-{room.pk}")
    with fails_with("has ended: broadcast.kill() closed its channel."):
        stream.assert_open()
    with fails_with("The stream has ended: broadcast.kill() closed its channel."):
        stream.next()


def test_site_that_redirects_to_https(settings, room, ann):
    settings.SECURE_SSL_REDIRECT = True
    assert_may_listen(ann, KitRoomChannel, pk=room.pk)


class PlainMiddleware:
    """A middleware as most projects have one: it knows nothing of async."""

    sync_capable, async_capable = True, False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)


@pytest.mark.parametrize("place", [0, 99])
def test_error_under_plain_middleware_does_not_hang(settings, place):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE]
    settings.MIDDLEWARE.insert(place, f"{__name__}.PlainMiddleware")
    assert_refused(None, "/nowhere/", status=404)
    with pytest.raises(ZeroDivisionError):
        assert_may_listen(None, "/fails/")


def test_presence_that_a_stream_opens_with_is_no_next_event(open_stream, room, ann, bob):
    for user in (ann, bob, ann):
        stream = open_stream(KitRoomChannel, pk=room.pk, user=user)
        stream.assert_nothing()
        assert stream.events[-1].element.id == "people"


@pytest.mark.parametrize("user", ["ann", get_user_model()(username="ann")])
def test_who_is_no_user_is_told(user):
    with pytest.raises(TypeError, match="user must be a saved user, or None for an anonymous visitor"):
        assert_may_listen(user, "open", name="hall")


def test_template_for_each_audience_says_where_its_text_is(broadcasts):
    broadcast.template("room", "chat/_reply.html", {}, audience=True)
    with fails_with("is rendered for each audience: what it contains is in a stream of one"):
        broadcasts.assert_sent("room", contains="hi")


def test_stream_says_what_it_is(open_stream):
    stream = open_stream("open", "hall")
    assert repr(stream) == "<Stream /open/hall/: open>"
    stream.close()
    assert repr(stream) == "<Stream /open/hall/: the client left>"


def test_headers_of_a_client(live_page, client, ann, room):
    for named in {"client": type(client)(headers={"User-Agent": "phone"})}, {"headers": {"User-Agent": "phone"}}:
        page = live_page(f"/rooms/{room.pk}/", user=ann, **named)
        assert page.response.asgi_request.headers["User-Agent"] == "phone"


def test_permission_in_an_outage(broadcaster_outage, room, ann, eve):
    with broadcaster_outage():
        assert_refused(eve, KitRoomChannel, pk=room.pk)
        with fails_with("it answered with 503"):
            assert_may_listen(ann, KitRoomChannel, pk=room.pk)


def test_page_is_no_stream_that_refuses(room, ann):
    with fails_with(f"User ann found no stream at /rooms/{room.pk}/: it answered with 200 and a page"):
        assert_refused(ann, f"/rooms/{room.pk}/")


def test_render_that_failed_is_told(broadcasts, room):
    with patch.object(Message, "render_broadcast", side_effect=ZeroDivisionError("no template")):
        Message.objects.create(room=room, text="hi")
    with fails_with(
        "Nothing was sent. What was rendered failed:\n  - Message.broadcast_created() failed: ZeroDivision"
    ):
        broadcasts.assert_sent(f"room-{room.pk}")


# Queries


def test_queries_of_each_fragment(broadcasts, open_stream, room, ann):
    for text in "ab":
        Message.objects.create(room=room, text=text)
    broadcasts.assert_max_queries(0)
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    broadcast.refresh(f"room-{room.pk}")
    stream.next(target="#messages")
    broadcasts.assert_max_queries(1)
    [query] = broadcasts.queries
    assert query.fragment == "KitRoomChannel.render_snapshot()"
    assert "chat_message" in query.sql
    with fails_with("KitRoomChannel.render_snapshot() made 1 query, and at most 0 were expected. They were:"):
        broadcasts.assert_max_queries(0)


def test_queries_of_a_bound_models_template_have_its_name(broadcasts, room):
    bind_broadcasts(Group, channel="groups", template_name="chat/_note.html", target="#groups")
    try:
        Group.objects.create(name="editors")
    finally:
        unbind_broadcasts(Group)
    assert [name for name, _ in broadcasts.renders] == ["chat/_note.html"]


def test_repeated_queries_are_shown_without_their_columns(broadcasts, open_stream, room, ann, monkeypatch):
    users = get_user_model().objects.filter(pk=ann.pk)
    monkeypatch.setattr(kit_site, "messages", lambda pk: f"<p id=a>{[users.get().pk for _ in range(2)]}</p>")
    open_stream(KitRoomChannel, pk=room.pk, user=ann, cursor="another-1")
    with fails_with('Repeated:\n  - 2 times: SELECT ... FROM "auth_user" WHERE'):
        broadcasts.assert_max_queries(1)


def test_queries_of_a_template_for_each_audience(broadcasts, open_stream, room):
    open_stream("open", "hall")
    reply = Reply.objects.create(message=Message.objects.create(room=room, text="hi"), text="hello")
    broadcasts.clear()
    broadcast.template("hall", "chat/_reply.html", {"object": reply}, audience=True)
    with fails_with("chat/_reply.html made"):
        open_stream("open", "hall").assert_open()
        broadcasts.assert_max_queries(0)


def test_one_recheck_after_the_other_needs_no_clock(open_stream, room, ann):
    stream = open_stream(KitRoomChannel, pk=room.pk, user=ann)
    for _ in range(3):
        broadcast.recheck(f"room-{room.pk}")
        stream.assert_open()
    ann.first_name = "Ann"
    ann.save()
    stream.assert_open()
    ann.groups.clear()
    broadcast.recheck(f"room-{room.pk}", ann.pk)
    stream.assert_closed()
