from django.contrib.auth.models import User
from django.test import TestCase

from ds_broadcaster import broadcast
from ds_broadcaster.testing import BroadcastTestMixin

from .models import Room
from .views import RoomChannel


class AsyncTests(BroadcastTestMixin, TestCase):
    async def test_what_async_code_sends_reaches_a_stream(self):
        ann = await User.objects.acreate_user("ann")
        room = await Room.objects.acreate(name="Garden")
        await room.members.aadd(ann)
        stream = await self.aopen_stream(RoomChannel, pk=room.pk, user=ann)
        await broadcast.asignals(f"room-{room.pk}", {"count": 7})
        assert (await stream.anext()).signals == {"count": 7}
        await self.broadcaster_clock.aadvance(60)
        await stream.aassert_open()
