"""The testing kit, as a project uses it: recording, permission, streams, the clock, the outage."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from ds_broadcaster import BrokerUnavailable, broadcast
from ds_broadcaster.testing import assert_may_listen, assert_refused
from tests.chat.models import Message, Room
from tests.testing import kit_site
from tests.testing.kit_site import KitRoomChannel

pytestmark = [pytest.mark.django_db, pytest.mark.urls(kit_site.__name__)]


@pytest.fixture
def room():
    return Room.objects.create(name="garden")


@pytest.fixture
def members(room):
    return Group.objects.create(name=f"room-{room.pk}")


@pytest.fixture
def ann(members):
    user = get_user_model().objects.create_user("ann")
    user.groups.add(members)
    return user


@pytest.fixture
def bob(members):
    user = get_user_model().objects.create_user("bob")
    user.groups.add(members)
    return user


@pytest.fixture
def eve():
    return get_user_model().objects.create_user("eve")


# The words of the contract


def test_message_reaches_the_room(broadcasts, room, ann):
    Message.objects.create(room=room, text="hi")
    broadcasts.assert_sent(f"room-{room.pk}", mode="append", contains="hi", count=1)
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
