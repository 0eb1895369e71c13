from django.contrib.auth.models import User
from django.test import TestCase

from ds_broadcaster.testing import BroadcastTestMixin

from .models import Room
from .views import RoomChannel


class RoomTests(BroadcastTestMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.ann = User.objects.create_user("ann")
        cls.room = Room.objects.create(name="Garden")
        cls.room.members.add(cls.ann)

    def test_a_message_is_sent_to_its_room(self):
        self.room.messages.create(author=self.ann, text="The beans are up")
        self.broadcasts.assert_sent(f"room-{self.room.pk}", contains="The beans are up", count=1)

    def test_only_members_may_listen(self):
        self.assertMayListen(self.ann, RoomChannel, pk=self.room.pk)
        self.assertRefused(None, RoomChannel, pk=self.room.pk)

    def test_who_leaves_the_room_loses_the_stream(self):
        stream = self.open_stream(RoomChannel, pk=self.room.pk, user=self.ann)
        with self.broadcaster_outage():
            stream.assert_open()
        self.room.members.clear()
        self.broadcaster_clock.advance(300)
        stream.assert_closed()
