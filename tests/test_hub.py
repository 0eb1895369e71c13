"""The hub with its logs, cursors and gaps, under every interleaving that hypothesis finds."""

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from django.test import override_settings
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ds_broadcaster.ids import parse_id
from ds_broadcaster.log import Log
from tests.fakes import FACTOR, KINDS, FakeClient, virtual_world

CHANNELS = ("a", "b", "c")
USERS = (None, 1, 2, 3)
TINY_HISTORY = {"max_events": 4, "max_age": 20, "max_bytes": 2000, "max_total_bytes": 4000}
# A chunk of this size holds two or three of the events below.
TINY_READ = 256

channels = st.sampled_from(CHANNELS)
users = st.sampled_from(USERS)
kinds = st.sampled_from(KINDS)
sizes = st.sampled_from([0, 10, 300])


def presence(channel, user_ids):
    return {"presence": channel, "online": user_ids}


class HubMachine(RuleBasedStateMachine):
    """What is published, in order, and what each client was given of it.

    A client's run is right when it holds exactly the events of its channels from where the stream began up to the
    last id that the client was told. So no id, a heartbeat's included, may pass over an event.
    """

    def __init__(self):
        super().__init__()
        self.world = ExitStack()
        self.loop, self.broadcaster = self.world.enter_context(virtual_world())
        self.world.enter_context(patch.object(Log.read, "__defaults__", (TINY_READ,)))
        self.world.enter_context(patch("ds_broadcaster.channel.READ_BYTES", TINY_READ))
        self.broker = self.broadcaster._broker()
        self.published = []  # (sequence, channel, text)
        self.clients = []
        self.numbers = iter(range(1, 1_000_000))

    # Publishing.

    @rule(channel=channels, size=sizes)
    def publish(self, channel, size):
        text = f"<p id={channel}{next(self.numbers)}>{'x' * size}</p>"
        self.broadcaster(channel, text)
        self.published.append((self.broker.sequence(), channel, text))

    @rule(names=st.lists(channels, min_size=5, max_size=15), size=sizes)
    def publish_more_than_is_kept(self, names, size):
        for name in names:
            self.publish(name, size)

    # Clients.

    def _connect(self, names, user, kind, cursor):
        note(f"client {len(self.clients)}: {kind} on {names} as {user} from {cursor!r}")
        client = FakeClient(
            self.loop, self.broadcaster, names, user, kind=kind, cursor=cursor, presence_callback=presence
        )
        client.gave = cursor
        client.connected_at = self.broker.sequence()
        client.ended_at = None  # The sequence of the disconnect or kill.
        self.clients.append(client)
        self.loop.turn(3)
        # The view, the hub and the opening frames take one turn; "task" needs a second for its write.
        assert client.frames or client.end, "nothing opened the stream"

    @rule(names=st.lists(channels, min_size=1, max_size=3, unique=True), user=users, kind=kinds)
    def connect(self, names, user, kind):
        self._connect(names, user, kind, None)

    @rule(
        names=st.lists(channels, min_size=1, max_size=3, unique=True), user=users, kind=kinds, data=st.data()
    )
    def connect_with_a_cursor(self, names, user, kind, data):
        sequence = data.draw(st.integers(0, self.broker.sequence()))
        self._connect(names, user, kind, f"{self.broker.epoch}-{sequence}")

    @rule(
        names=st.lists(channels, min_size=1, max_size=3, unique=True),
        user=users,
        kind=kinds,
        cursor=st.sampled_from(["0ld-3", "3", "-", "garbage", "EPOCH-999999", "EPOCH-1x", "EPOCH--1", "\xff"]),
    )
    def connect_with_garbage(self, names, user, kind, cursor):
        self._connect(names, user, kind, cursor.replace("EPOCH", self.broker.epoch))

    def _pick(self, data, accepts):
        return data.draw(st.sampled_from([each for each in self.clients if accepts(each)]))

    @precondition(lambda self: any(each.end in ("cut", "left") and each.last_id for each in self.clients))
    @rule(data=st.data(), kind=kinds)
    def come_back(self, data, kind):
        client = self._pick(data, lambda each: each.end in ("cut", "left") and each.last_id)
        self.clients.remove(client)
        self._connect(client.channels, client.user_id, kind, client.last_id)

    @precondition(lambda self: any(each.end is None for each in self.clients))
    @rule(data=st.data(), what=st.sampled_from(["stall", "drain", "fail", "vanish"]))
    def hinder(self, data, what):
        client = self._pick(data, lambda each: each.end is None)
        note(f"client {self.clients.index(client)}: {what}")
        getattr(client, what)()

    # Ends.

    def _commanded(self, accepts):
        for client in self.clients:
            if client.end is None and client.ended_at is None and accepts(client):
                client.ended_at = self.broker.sequence()

    @rule(channel=channels, user=st.sampled_from(USERS[1:]))
    def disconnect(self, channel, user):
        self.broadcaster._broker().command(channel, _disconnect(user))
        self._commanded(lambda client: channel in client.channels and client.user_id == user)

    @rule(channel=channels)
    def kill(self, channel):
        self.broadcaster.kill(channel)
        self._commanded(lambda client: channel in client.channels)

    # Time.

    @rule(count=st.integers(1, 3))
    def turn(self, count):
        self.loop.turn(count)

    @rule(seconds=st.sampled_from([0.3, 1, 3, 16, 35]))
    def let_time_pass(self, seconds):
        self.loop.advance(seconds)
        if seconds > 30:
            for client in self.clients:
                # A plain stream that Django is writing cannot be ended from outside without its transport.
                within_reach = client.kind != "plain, no transport"
                assert not (client.stalled and client._sending and within_reach), "a stalled client is still here"

    @rule()
    def come_to_rest(self):
        self.loop.settle()
        open_clients = [each for each in self.clients if each.end is None]
        for client in open_clients:
            if not client.was_hindered:
                assert client.ended_at is None, "disconnected, and still open"
                assert self._received(client) == self._expected(client, self.broker.sequence())
        online = [each for each in open_clients if each.ended_at is None and not each.failing]
        uncertain = [each for each in open_clients if each.failing]
        for channel in CHANNELS:
            certain = Counter(each.user_id for each in online if channel in each.channels)
            perhaps = Counter(each.user_id for each in uncertain if channel in each.channels)
            del certain[None], perhaps[None]
            users = Counter(self.broadcaster.get_users(channel))
            assert certain <= users <= certain + perhaps
        live = {channel for client in online for channel in client.channels}
        assert live <= set(self.broadcaster.get_channels())

    # What always holds.

    @staticmethod
    def _start(client):
        """Return the sequence in the client's opening frame."""
        ids = [frame.id for frame in client.frames if hasattr(frame, "id")]
        return parse_id(ids[0])[1]

    def _expected(self, client, until):
        start = self._start(client)
        return [
            (sequence, text)
            for sequence, channel, text in self.published
            if channel in client.channels and start < sequence <= until
        ]

    @staticmethod
    def _received(client):
        return [(parse_id(event.id)[1], event.elements) for event in client.events if event.elements]

    @invariant()
    def every_client_has_a_gapless_ordered_run_without_duplicates(self):
        for number, client in enumerate(self.clients):
            if not client.frames:
                continue
            ids = [parse_id(frame.id) for frame in client.frames if hasattr(frame, "id")]
            assert {epoch for epoch, _ in ids} == {self.broker.epoch}
            sequences = [sequence for _, sequence in ids]
            assert sequences == sorted(sequences), f"the ids of client {number} go backwards"
            assert self._received(client) == self._expected(client, sequences[-1]), f"client {number}"
            if client.ended_at is not None:
                last = max((sequence for sequence, _ in self._received(client)), default=0)
                assert last < client.ended_at, f"client {number} got more after its end"

    @invariant()
    def every_client_starts_at_its_cursor_or_is_told_of_a_gap(self):
        for client in self.clients:
            if not client.frames or client.told_of_gap:
                continue
            start = self._start(client)
            if client.gave is None:
                assert start == client.connected_at
            else:
                assert client.gave == f"{self.broker.epoch}-{start}"

    @invariant()
    def nobody_is_told_of_a_gap_without_need(self):
        for client in self.clients:
            if client.gave in (None, f"{self.broker.epoch}-{client.connected_at}"):
                assert not client.told_of_gap

    @invariant()
    def nobody_who_keeps_up_is_cut_off(self):
        for number, client in enumerate(self.clients):
            if not client.was_hindered:
                assert client.end != "cut", f"client {number}"
                assert client.end is None or client.ended_at is not None

    @invariant()
    def joins_and_leaves_take_turns(self):
        for hub in self.broadcaster.hubs():
            online = set()
            for name, channel, user in hub._workers.sent:
                if name == "user_joined":
                    assert (channel, user) not in online
                    online.add((channel, user))
                elif name == "user_left":
                    online.remove((channel, user))

    # The end.

    def teardown(self):
        try:
            self._check_that_all_ends_well()
        finally:
            self.world.close()

    def _check_that_all_ends_well(self):
        for client in self.clients:
            client.drain()
        self.come_to_rest()
        self.loop.advance(1)
        self._check_presence()
        for client in self.clients:
            if client.end is None:
                assert client.failing or client.ended_at is None, "disconnected, and still open"
                client.vanish()
        self.loop.advance(5)
        self.every_client_has_a_gapless_ordered_run_without_duplicates()
        for client in self.clients:
            client.task.result()
        assert not asyncio.all_tasks(self.loop)
        assert self.broadcaster.get_channels() == []
        for hub in self.broadcaster.hubs():
            assert not hub._channels
            assert not hub._slot_of
            assert not any(hub._slots)
            assert not hub.blocked
            assert not hub._tasks
            assert not hub._incoming
            assert hub._ticker is None
            joined = Counter(each[1:] for each in hub._workers.sent if each[0] == "user_joined")
            left = Counter(each[1:] for each in hub._workers.sent if each[0] == "user_left")
            assert joined == left

    def _check_presence(self):
        """Everybody's newest presence lists who is online, those in their grace included."""
        for client in self.clients:
            if client.end is None and not client.failing:
                shown = {each["presence"]: each["online"] for each in map(json.loads, client.signals)}
                (hub,) = self.broadcaster.hubs()
                for name in client.channels:
                    assert shown[name] == hub._channels[name].roster.online()


def _disconnect(user):
    from ds_broadcaster.brokers import Command

    return Command("disconnect", user)


@pytest.fixture
def tiny(settings):
    with override_settings(DS_BROADCASTER_HISTORY=TINY_HISTORY):
        yield


@pytest.mark.usefixtures("tiny")
def test_every_client_sees_a_gapless_run_or_is_told_of_a_gap():
    run_state_machine_as_test(
        HubMachine,
        settings=settings(max_examples=150 * FACTOR, stateful_step_count=40, deadline=None, print_blob=True),
    )
