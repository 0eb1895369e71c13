"""Tests as users write them: with Django's TestCase and its client, whose transaction no other thread sees."""

import asyncio
import contextlib
import threading
from unittest.mock import patch

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import TestCase, override_settings

from ds_broadcaster import broadcast
from tests.project.channel_site import ClubChannel


@override_settings(ROOT_URLCONF="tests.project.channel_site")
class ClubTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ann")
        cls.club = Group.objects.create(pk=77, name="club")
        cls.user.groups.add(cls.club)

    async def open(self, path="/events/clubs/77/"):
        await self.async_client.aforce_login(self.user)
        response = await self.async_client.get(path)
        assert response.status_code == 200
        parts = aiter(response.streaming_content)
        assert "id:" in (await anext(parts)).decode()
        return parts

    async def rest_of(self, parts):
        return b"".join([part async for part in parts]).decode()

    async def test_stream_stays_while_its_user_may_have_it(self):
        parts = await self.open()
        asked = threading.Event()

        with self.assertNoLogs("ds_broadcaster", "WARNING"), noting(asked):
            await broadcast.arecheck("club-77")
            assert await asyncio.to_thread(asked.wait, 10)
            await broadcast.aelements("club-77", '<p id="a">still here</p>')
            await until_contains(parts, "still here")
        # A kick after what was sent.
        await broadcast.akill("club-77")
        assert "event" not in await self.rest_of(parts)

    async def test_removal_with_a_recheck_ends_the_stream(self):
        parts = await self.open()
        await self.user.groups.aclear()
        await broadcast.arecheck("club-77", self.user.pk)
        # The loop ends by itself.
        await asyncio.wait_for(self.rest_of(parts), 10)

    async def test_account_that_is_switched_off_ends_the_stream(self):
        parts = await self.open()
        self.user.is_active = False
        await self.user.asave()
        await broadcast.arecheck(user_id=self.user.pk)
        await asyncio.wait_for(self.rest_of(parts), 10)

    async def test_stream_that_falls_behind_ends_and_leaves_the_test_alone(self):
        parts = await self.open()
        (connection,) = [each for hub in broadcast.hubs() for channel in hub.live() for each in channel.connections]
        connection.fall_behind()
        await asyncio.wait_for(self.rest_of(parts), 10)

    async def test_disconnect_ends_the_stream(self):
        parts = await self.open()
        await broadcast.adisconnect("club-77", self.user)
        await asyncio.wait_for(self.rest_of(parts), 10)


@contextlib.contextmanager
def noting(asked):
    """Set the event when the view is asked for its permission."""
    original = ClubChannel.has_permission

    def has_permission(view):
        asked.set()
        return original(view)

    with patch.object(ClubChannel, "has_permission", has_permission):
        yield


async def until_contains(parts, text):
    async for part in parts:
        if text in part.decode():
            return
    raise AssertionError(f"The stream ended without {text!r}.")
