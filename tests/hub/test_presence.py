"""Who is on a channel, and how often that is rendered."""

import json
import logging
import threading
import uuid
from collections import Counter
from itertools import pairwise

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ds_broadcaster import signals
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.brokers import PresenceDiff
from ds_broadcaster.hub.roster import Roster, Status
from ds_broadcaster.hub.threads import RENDER_THREADS, Threads
from tests.fakes import FACTOR, KINDS, SharedBroker, virtual_world

GRACE = 2.0
INTERVAL = 0.25


# The roster


class RosterMachine(RuleBasedStateMachine):
    """`connections` is one entry for each, in order; `grace` the users who are kept, and until when."""

    def __init__(self):
        super().__init__()
        self.roster = Roster()
        self.connections = []
        self.grace = {}
        self.away = set()
        self.since = {}
        self.now = 0.0

    def settle(self, user, until, is_away):
        if user in self.connections or user in self.grace or user not in self.since:
            return
        if until is not None:
            self.grace[user] = until
        elif is_away:
            self.away.add(user)
        else:
            self.away.discard(user)
            del self.since[user]

    @rule(user=st.sampled_from([1, 2, "three", uuid.UUID(int=4)]))
    def join(self, user):
        self.roster.join(user, self.now)
        self.since.setdefault(user, self.now)
        self.connections.append(user)
        self.grace.pop(user, None)
        self.away.discard(user)

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), grace=st.booleans(), is_away=st.booleans())
    def leave(self, data, grace, is_away):
        user = data.draw(st.sampled_from(self.connections))
        self.connections.remove(user)
        until = self.now + GRACE if grace else None
        self.roster.leave(user, until, is_away=is_away)
        self.settle(user, until, is_away)

    @precondition(lambda self: self.since)
    @rule(data=st.data(), grace=st.booleans(), is_away=st.booleans())
    def lose_a_hidden_tab(self, data, grace, is_away):
        user = data.draw(st.sampled_from([*self.since, "stranger"]))
        until = self.now + GRACE if grace else None
        self.roster.settle(user, until, is_away=is_away)
        self.settle(user, until, is_away)

    @precondition(lambda self: self.since)
    @rule(data=st.data())
    def dismiss(self, data):
        user = data.draw(st.sampled_from([*self.since, "stranger"]))
        is_dismissed = user in self.since and user not in self.connections
        assert self.roster.dismiss(user) is is_dismissed
        if is_dismissed:
            del self.since[user]
            self.grace.pop(user, None)
            self.away.discard(user)

    @precondition(lambda self: self.since)
    @rule(data=st.data(), seconds=st.sampled_from([-1, 0, 0.5]))
    def hear_of_an_earlier_join(self, data, seconds):
        user = data.draw(st.sampled_from([*self.since, "stranger"]))
        since = max(0, self.now + seconds)
        self.roster.note_since(user, since)
        if user in self.since:
            self.since[user] = min(self.since[user], since)

    @rule(seconds=st.sampled_from([0.5, 1.5, 2.0]), is_away=st.booleans())
    def let_time_pass(self, seconds, is_away):
        self.now += seconds
        ended = [user for user, until in self.grace.items() if until <= self.now]
        assert self.roster.expire(self.now) == ended
        for user in ended:
            del self.grace[user]
            self.roster.settle(user, is_away=is_away)
            self.settle(user, None, is_away)

    @invariant()
    def it_says_who_is_there(self):
        roster = self.roster
        assert roster.online() == list(self.since)
        assert roster.is_empty() == (not self.since)
        assert Counter(roster.users()) == Counter(self.connections)
        assert roster.next_expiry() == min(self.grace.values(), default=None)
        for user in [*self.since, "stranger"]:
            assert roster.since(user) == self.since.get(user)
            assert roster.connections(user) == (self.connections.count(user) if user in self.since else None)
            status = Status.AWAY if user in self.away else Status.HERE
            assert roster.status(user) is (status if user in self.since else Status.GONE)


def test_roster_is_a_count_for_each_user():
    run_state_machine_as_test(
        RosterMachine, settings=settings(max_examples=100 * FACTOR, stateful_step_count=40, deadline=None)
    )


def test_users_are_listed_in_the_order_in_which_they_came():
    roster = Roster()
    for user in (3, 1, 2, 1):
        roster.join(user, 0)
    roster.leave(3, until=10)
    roster.join(3, 0)
    assert roster.online() == [3, 1, 2]
    assert roster.users() == [3, 1, 1, 2]


# Renders


class Callback:
    """A presence callback that notes when it was called, and with whom."""

    def __init__(self, world):
        self.world = world
        self.calls = []

    def __call__(self, channel, user_ids):
        self.calls.append((self.world.loop.clock, user_ids))
        return {"online": user_ids}

    @property
    def lists(self):
        return [user_ids for _, user_ids in self.calls]


@pytest.fixture
def world():
    with (
        override_settings(DS_BROADCASTER_PRESENCE_GRACE=GRACE, DS_BROADCASTER_PRESENCE_INTERVAL=INTERVAL),
        virtual_world() as world,
    ):
        yield world


@pytest.fixture
def callback(world):
    return Callback(world)


def online(client):
    """Return what the client was shown, oldest first."""
    return [json.loads(text)["online"] for text in client.signals]


def test_first_change_is_rendered_at_once_and_the_last_state_after_the_interval(world, callback):
    began = world.loop.clock
    first = world.client(user_id=1, presence_callback=callback)
    assert callback.calls == [(began, [1])]
    assert online(first) == [[1]]
    for user in (2, 3, 4):
        world.client(user_id=user, presence_callback=callback)
    assert len(callback.calls) == 1
    world.advance(INTERVAL)
    assert callback.calls == [(began, [1]), (began + INTERVAL, [1, 2, 3, 4])]
    world.advance(10)
    assert len(callback.calls) == 2
    world.client(user_id=5, presence_callback=callback)
    assert callback.calls[2] == (began + INTERVAL + 10, [1, 2, 3, 4, 5])
    assert online(first) == [[1], [1, 2, 3, 4], [1, 2, 3, 4, 5]]


def test_thousand_joins_are_few_renders_and_the_last_lists_all(world, callback):
    clients = []
    for number in range(1000):
        clients.append(world.client(user_id=number, presence_callback=callback))
        if number % 100 == 99:
            world.loop.advance(0.1, step=0.05)
    world.advance(1)
    assert len(callback.calls) <= 6
    times = [at for at, _ in callback.calls]
    assert all(later - earlier >= INTERVAL for earlier, later in pairwise(times))
    everyone = list(range(1000))
    assert all(online(client)[-1] == everyone for client in clients)
    assert max(len(client.signals) for client in clients) <= 6


@pytest.mark.parametrize("kind", KINDS)
def test_client_that_joins_is_shown_who_is_there(world, callback, kind):
    world.client(user_id=1, presence_callback=callback)
    world.advance(1)
    tab = world.client(user_id=1, kind=kind)  # Changes nothing, so that nothing new is rendered.
    assert online(tab) == [[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_same_presence_is_not_sent_again(world, callback, kind):
    client = world.client(user_id=1, kind=kind, presence_callback=callback)
    for _ in range(3):
        world.client(user_id=1, presence_callback=callback)
        world.advance(1)
    assert online(client) == [[1]]


def test_stream_of_several_channels_is_shown_the_presence_of_each(world):
    def presence(channel, user_ids):
        return {channel: user_ids}

    both = world.client(["a", "b"], 1, presence_callback=presence)
    world.client("a", 2, presence_callback=presence)
    world.client("b", 3, presence_callback=presence)
    world.advance(1)
    shown = {}
    for text in both.signals:
        shown |= json.loads(text)
    assert shown == {"a": [1, 2], "b": [1, 3]}


def test_presence_is_not_kept_for_those_who_return(world, callback):
    client = world.client(user_id=1, presence_callback=callback)
    cursor = client.last_id
    for user in (2, 3):
        world.client(user_id=user)
        world.advance(1)
    back = world.client(user_id=1, cursor=cursor)
    assert online(back) == [[1, 2, 3]]


def test_presence_moves_no_cursor(world, callback):
    client = world.client(user_id=1, presence_callback=callback)
    cursor = client.last_id
    world.client(user_id=2)
    world.advance(1)
    assert len(client.signals) == 2
    assert client.last_id == cursor == world.broadcast.cursor()


def test_slow_client_is_shown_only_the_newest(world, callback):
    client = world.client(user_id=1, presence_callback=callback)
    world.advance(1)
    client.stall()
    for user in range(2, 10):
        world.client(user_id=user)
        world.advance(1)
    client.drain()
    world.settle()
    assert len(online(client)) == 3
    assert online(client)[-1] == list(range(1, 10))


def test_anonymous_connections_are_not_listed(world, callback):
    anonymous = world.client(presence_callback=callback)
    world.client(user_id=1)
    world.advance(1)
    assert online(anonymous) == [[], [1]]
    assert world.broadcast.get_users("room") == [1]
    assert [each for each in world.signals if each[0] == "user_joined"] == [("user_joined", "room", 1)]


def test_callback_given_to_new_is_used_for_those_who_connect(world, callback):
    world.broadcast.new("room", callback)
    client = world.client(user_id=1)
    assert online(client) == [[1]]


def test_html_signals_both_and_nothing_may_be_presence(world):
    for number, (fragment, texts, texts_of_signals) in enumerate(
        [
            ("<p id=a>", ["<p id=a>"], []),
            ({"a": 1}, [], ['{"a":1}']),
            (("<p id=a>", {"a": 1}), ["<p id=a>"], ['{"a":1}']),
            (None, [], []),
        ]
    ):
        client = world.client(f"room-{number}", 1, presence_callback=lambda channel, users, got=fragment: got)
        assert (client.texts, client.signals) == (texts, texts_of_signals)


@pytest.mark.parametrize("kind", KINDS)
def test_callback_that_has_nothing_to_say_any_more_ends_no_stream(world, kind):
    def presence(channel, user_ids):
        return "<p id=alone>" if len(user_ids) == 1 else None

    client = world.client(user_id=1, kind=kind, presence_callback=presence)
    world.client(user_id=2)
    world.advance(1)
    world.broadcast("room", "<p id=a>")
    world.settle()
    assert client.texts == ["<p id=alone>", "<p id=a>"]
    assert client.end is None


@pytest.mark.parametrize("kind", KINDS)
def test_callback_that_fails_is_logged_with_the_channel_and_ends_no_stream(world, caplog, kind):
    def presence(channel, user_ids):
        if len(user_ids) != 3:
            raise LookupError("no such room")
        return {"online": user_ids}

    clients = [world.client("a room", user, kind=kind, presence_callback=presence) for user in (1, 2)]
    world.advance(1)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "'a room'" in errors[0].getMessage()
    assert errors[0].exc_info[0] is LookupError
    clients.append(world.client("a room", 3, kind=kind))
    world.broadcast("a room", "<p id=a>")
    world.advance(1)
    assert [client.texts for client in clients] == [["<p id=a>"]] * 3
    assert [online(client)[-1] for client in clients] == [[1, 2, 3]] * 3


@override_settings(DS_BROADCASTER_MAX_EVENT_BYTES=200)
@pytest.mark.parametrize(
    "fragment, error",
    [("x" * 200, "EventTooLarge"), (["<p>"], "TypeError"), ({"a": float("nan")}, "ValueError")],
)
def test_fragment_that_cannot_be_sent_is_logged(world, caplog, fragment, error):
    client = world.client("a room", 1, presence_callback=lambda channel, users: fragment)
    (record,) = caplog.records
    assert "'a room'" in record.getMessage()
    assert record.exc_info[0].__name__ == error
    assert client.end is None


# Leaving


@pytest.mark.parametrize("kind", KINDS)
def test_reload_is_no_leave_and_no_join(world, callback, kind):
    other = world.client(user_id=2, presence_callback=callback)
    client = world.client(user_id=1, kind=kind, presence_callback=callback)
    world.advance(5)
    client.vanish()
    world.settle()
    assert world.broadcast.get_users("room") == [2]
    world.advance(GRACE - 0.5)
    world.client(user_id=1, kind=kind, presence_callback=callback)
    world.advance(10)
    assert world.broadcast.get_users("room") == [2, 1]
    assert online(other) == [[2], [2, 1]]
    joins = [each for each in world.signals if each[0].startswith("user_")]
    assert joins == [("user_joined", "room", 2), ("user_joined", "room", 1)]


def test_reload_of_the_only_user_keeps_the_channels_presence(world, callback):
    world.client(user_id=1, presence_callback=callback).vanish()
    world.advance(1)
    assert world.broadcast.get_channels() == []
    back = world.client(user_id=1)
    assert online(back) == [[1]]
    assert [each[0] for each in world.signals if each[0].startswith("user_")] == ["user_joined"]


def test_user_who_stays_away_leaves_once_the_grace_is_over(world, callback):
    other = world.client(user_id=2, presence_callback=callback)
    client = world.client(user_id=1)
    world.advance(1)
    client.vanish()
    world.advance(GRACE - 0.25)
    assert ("user_left", "room", 1) not in world.signals
    assert online(other)[-1] == [2, 1]
    world.advance(0.5)
    assert world.signals[-1] == ("user_left", "room", 1)
    world.advance(INTERVAL)
    assert online(other)[-1] == [2]


def test_each_grace_ends_in_its_own_time(world):
    clients = {user: world.client(user_id=user) for user in (1, 2, 3)}
    world.client(user_id=4)
    for client in clients.values():
        client.vanish()
        world.advance(0.75)
    world.client(user_id=2)
    world.advance(5)
    assert [user for name, _, user in world.signals if name == "user_left"] == [1, 3]
    assert sorted(world.broadcast.get_users("room")) == [2, 4]


def test_user_with_another_tab_open_does_not_leave(world):
    tabs = [world.client(user_id=1) for _ in range(3)]
    tabs[0].vanish()
    world.advance(10)
    assert world.broadcast.get_users("room") == [1, 1]
    assert [each[0] for each in world.signals if each[0].startswith("user_")] == ["user_joined"]


@override_settings(DS_BROADCASTER_PRESENCE_GRACE=0)
def test_without_a_grace_leaving_is_immediate(world, callback):
    other = world.client(user_id=2, presence_callback=callback)
    client = world.client(user_id=1)
    world.advance(1)
    client.vanish()
    world.settle()
    assert world.signals[-1] == ("user_left", "room", 1)
    assert online(other)[-1] == [2]


@pytest.mark.parametrize("verb", ["disconnect", "kill"])
def test_disconnect_and_kill_are_immediate(world, callback, verb):
    other = world.client(user_id=2, presence_callback=callback)
    world.client(user_id=1)
    in_grace = world.client(user_id=3)
    world.advance(1)
    in_grace.vanish()
    world.settle()
    if verb == "disconnect":
        world.disconnect("room", 1)
        world.disconnect("room", 3)
    else:
        world.broadcast.kill("room")
    world.settle()
    left = [user for name, _, user in world.signals if name == "user_left"]
    assert left == ([1, 3] if verb == "disconnect" else [2, 1, 3])
    if verb == "disconnect":
        world.advance(INTERVAL)
        assert online(other)[-1] == [2]
    world.advance(10)
    assert len([each for each in world.signals if each[0] == "user_left"]) == len(left)


def test_signals_come_once_each_and_in_order(world):
    both = world.client(["a", "b"], 1)
    tab = world.client("a", 1)
    world.client("a")
    both.vanish()
    world.advance(0.25)
    tab.vanish()
    world.advance(5)
    assert world.signals == [
        ("connection_opened", "a", 1),
        ("user_joined", "a", 1),
        ("connection_opened", "b", 1),
        ("user_joined", "b", 1),
        ("connection_opened", "a", 1),
        ("connection_opened", "a", None),
        ("connection_closed", "a", 1),
        ("connection_closed", "b", 1),
        ("connection_closed", "a", 1),
        ("user_left", "b", 1),
        ("user_left", "a", 1),
    ]


@pytest.mark.parametrize("user", [7, "name", uuid.UUID(int=7)])
def test_user_ids_keep_their_type(world, callback, user):
    world.client(user_id=user, presence_callback=callback)
    for seen in (world.broadcast.get_users("room")[0], callback.lists[0][0], world.signals[0][2]):
        assert seen == user
        assert type(seen) is type(user)


@pytest.mark.parametrize("kind", KINDS)
def test_presence_is_not_rendered_during_a_shutdown(world, callback, kind):
    """Every stream ends: each end would have it rendered for those that are left."""
    stalled = world.client(user_id=1, presence_callback=callback, kind=kind)
    world.client(user_id=2, presence_callback=callback, kind=kind)
    world.advance(1)
    stalled.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    before = len(callback.calls)
    world.hub.shutdown()
    world.advance(0.4)
    assert len(callback.calls) == before
    stalled.drain()


# Users in other processes


def show(channel, user_ids):
    return {"online": user_ids}


@pytest.fixture
def shared_world():
    with virtual_world(broker_class=SharedBroker) as world:
        yield world


def test_user_in_two_processes_is_shown_once(shared_world):
    store = shared_world.broker.presence
    store.remote["room"] = [2, 1]
    client = shared_world.client(user_id=1, presence_callback=show)
    shared_world.advance(1)
    assert online(client)[-1] == [1, 2]


def test_presence_is_rendered_again_once_the_broker_is_back(shared_world):
    store = shared_world.broker.presence
    client = shared_world.client(user_id=1, presence_callback=show)
    shared_world.advance(1)
    store.away = True
    shared_world.client(user_id=2)
    shared_world.advance(1)
    assert online(client)[-1] == [1]
    store.away = False
    store.remote["room"] = [3]
    shared_world.advance(3)
    assert online(client)[-1] == [1, 2, 3]


@override_settings(DS_BROADCASTER_PRESENCE_GRACE=30)
def test_lease_is_renewed_at_once_in_a_new_epoch(shared_world):
    """A store that lost its memory learns that from a process that knew it."""
    client = shared_world.client(user_id=1)
    shared_world.advance(1)
    client.vanish()
    shared_world.advance(1)
    renewals = shared_world.broker.presence.diffs = [PresenceDiff([], [])]
    shared_world.advance(1)
    assert renewals
    shared_world.hub.reset("another")
    shared_world.advance(0.1)
    assert not renewals


def test_presence_is_rendered_when_another_process_tells_of_a_change(shared_world):
    client = shared_world.client(user_id=1, presence_callback=show)
    shared_world.advance(1)
    shared_world.broker.presence.remote["room"] = [4]
    shared_world.hub.on_presence("room")
    shared_world.hub.on_presence("elsewhere")
    shared_world.advance(1)
    assert online(client)[-1] == [1, 4]


def test_joins_and_leaves_are_those_of_the_cluster(shared_world):
    store = shared_world.broker.presence
    attended = []
    store.diffs = [PresenceDiff([("room", 1)], []), PresenceDiff([], [("room", 9)])]
    shared_world.client(user_id=1, attendance_hook=lambda *told: attended.append(told))
    shared_world.advance(0.5)
    shared_world.client(user_id=2)
    shared_world.advance(0.5)
    told = [each for each in shared_world.signals if each[0].startswith("user")]
    assert told == [("user_joined", "room", 1), ("user_left", "room", 9)]
    assert attended == [("room", 1, True), ("room", 9, False)]


# The real threads


@pytest.fixture
def listen():
    """Connect receivers to a signal for this test."""
    connected = []

    def listen(signal, receiver):
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield listen
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.fixture
def threads():
    threads = Threads(Broadcaster)
    yield threads
    threads.close()
    threads._ordered.shutdown()


def test_signals_are_sent_in_order_by_one_thread_with_the_broadcaster_as_sender(listen, threads):
    told, senders, all_told = [], set(), threading.Event()

    def receive(signal, sender, channel, user_id, **kwargs):
        told.append((sender, channel, user_id))
        senders.add(threading.current_thread())
        if len(told) == 200:
            all_told.set()

    listen(signals.user_joined, receive)
    listen(signals.user_left, receive)
    expected = []
    for number in range(100):
        for signal in (signals.user_joined, signals.user_left):
            threads.send(signal, "room", number)
            expected.append((Broadcaster, "room", number))
    assert all_told.wait(5)
    assert told == expected
    assert len(senders) == 1
    assert threading.current_thread() not in senders


def test_receiver_that_fails_is_logged_and_stops_no_other(listen, threads, caplog):
    told = threading.Event()

    def fail(**kwargs):
        raise LookupError("no such user")

    listen(signals.user_joined, fail)
    listen(signals.user_joined, lambda **kwargs: told.set())
    threads.send(signals.user_joined, "a room", 1)
    assert told.wait(5)
    threads._ordered.submit(lambda: None).result(5)  # After the log entry.
    (record,) = [record for record in caplog.records if record.name == "ds_broadcaster"]
    assert "'a room'" in record.getMessage()
    assert record.exc_info[0] is LookupError


def test_signal_without_a_receiver_costs_no_thread(threads):
    threads.send(signals.connection_opened, "room", 1)
    assert not threads._ordered._threads


def wait_for_renders(threads):
    """Wait until every thread that renders is free again."""
    barrier = threading.Barrier(RENDER_THREADS)
    for waiting in [threads.render(barrier.wait, 5) for _ in range(RENDER_THREADS)]:
        waiting.result(5)


def test_callback_runs_in_a_thread_of_its_own_while_the_loop_goes_on(threads):
    rendering, go_on = threading.Event(), threading.Event()
    names = []

    def presence(channel, user_ids):
        names.append(threading.current_thread().name)
        rendering.set()
        assert go_on.wait(5)
        return {"online": user_ids}

    with virtual_world(threads=threads) as world:
        client = world.client(user_id=1, presence_callback=presence)
        assert rendering.wait(5)
        world.broadcast("room", "<p id=a>")
        world.settle()
        assert client.texts == ["<p id=a>"]
        assert client.signals == []
        world.client(user_id=2)
        world.advance(1)
        go_on.set()
        for _ in range(2):
            # The loop runs what a finished render asks for after this.
            wait_for_renders(threads)
            world.advance(1)
        assert online(client)[-1] == [1, 2]
        assert len(names) == 2
        assert all(name.startswith("ds_broadcaster-presence") for name in names)


@pytest.mark.django_db(transaction=True)
def test_callback_may_use_the_orm_and_its_database_connection_is_closed(threads):
    get_user_model().objects.create(username="ada")
    used = []

    def query():
        names = list(get_user_model().objects.filter(username="ada").values_list("username", flat=True))
        used.append(connections["default"])
        assert used[0].connection is not None
        return names

    assert threads.render(query).result(5) == ["ada"]
    assert used[0].connection is None
