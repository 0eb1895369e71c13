"""The table of channels: what is forgotten, and when the broker is told."""

import pytest

from ds_broadcaster.conf import History
from ds_broadcaster.hub.channels import Channels
from tests.fakes import VirtualLoop


class Table:
    def __init__(self):
        self.loop = VirtualLoop()
        self.let_go = []
        self.declared = {}

        async def subscribe(name):
            return 0

        async def unsubscribe(name):
            self.let_go.append(name)

        self.channels = Channels(
            self.loop, History(), self.declared, subscribe=subscribe, unsubscribe=unsubscribe, floor=lambda name: 0
        )


@pytest.fixture
def table():
    table = Table()
    yield table
    table.loop.close_down()


def test_forgotten_channel_is_no_longer_carried(table):
    table.channels.retire(table.channels.get("a"))
    assert table.channels.find("a") is None
    table.loop.settle()
    assert table.let_go == ["a"]
    assert table.channels.is_idle()


def test_channel_that_comes_again_in_the_same_turn_is_carried_on(table):
    """Its new connection has subscribed before the old channel would be let go of."""
    table.channels.retire(table.channels.get("a"))
    again = table.channels.get("a")
    table.loop.settle()
    assert table.let_go == []
    assert table.channels.find("a") is again


def test_channel_stays_for_its_connections_its_graces_and_what_is_not_synced(table):
    channel = table.channels.get("a")
    connection = object()
    channel.connections[connection] = None
    table.channels.retire(channel)
    del channel.connections[connection]
    channel.roster.join(1, 0)
    channel.roster.leave(1, until=100)
    table.channels.retire(channel)
    channel.roster.dismiss(1)
    channel.unsynced = True
    table.channels.retire(channel)
    assert table.channels.find("a") is channel
    channel.unsynced = False
    table.channels.retire(channel)
    assert table.channels.find("a") is None


def test_namesake_of_a_forgotten_channel_is_left_alone(table):
    former = table.channels.get("a")
    table.channels.retire(former)
    again = table.channels.get("a")
    table.channels.retire(former)
    assert table.channels.find("a") is again


def test_declared_channel_begins_with_its_callback_and_is_declared_until_it_ends(table):
    table.declared["a"] = callback = lambda channel, users: None
    channel = table.channels.get("a")
    assert channel.presence_callback is callback
    table.channels.retire(channel)
    assert table.declared == {}
