from collections.abc import Callable
from typing import Any, assert_type

from django.contrib.auth.models import User
from django.test import TestCase

from ds_broadcaster.brokers import Broker
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.testing import (
    BroadcastLiveServerTestCase,
    Broadcasts,
    BroadcastTestMixin,
    BrokerContract,
    Event,
    LivePage,
    Sent,
    Stream,
    assert_may_listen,
    assert_refused,
    await_for_live,
    capture_broadcasts,
    wait_for_live,
)
from tests.typed.models import Message, Room
from tests.typed.views import RoomChannel


class TestOwnBroker(BrokerContract):
    def make_broker(self, **options: Any) -> Broker:
        return MemoryBroker(**options)


def test_message_reaches_the_room(broadcasts: Broadcasts, room: Room) -> None:
    Message.objects.create(room=room, text="hi")
    found = broadcasts.assert_sent(room, mode="append", target="#messages", contains="hi", count=1)
    assert_type(found, list[Sent])
    broadcasts.assert_nothing_sent("another-room")
    broadcasts.assert_max_queries(2)
    for sent in broadcasts:
        print(sent.channel, sent.verb, sent.selector, sent.html, sent.signals, sent.exclude, sent.transient)
    broadcasts.clear()


def test_who_may_listen(room: Room, ann: User) -> None:
    assert_may_listen(ann, "ds_broadcaster:room", pk=room.pk)
    assert_refused(None, RoomChannel, pk=room.pk, status=404)


def test_kick(open_stream: Callable[..., Stream], live_page: Callable[..., LivePage], ann: User) -> None:
    stream = open_stream("ds_broadcaster:room", pk=1, user=ann)
    page = assert_type(live_page("/rooms/1/", user=ann), LivePage)
    page.post("/rooms/1/say/", {"text": "hi"})
    page.settle()
    for element in page.select("#messages li"):
        print(element.id, element.text, element.attrs)
    if (away := page.select_one("#people .away")) is not None:
        print(away.text)
    print(page.signals["count"], assert_type(page.state, str), page.scripts, page.html)
    page.hide()
    stream.assert_open()


class MessageTests(BroadcastTestMixin, TestCase):
    def test_kick(self) -> None:
        stream = self.open_stream("ds_broadcaster:room", pk=1, user=User(), cursor="a-1", headers={"X-A": "1"})
        assert_type(stream, Stream)
        event = stream.next(verb="elements", target="#status")
        assert_type(event, Event)
        stream.assert_nothing()
        stream.assert_closed()
        print(stream.reason, self.broadcasts)
        self.broadcaster_clock.advance(3)
        self.assertMayListen(User(), RoomChannel, pk=1)
        self.assertRefused(None, RoomChannel, pk=1)
        with self.broadcaster_outage(), capture_broadcasts() as broadcasts:
            assert_type(broadcasts, Broadcasts)

    def test_two_people(self) -> None:
        page = self.live_page("/rooms/1/", user=User())
        assert_type(page, LivePage)
        page.post("say/", {"text": "hi"})
        page.settle()
        print([li.text for li in page.select("#messages li")], page.signals, page.state, page.scripts)
        found = page.select_one("#status")
        print(None if found is None else (found.id, found.attrs, found.select("b")))
        page.hide()
        page.show()
        page.follow()
        page.close()

    async def test_async(self) -> None:
        page = await self.alive_page("/rooms/1/")
        await page.asettle()
        stream = await self.aopen_stream(RoomChannel, pk=1)
        assert_type(await stream.anext(verb="signals"), Event)
        await page.apost("/rooms/1/say/", {"text": "hi"})


class RoomPage(BroadcastLiveServerTestCase):
    def see(self, page: Any) -> None:
        page.goto(f"{self.live_server_url}/rooms/1/")
        wait_for_live(page, timeout=10)

    async def asee(self, page: Any) -> None:
        await await_for_live(page)


def mistakes(broadcasts: Broadcasts, stream: Stream) -> None:
    """What a type checker says of what is no verb and no mode."""
    broadcasts.assert_sent("room-1", verb="element")  # type: ignore[arg-type]
    broadcasts.assert_sent("room-1", mode="apend")  # type: ignore[arg-type]
    stream.next(verb="patch")  # type: ignore[arg-type]


async def amistakes(stream: Stream) -> None:
    await stream.anext(verb="patch")  # type: ignore[arg-type]
