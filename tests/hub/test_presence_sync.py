"""What a hub tells the other processes about its users, and when."""

import asyncio

import pytest

from ds_broadcaster.brokers import GONE, PresenceChange, PresenceDiff
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.hub.channels import Channels
from ds_broadcaster.hub.presence_sync import RECONNECT_GRACE, PresenceSync
from tests.fakes import VirtualLoop

LEASE = 15


class Cluster:
    """A presence store that answers as it is told to, and what a hub tells it."""

    def __init__(self):
        self.loop = VirtualLoop()
        self.told = []  # (changes as {user: connections}, lease)
        self.memories = []  # What the hub said with them.
        self.answers = []
        self.events = []
        self.seconds = 0
        self.first_answer = PresenceDiff([], [])

        async def subscribe(channel):
            return 0

        async def unsubscribe(channel):
            pass

        self.channels = Channels(
            self.loop, History(), {}, subscribe=subscribe, unsubscribe=unsubscribe, floor=lambda name: 0
        )
        self.sync = PresenceSync(
            self.loop,
            self.channels,
            self.tell,
            LEASE,
            2,
            on_diff=self.note,
        )

    def note(self, diff):
        self.events += [("joined", *pair) for pair in diff.joined] + [("left", *pair) for pair in diff.left]

    async def tell(self, changes, lease, memory):
        if memory is None and not changes:  # The call before the first change.
            if isinstance(self.first_answer, Exception):
                raise self.first_answer
            return self.first_answer
        self.memories.append(memory)
        self.told.append(({(each.channel, each.user): each.connections for each in changes}, lease))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0) if self.answers else PresenceDiff([], [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def join(self, name, user):
        channel = self.channels.get(name)
        channel.roster.join(user, 0)
        self.sync.changed(channel, user)
        return channel

    def leave(self, name, user):
        channel = self.channels.get(name)
        channel.roster.leave(user)
        self.sync.changed(channel, user)
        self.channels.retire(channel)


@pytest.fixture
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.loop.close_down()
    assert not cluster.loop.errors


def test_changes_of_a_moment_are_told_together(cluster):
    for user in (1, 2, 3):
        cluster.join("a", user)
    cluster.loop.advance(1)
    assert cluster.told == [({("a", None): GONE, ("a", 1): 1, ("a", 2): 1, ("a", 3): 1}, LEASE)]


def test_memory_is_known_before_the_first_change_is_told(cluster):
    """Otherwise a loss in between would pass unnoticed, and joins that others told before it would be told again."""
    cluster.join("a", 1)
    cluster.loop.advance(1)
    assert cluster.memories == [cluster.first_answer.memory]


def test_change_is_told_where_the_memory_was_not_known_before(cluster, caplog):
    cluster.first_answer = BrokerUnavailable("It is away.")
    cluster.join("a", 1)
    cluster.loop.advance(1)
    assert cluster.told == [({("a", None): GONE, ("a", 1): 1}, LEASE)]
    assert cluster.memories == [None]
    assert not caplog.records


def test_lease_is_renewed_three_times_while_nothing_changes(cluster):
    cluster.join("a", 1)
    cluster.loop.advance(1)
    cluster.told.clear()
    cluster.loop.advance(LEASE)
    assert cluster.told == [({}, LEASE)] * 3


def test_joins_and_leaves_of_the_cluster_are_passed_on(cluster):
    cluster.answers = [PresenceDiff([("a", 1)], [("b", 2)])]
    cluster.join("a", 1)
    cluster.loop.advance(1)
    assert cluster.events == [("joined", "a", 1), ("left", "b", 2)]


def test_last_user_of_a_channel_is_told_before_the_channel_is_forgotten(cluster):
    """The channel's own hook is to hear of the leave."""
    cluster.join("a", 1)
    cluster.loop.advance(1)
    cluster.seconds = 0.5
    cluster.answers = [PresenceDiff([], [("a", 1)])]
    cluster.leave("a", 1)
    cluster.loop.advance(0.3)
    assert cluster.channels.find("a") is not None
    cluster.loop.advance(1)
    assert cluster.events == [("left", "a", 1)]
    assert cluster.channels.is_idle()


def test_change_while_another_is_told_keeps_the_channel(cluster):
    cluster.seconds = 0.5
    cluster.join("a", 1)
    cluster.loop.advance(0.3, step=0.01)
    cluster.leave("a", 1)
    cluster.loop.advance(0.27, step=0.01)  # The first call has returned, the second has not begun.
    assert len(cluster.told) == 1
    assert cluster.channels.find("a") is not None
    cluster.loop.advance(2)
    assert cluster.told[-1][0] == {("a", None): GONE, ("a", 1): GONE}
    assert cluster.channels.is_idle()


@pytest.mark.parametrize("error", [BrokerUnavailable("It is away."), RuntimeError("A mistake.")])
def test_change_that_could_not_be_told_is_told_the_next_time(cluster, error, caplog):
    cluster.answers = [error, error]
    cluster.join("a", 1)
    cluster.loop.advance(0.5)
    cluster.join("a", 2)
    cluster.loop.advance(5)
    everything = {("a", None): GONE, ("a", 1): 1, ("a", 2): 1}
    assert [changes for changes, _ in cluster.told[:3]] == [{("a", None): GONE, ("a", 1): 1}, everything, everything]
    assert len([each for each in caplog.records if "could not be synced" in each.getMessage()]) == 1


def test_store_that_forgot_this_hub_is_told_everything(cluster):
    cluster.join("a", 1)
    cluster.join("b", 2)
    cluster.loop.advance(1)
    cluster.answers = [PresenceDiff([], [], is_forgotten=True)]
    cluster.told.clear()
    cluster.join("b", 3)
    cluster.loop.advance(1)
    assert [changes for changes, _ in cluster.told] == [
        {("b", None): GONE, ("b", 3): 1},
        {("a", None): GONE, ("a", 1): 1, ("b", None): GONE, ("b", 2): 1, ("b", 3): 1},
    ]


def test_next_renewal_comes_no_later_than_the_next_end_of_a_lease(cluster):
    """A process that died is buried by the first that calls after the end of its lease."""
    cluster.answers = [PresenceDiff([], [], next_end=1.0)]
    cluster.join("a", 1)
    cluster.loop.advance(2)
    assert len(cluster.told) == 2


def test_last_changes_are_told_while_others_are_being_told(cluster):
    """A user who left last would be a ghost for a whole lease otherwise."""
    cluster.seconds = 0.1
    cluster.join("a", 1)
    cluster.loop.advance(0.05, step=0.01)
    cluster.join("a", 2)
    closing = cluster.loop.create_task(cluster.sync.close())
    cluster.loop.advance(1)
    assert closing.done()
    assert [(changes, lease) for changes, lease in cluster.told] == [
        ({("a", None): GONE, ("a", 1): 1}, LEASE),
        ({("a", None): GONE, ("a", 2): 1}, RECONNECT_GRACE + 2),
    ]


def test_shutdown_does_not_wait_for_a_store_that_hangs(cluster):
    cluster.seconds = 100
    cluster.join("a", 1)
    cluster.loop.advance(1)
    closing = cluster.loop.create_task(cluster.sync.close())
    cluster.loop.advance(1.25)
    assert closing.done()


def test_hub_that_never_had_a_user_tells_nothing(cluster):
    cluster.loop.create_task(cluster.sync.close())
    cluster.loop.advance(1)
    assert cluster.told == []


def test_change_is_about_connections_and_gone_is_no_number():
    assert PresenceChange("a", 1, GONE).connections < 0
