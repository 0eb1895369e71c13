"""What a broker has without writing it: async twins, and the answers for the whole cluster."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from ds_broadcaster.brokers import LEASE, Broker, Command, Event, Position, PresenceDiff, PresenceStore, ProcessHoldings
from ds_broadcaster.conf import History
from ds_broadcaster.sse import PLAIN, Facts
from ds_broadcaster.testing.brokers.receiver import RecordingReceiver

LANGUAGE = ContextVar("language", default="en")


class SyncBroker(Broker):
    """Writes the sync methods only; each notes its call, and the thread and context of it."""

    epoch = "life"

    def __init__(self, options=None):
        super().__init__("", options or {}, History())
        self.calls = []
        self.hubs = []

    def _note(self, *call):
        self.calls.append(call)
        self.thread, self.language = threading.get_ident(), LANGUAGE.get()

    def publish(self, channel, payload, facts=PLAIN):
        self._note("publish", channel, payload, facts)
        return 7

    def command(self, channel, command):
        self._note("command", channel, command)

    def locate(self, channels, event_id):
        self._note("locate", channels, event_id)
        return Position(self.epoch, 7, 7)

    def receivers(self):
        self.thread = threading.get_ident()
        return self.hubs

    async def read(self, channel, cursor):
        raise NotImplementedError

    async def commands(self, channels, seconds):
        raise NotImplementedError

    def attach(self, receiver):
        self.hubs.append(receiver)
        return 0

    def detach(self, receiver):
        self.hubs.remove(receiver)

    async def subscribe(self, receiver, channel):
        raise NotImplementedError

    async def unsubscribe(self, receiver, channel):
        raise NotImplementedError


class Store(PresenceStore):
    """Knows what the test puts into it: by process, the users of each channel with their connections."""

    def __init__(self, **processes):
        super().__init__()
        self.processes = processes

    async def sync(self, receiver, changes, lease, memory):
        return PresenceDiff([], [])

    def online(self, channel, *, excluding=()):
        for process, users in self.processes.items():
            if process not in excluding:
                yield from users.get(channel, {}).items()

    def holdings(self, *, excluding=()):
        return [
            ProcessHoldings(process, {name: sum(users.values()) for name, users in channels.items()})
            for process, channels in self.processes.items()
            if process not in excluding
        ]


def hub(process, **users):
    receiver = RecordingReceiver()
    receiver.process = process
    for channel, here in users.items():
        receiver.set_users(channel, *here)
    return receiver


FACTS = Facts(exclude="tab")


@pytest.mark.parametrize(
    "ask, answer, call",
    [
        (lambda broker: broker.apublish("a", b"x", FACTS), 7, ("publish", "a", b"x", FACTS)),
        (lambda broker: broker.apublish("a", b"x"), 7, ("publish", "a", b"x", PLAIN)),
        (lambda broker: broker.acommand("a", Command("kill")), None, ("command", "a", Command("kill"))),
        (lambda broker: broker.alocate(["a"], "life-3"), Position("life", 7, 7), ("locate", ["a"], "life-3")),
        (lambda broker: broker.acursor(), "life-7", ("locate", (), None)),
        (lambda broker: broker.ausers("a"), [], None),
        (lambda broker: broker.achannels(), [], None),
    ],
)
def test_twin_runs_the_sync_method_off_the_loop_in_the_callers_context(ask, answer, call):
    async def test():
        LANGUAGE.set("de")
        assert await ask(broker) == answer
        assert broker.thread != threading.get_ident()

    broker = SyncBroker()
    asyncio.run(test())
    assert broker.calls == ([call] if call else [])
    assert not call or broker.language == "de"


def test_twins_run_where_the_broker_says():
    class OnTheLoop(SyncBroker):
        async def run_sync(self, function, *args):
            return function(*args)

    async def test():
        await broker.apublish("a", b"x")
        assert broker.thread == threading.get_ident()

    broker = OnTheLoop()
    asyncio.run(test())


def test_several_events_are_published_in_their_order_with_their_facts():
    broker = SyncBroker()
    broker.publish_all([Event("a", b"1", FACTS), Event("b", b"2")])
    assert broker.calls == [("publish", "a", b"1", FACTS), ("publish", "b", b"2", PLAIN)]


def test_broker_without_a_store_answers_for_its_own_hubs():
    broker = SyncBroker()
    broker.attach(hub("one", a=[1, 1], b=[2]))
    broker.attach(hub("two", a=[3]))
    assert broker.users("a") == [1, 1, 3]
    assert broker.channels() == ["a", "b"]
    assert broker.holdings() == [ProcessHoldings("one", {"a": 2, "b": 1}), ProcessHoldings("two", {"a": 1})]


def test_hubs_of_this_process_are_asked_themselves_and_the_store_for_the_others():
    """What they have told may be older than what they have."""
    broker = SyncBroker()
    broker.attach(hub("one", a=[1, 1]))
    broker.presence = Store(one={"a": {9: 1}, "old": {9: 1}}, other={"a": {1: 2, 2: 0}, "c": {3: 1}})
    assert broker.users("a") == [1, 1, 1, 1]
    assert broker.users("c") == [3]
    assert broker.channels() == ["a", "c"]
    assert broker.holdings() == [ProcessHoldings("one", {"a": 2}), ProcessHoldings("other", {"a": 2, "c": 1})]


def test_remote_users_are_online_in_other_processes_than_the_hubs():
    store = Store(one={"a": {1: 1}}, other={"a": {1: 1, 2: 0}}, third={"a": {2: 1}, "b": {3: 1}})
    assert store.remote_users(hub("one"), "a") == [1, 2, 2]
    assert store.remote_users(hub("third"), "b") == []


@pytest.mark.parametrize("given", [3, "3", 3.0])
def test_lease_is_in_seconds(given):
    assert Store().lease == LEASE

    class Leased(Store):
        def __init__(self, lease):
            PresenceStore.__init__(self, lease)

    assert Leased(given).lease == 3.0
