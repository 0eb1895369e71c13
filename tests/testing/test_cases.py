"""The kit in unittest's classes, plain and async, with each of Django's ways of isolating a test."""

import asyncio
import unittest

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from ds_broadcaster import broadcast
from ds_broadcaster.testing import BroadcastTestMixin, capture_broadcasts
from tests.chat.models import Article, Message, Room
from tests.testing import kit_site
from tests.testing.kit_site import KitRoomChannel


class Words(BroadcastTestMixin):
    def setUp(self):
        super().setUp()
        self.room = Room.objects.create(name="garden")
        self.ann = get_user_model().objects.create_user("ann")
        self.ann.groups.add(Group.objects.create(name=f"room-{self.room.pk}"))

    def test_what_is_saved_is_sent(self):
        Message.objects.create(room=self.room, text="hi")
        self.broadcasts.assert_sent(f"room-{self.room.pk}", contains="hi", count=1)

    def test_permission(self):
        self.assertMayListen(self.ann, KitRoomChannel, pk=self.room.pk)
        self.assertRefused(None, KitRoomChannel, pk=self.room.pk)

    def test_streams_and_the_clock(self):
        stream = self.open_stream(KitRoomChannel, pk=self.room.pk, user=self.ann)
        with self.broadcaster_outage():
            stream.assert_open()
        self.broadcaster_clock.advance(120)
        Message.objects.create(room=self.room, text="hi")
        stream.next(contains="hi")

    async def test_async(self):
        stream = await self.aopen_stream(KitRoomChannel, pk=self.room.pk, user=self.ann)
        await Message.objects.acreate(room=self.room, text="hi")
        assert "hi" in (await stream.anext()).html
        await broadcast.aelements(f"room-{self.room.pk}", "<p id=b>there</p>")
        assert "there" in stream.next().html
        await self.broadcaster_clock.aadvance(3)
        await stream.aclose()
        self.broadcasts.assert_sent(f"room-{self.room.pk}", count=2)


@override_settings(ROOT_URLCONF=kit_site.__name__)
class InTransactionTests(Words, TestCase):
    def test_hooks_run_where_the_projects_own_transaction_ends(self):
        seen = []
        with transaction.atomic():
            Message.objects.create(room=self.room, text="hi")
            with transaction.atomic():
                transaction.on_commit(lambda: seen.append("hook"))
            self.broadcasts.assert_nothing_sent()
            assert seen == []
        assert seen == ["hook"]
        self.broadcasts.assert_sent(f"room-{self.room.pk}", count=1)

    def test_what_is_rolled_back_is_not_sent(self):
        with transaction.atomic():
            Message.objects.create(room=self.room, text="hi")
            transaction.set_rollback(True)
        Message.objects.create(room=self.room, text="there")
        self.broadcasts.assert_sent(f"room-{self.room.pk}", count=1)

    def test_djangos_own_capture_has_its_hooks(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            Message.objects.create(room=self.room, text="hi")
            self.broadcasts.assert_nothing_sent()
        assert len(callbacks) == 1
        self.broadcasts.assert_sent(f"room-{self.room.pk}", count=1)

    def test_hooks_that_are_only_captured_never_run(self):
        with self.captureOnCommitCallbacks() as callbacks:
            Message.objects.create(room=self.room, text="hi")
        assert len(callbacks) == 1
        Message.objects.create(room=self.room, text="there")
        self.broadcasts.assert_sent(f"room-{self.room.pk}", contains="there", count=1)
        self.broadcasts.assert_sent(f"room-{self.room.pk}", contains="hi", count=0)


@override_settings(ROOT_URLCONF=kit_site.__name__)
class WithoutTransactionTests(Words, TransactionTestCase):
    pass


class MadeBeforeTests(BroadcastTestMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.article = Article.objects.create(title="Garden")

    def test_what_was_made_before_is_saved_and_not_sent(self):
        self.broadcasts.assert_nothing_sent()
        self.article.save()
        self.broadcasts.assert_nothing_sent()
        self.article.title = "Gardens"
        self.article.save()
        self.broadcasts.assert_sent("articles", verb="elements", mode="outer", contains="Gardens", count=1)


class OwnCallsTests(BroadcastTestMixin, TestCase):
    """What a test does beside the kit does not wait for the kit's loop."""

    def test_async_to_sync(self):
        self.open_streams()
        async_to_sync(broadcast.aelements)("open", "<p id=a></p>")
        asyncio.run(broadcast.aelements("open", "<p id=a></p>"))
        self.broadcasts.assert_sent("open", count=2)

    @override_settings(ROOT_URLCONF=kit_site.__name__)
    def open_streams(self):
        self.open_stream("open", "open")
        self.open_stream("aopen", "open")

    def test_capture_within(self):
        broadcast("a", "<p id=a></p>")
        with capture_broadcasts() as broadcasts:
            broadcast("b", "<p id=a></p>")
        broadcasts.assert_sent("b", count=1)
        broadcasts.assert_nothing_sent("a")
        self.broadcasts.assert_sent("b")


def test_failure_shows_the_line_of_the_test_alone():
    class Failing(BroadcastTestMixin, unittest.TestCase):
        def runTest(self):
            self.broadcasts.assert_sent("a")

    result = unittest.TestResult()
    Failing().run(result)
    [(_, text)] = result.failures
    assert text.count('File "') == 1
    assert "no event to 'a'" in text


class ForgetfulTests(BroadcastTestMixin, TestCase):
    def setUp(self):
        pass

    def test_what_is_missing_is_told(self):
        for use in (lambda: self.broadcasts, lambda: self.open_stream("/")):
            with pytest.raises(AttributeError, match=r"call super\(\).setUp\(\) first"):
                use()
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = self.nothing
