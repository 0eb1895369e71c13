# section: imports
import pytest

from ds_broadcaster import BrokerUnavailable, broadcast
from ds_broadcaster.testing import assert_may_listen, assert_refused

from .models import Message
from .views import RoomChannel

# end: imports


# section: sent
def test_a_message_is_sent_to_its_room_and_no_other(broadcasts, room, channel, ann):
    room.messages.create(author=ann, text="The beans are up")
    broadcasts.assert_sent(channel, mode="append", target="#messages", contains="The beans are up", count=1)
    broadcasts.assert_sent(channel, signals={"count": 1})
    assert {sent.channel for sent in broadcasts} == {channel}


# end: sent


# section: changed
def test_an_edited_message_is_replaced_and_a_deleted_one_removed(broadcasts, room, channel, ann):
    message = room.messages.create(author=ann, text="The bans are up")
    broadcasts.clear()
    message.text = "The beans are up"
    message.save()
    [sent] = broadcasts
    assert (sent.verb, sent.mode) == ("elements", "outer")
    assert sent.element.id == f"rooms-message-{message.pk}"
    assert sent.element.text == "ann The beans are up"
    message.delete()
    broadcasts.assert_sent(channel, verb="remove", target=f"#{sent.element.id}")


# end: changed


# section: permission
def test_only_members_may_listen(room, ann, eve):
    assert_may_listen(ann, RoomChannel, pk=room.pk)
    assert_refused(eve, RoomChannel, pk=room.pk)
    assert_refused(None, RoomChannel, pk=room.pk)


# end: permission


# section: page
def test_what_one_says_the_other_sees(live_page, room, ann, bob):
    mine, yours = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    mine.post(f"/rooms/{room.pk}/say/", {"text": "The beans are up"})
    yours.settle()
    assert [message.text for message in yours.select("#messages li")] == ["ann The beans are up"]
    assert yours.signals["count"] == 1
    assert yours.state == "live"


# end: page


# section: presence
def test_who_is_here_who_is_away_and_who_has_gone(live_page, broadcaster_clock, room, ann, bob):
    mine, yours = live_page(f"/rooms/{room.pk}/", user=ann), live_page(f"/rooms/{room.pk}/", user=bob)
    mine.settle()
    assert [person.text for person in mine.select("#people li")] == ["ann", "bob"]
    yours.hide()
    broadcaster_clock.advance(3)
    mine.settle()
    assert mine.select_one("#people .away").text == "bob"
    yours.close()
    broadcaster_clock.advance(3)
    mine.settle()
    assert [person.text for person in mine.select("#people li")] == ["ann"]


# end: presence


# section: kick
def test_who_is_removed_loses_the_stream_and_may_not_return(client, open_stream, room, ann, bob):
    stream = open_stream(RoomChannel, pk=room.pk, user=bob)
    client.force_login(ann)
    client.post(f"/rooms/{room.pk}/remove/{bob.pk}/")
    stream.assert_closed()
    assert stream.reason == "broadcast.disconnect() closed it"
    assert_refused(bob, RoomChannel, pk=room.pk)


# end: kick


# section: recheck
def test_a_membership_that_ends_elsewhere_ends_the_stream_within_minutes(open_stream, broadcaster_clock, room, bob):
    stream = open_stream(RoomChannel, pk=room.pk, user=bob)
    room.members.remove(bob)
    stream.assert_open()
    broadcaster_clock.advance(300)
    stream.assert_closed()
    assert "has_permission() returned False" in stream.reason


# end: recheck


# section: outage
def test_a_message_is_saved_while_the_broker_is_away(client, broadcasts, broadcaster_outage, room, channel, ann):
    client.force_login(ann)
    with broadcaster_outage():
        response = client.post(f"/rooms/{room.pk}/say/", {"text": "The beans are up"})
        with pytest.raises(BrokerUnavailable):
            broadcast.signals(channel, {"count": 1})
    assert response.status_code == 204
    assert Message.objects.get().text == "The beans are up"
    broadcasts.assert_nothing_sent()


# end: outage


# section: missed
def test_who_returns_gets_what_was_missed_and_after_too_long_the_whole_list(open_stream, broadcaster_clock, room, ann):
    before = open_stream(RoomChannel, pk=room.pk, user=ann)
    before.close()
    room.messages.create(author=ann, text="The beans are up")
    soon = open_stream(RoomChannel, pk=room.pk, user=ann, cursor=before.cursor)
    soon.next(mode="append", contains="The beans are up")
    broadcaster_clock.advance(600)
    late = open_stream(RoomChannel, pk=room.pk, user=ann, cursor=before.cursor)
    late.next(mode="outer", target="#messages", contains="The beans are up")


# end: missed


# section: queries
def test_the_database_is_asked_little(broadcasts, open_stream, room, ann, bob):
    for author in (ann, bob, ann):
        room.messages.create(author=author, text="Hello")
    open_stream(RoomChannel, pk=room.pk, user=ann, cursor="of-another-server-1")
    broadcasts.assert_max_queries(2)


# end: queries
