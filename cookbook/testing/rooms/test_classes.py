from django.contrib.auth.models import User
from django.test import TestCase

from ds_broadcaster import broadcast
from ds_broadcaster.testing import BroadcastTestMixin

from .models import Room
from .views import RoomChannel


# section: class
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

    # end: class

    # section: async
    async def test_what_an_async_view_or_task_sends_reaches_a_stream(self):
        stream = await self.aopen_stream(RoomChannel, pk=self.room.pk, user=self.ann)
        await broadcast.asignals(f"room-{self.room.pk}", {"count": 7})
        assert (await stream.anext()).signals == {"count": 7}
        await self.broadcaster_clock.aadvance(60)
        await stream.aassert_open()

    # end: async
