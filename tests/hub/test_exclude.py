"""Leaving out the tab that made a change: each client gets what is not excluded for it, in order, and no more."""

import asyncio
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ds_broadcaster import broadcast
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.ids import parse_id
from ds_broadcaster.log import Log
from ds_broadcaster.sse import Facts
from ds_broadcaster.streams.tabs import excluded
from tests.fakes import FACTOR, KINDS, Hostile, make_request, make_scope, virtual_world

each_kind = pytest.mark.parametrize("kind", KINDS)

ONE, TWO, THREE = "tab-number-1", "tab-number-2", "tab-number-3"


def of(tab):
    return b"" if tab is None else f'datastar={{"broadcastTab":"{tab}"}}'.encode()


@pytest.fixture
def world():
    with virtual_world() as world:
        world.wire = []
        take = patch_take(world)
        with take:
            yield world
        assert b"not for" not in b"".join(world.wire)
        assert not any(tab.encode() in b"".join(world.wire) for tab in (ONE, TWO, THREE))


def patch_take(world):
    """Keep every byte that goes out: no client may learn of another's tab."""
    from tests.fakes import FakeClient

    original = FakeClient.take

    def take(self, message):
        world.wire.append(message["body"])
        return original(self, message)

    return patch.object(FakeClient, "take", take)


def texts(*numbers):
    return [f"<p id=e{number}>" for number in numbers]


def send(world, number, exclude=None, channel="room"):
    world.broadcast(channel, f"<p id=e{number}>", exclude=exclude)


# Live


@each_kind
def test_tab_that_is_left_out_gets_the_rest_and_all_others_get_all(world, kind):
    one, two, untold = (world.client(kind=kind, query=of(tab)) for tab in (ONE, TWO, None))
    for number, exclude in enumerate([None, ONE, None, TWO, ONE, None]):
        send(world, number, exclude)
        if number == 3:
            world.settle()
    world.settle()
    assert one.texts == texts(0, 2, 3, 5)
    assert two.texts == texts(0, 1, 2, 4, 5)
    assert untold.texts == texts(0, 1, 2, 3, 4, 5)


@each_kind
def test_cursor_moves_over_what_is_left_out(world, kind):
    one = world.client(kind=kind, query=of(ONE))
    send(world, 0, ONE)
    world.settle()
    assert one.texts == []
    assert one.last_id == world.broadcast.cursor()


@each_kind
def test_two_windows_of_one_user_are_two_tabs(world, kind):
    one, two = (world.client(user_id=1, kind=kind, query=of(tab)) for tab in (ONE, TWO))
    send(world, 0, ONE)
    world.settle()
    assert (one.texts, two.texts) == ([], texts(0))


@each_kind
def test_all_streams_of_the_tab_are_left_out(world, kind):
    room, both = (
        world.client("room", kind=kind, query=of(ONE)),
        world.client(["hall", "room"], kind=kind, query=of(ONE)),
    )
    send(world, 0, ONE)
    send(world, 1, ONE, "hall")
    send(world, 2)
    world.settle()
    assert (room.texts, both.texts) == (texts(2), texts(2))


@each_kind
def test_several_channels_on_one_stream_keep_their_order(world, kind):
    one, two = (world.client(["a", "b"], kind=kind, query=of(tab)) for tab in (ONE, TWO))
    for number in range(12):
        send(world, number, [None, ONE, TWO][number % 3], "ab"[number % 2])
    world.settle()
    assert one.texts == texts(*(n for n in range(12) if n % 3 != 1))
    assert two.texts == texts(*(n for n in range(12) if n % 3 != 2))


@each_kind
def test_slow_tab_is_left_out_too(world, kind):
    one = world.client(kind=kind, query=of(ONE))
    one.stall()
    for number in range(10):
        send(world, number, ONE if number % 2 else None)
        world.settle()
    one.drain()
    world.settle()
    assert one.texts == texts(0, 2, 4, 6, 8)


@each_kind
def test_tab_that_is_disconnected_is_left_out_to_the_last(world, kind):
    one = world.client(user_id=1, kind=kind, query=of(ONE))
    one.stall()
    send(world, 0)
    world.settle()
    send(world, 1, ONE)
    send(world, 2)
    world.disconnect("room", 1)
    world.settle()
    one.drain()
    world.settle()
    assert one.end == "clean"
    assert one.texts == texts(0, 2)


# Replay


@each_kind
@pytest.mark.parametrize("channel_is_live", [True, False])
@pytest.mark.parametrize("by", ["last-event-id", "cursor"])
def test_tab_that_returns_is_left_out_of_what_it_missed(world, kind, channel_is_live, by):
    if channel_is_live:
        world.client(kind=kind)
    cursor = world.broadcast.cursor()
    for number in range(4):
        send(world, number, ONE if number % 2 else TWO)
    world.settle()
    for tab, expected in ((ONE, texts(0, 2)), (TWO, texts(1, 3)), (None, texts(0, 1, 2, 3))):
        if by == "cursor":
            client = world.client(kind=kind, query=f"cursor={cursor}&".encode() + of(tab))
        else:
            client = world.client(kind=kind, cursor=cursor, query=of(tab))
        assert client.texts == expected
        assert client.last_id == world.broadcast.cursor()


# What it costs


def test_those_who_get_all_share_what_is_written(world):
    one = world.client(query=of(ONE))
    others = [world.client(query=of(f"other-tab-{number}")) for number in range(20)]
    built = []
    read = Log.read
    with patch.object(Log, "read", lambda self, *args, **named: built.append(1) or read(self, *args, **named)):
        send(world, 0, ONE)
        send(world, 1)
        world.settle()
    assert len(built) == 1
    assert one.texts == texts(1)
    assert all(client.texts == texts(0, 1) for client in others)


def test_tab_shares_again_once_it_is_past_what_was_left_out(world):
    one = world.client(query=of(ONE))
    send(world, 0, ONE)
    world.settle()
    with patch("ds_broadcaster.hub.replay._merged", side_effect=AssertionError):
        send(world, 1)
        send(world, 2, TWO)
        world.settle()
    assert one.texts == texts(1, 2)


@override_settings(DS_BROADCASTER_HISTORY={"max_events": 10})
def test_bookkeeping_is_as_short_as_the_log(world):
    world.client(query=of(ONE))
    for number in range(500):
        send(world, number, f"tab-of-user-{number}")
        send(world, number, ONE)
        world.settle()
    log = world.hub.channel("room").log
    assert sum(log.excludes(f"tab-of-user-{number}", 0) for number in range(500)) <= 12


# Who is left out


REQUEST = make_request(make_scope(query=of(ONE)))
CALLS = {
    "()": (lambda b, ex: b("room", "<p id=a>", exclude=ex), None),
    "elements": (
        lambda b, ex: b.elements("room", "<p id=a>", exclude=ex),
        lambda b, ex: b.aelements("room", "<p id=a>", exclude=ex),
    ),
    "signals": (
        lambda b, ex: b.signals("room", {"a": 1}, exclude=ex),
        lambda b, ex: b.asignals("room", {"a": 1}, exclude=ex),
    ),
    "remove": (lambda b, ex: b.remove("room", "#a", exclude=ex), lambda b, ex: b.aremove("room", "#a", exclude=ex)),
    "template": (
        lambda b, ex: b.template("room", "club_members.html", exclude=ex),
        lambda b, ex: b.atemplate("room", "club_members.html", exclude=ex),
    ),
}


class Wrapped:
    """A request as Django REST framework's views get it."""

    _request = REQUEST


@pytest.mark.parametrize("exclude", [ONE, REQUEST, Wrapped()], ids=["id", "request", "wrapped request"])
@pytest.mark.parametrize("verb", CALLS)
def test_each_verb_and_its_twin_leave_out(verb, exclude, monkeypatch):
    broadcaster = Broadcaster()
    given = []
    monkeypatch.setattr(broadcaster._broker, "publish", lambda channel, payload, facts: given.append((payload, facts)))
    call, twin = CALLS[verb]
    call(broadcaster, None)
    call(broadcaster, exclude)
    if twin is not None:
        asyncio.run(twin(broadcaster, exclude))
    (payload, facts), *others = given
    assert facts == Facts(replaces=facts.replaces)
    assert others
    assert set(others) == {(payload, facts._replace(exclude=ONE))}


def test_request_that_tells_no_tab_leaves_out_no_tab(world):
    client = world.client(query=of(ONE))
    send(world, 0, make_request(make_scope()))
    world.settle()
    assert client.texts == texts(0)


@pytest.mark.parametrize(
    "exclude, error",
    [
        (7, TypeError),
        (b"tab-number-1", TypeError),
        ([ONE], TypeError),
        (object(), TypeError),
        ("", ValueError),
        ("short", ValueError),
        ("x" * 65, ValueError),
        ("tab number 1", ValueError),
        ("tab-number-1\n", ValueError),
        ("tab-number-1\nevent: x", ValueError),
        ("tab-numb\xe9r-1", ValueError),
    ],
)
def test_what_is_no_tab_is_refused(exclude, error):
    with pytest.raises(error, match="exclude must be"):
        broadcast("room", "<p id=a>", exclude=exclude)


def test_tab_is_a_plain_string():
    assert type(excluded(Hostile(ONE))) is str
    assert excluded(Hostile(ONE)) == ONE


# All together

tabs = st.sampled_from([None, ONE, TWO, THREE])
rooms = st.sampled_from(["a", "b"])


class ExcludeMachine(RuleBasedStateMachine):
    """What was published, for whom, and what each client was given of it."""

    def __init__(self):
        super().__init__()
        self.stack = ExitStack()
        self.world = self.stack.enter_context(virtual_world())
        self.stack.enter_context(patch("ds_broadcaster.hub.replay.READ_BYTES", 200))
        self.published = []
        self.clients = []

    @rule(channel=rooms, exclude=tabs, count=st.integers(1, 12), size=st.sampled_from([0, 100]))
    def publish(self, channel, exclude, count, size):
        for _ in range(count):
            text = f"<p id={len(self.published)}>{'x' * size}</p>"
            self.world.broadcast(channel, text, exclude=exclude)
            self.published.append((self.world.broker.heard(), channel, exclude, text))

    @rule(names=st.sampled_from([["a"], ["b"], ["a", "b"]]), tab=tabs, kind=st.sampled_from(KINDS))
    def connect(self, names, tab, kind):
        self._connect(names, tab, kind, None)

    def _connect(self, names, tab, kind, cursor):
        client = self.world.client(names, kind=kind, query=of(tab), cursor=cursor)
        client.tab = tab
        client.start = parse_id(next(frame.id for frame in client.frames if hasattr(frame, "id")))[1]
        client.gap_at = self.world.broker.heard()
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), kind=st.sampled_from(KINDS))
    def come_back(self, data, kind):
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        if client.end is None:
            client.vanish()
        client.drain()
        self._connect(client.channels, client.tab, kind, client.last_id)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), what=st.sampled_from(["stall", "drain"]))
    def hinder(self, data, what):
        getattr(data.draw(st.sampled_from(self.clients)), what)()

    @rule(seconds=st.sampled_from([0.3, 3, 31]))
    def let_time_pass(self, seconds):
        self.world.advance(seconds)

    @rule()
    def settle(self):
        self.world.settle()

    @invariant()
    def each_gets_what_is_not_excluded_for_it_in_order(self):
        for client in self.clients:
            if not client.frames:
                continue
            until = parse_id(client.last_id)[1]
            starts = {client.start, client.gap_at if client.told_of_gap else client.start}
            for name in client.channels:
                possible = [
                    [
                        text
                        for sequence, channel, exclude, text in self.published
                        if channel == name and start < sequence <= until and (exclude is None or exclude != client.tab)
                    ]
                    for start in starts
                ]
                mine = {text for _, channel, _, text in self.published if channel == name}
                assert [text for text in client.texts if text in mine] in possible
            order = [self.published[int(text[6:].partition(">")[0])][0] for text in client.texts]
            assert order == sorted(order)

    @invariant()
    def no_client_learns_of_tabs(self):
        for client in self.clients:
            assert not any("tab-number" in str(frame) for frame in client.frames)

    @invariant()
    def bookkeeping_is_bounded(self):
        for hub in self.world.broadcast.hubs():
            for channel in hub.live():
                frames = [frame for _, frame in channel.log.after(channel.log.floor)]
                excluded = {frame.facts.exclude for frame in frames}
                assert all(channel.log.excludes(tab, 0) for tab in (ONE, TWO, THREE) if tab in excluded)
                assert len(channel.log._excluding) <= 3

    def teardown(self):
        try:
            for client in self.clients:
                client.drain()
            self.world.settle()
            self.each_gets_what_is_not_excluded_for_it_in_order()
            for client in self.clients:
                if client.end is None and not client.was_hindered and not client.told_of_gap:
                    assert parse_id(client.last_id)[1] >= max(
                        (s for s, channel, *_ in self.published if channel in client.channels), default=0
                    )
        finally:
            self.stack.close()


@override_settings(DS_BROADCASTER_HISTORY={"max_events": 6, "max_age": 30, "max_bytes": 4000, "max_total_bytes": 9000})
def test_random_exclusions_trims_and_returns():
    run_state_machine_as_test(
        ExcludeMachine,
        settings=settings(max_examples=60 * FACTOR, stateful_step_count=30, deadline=None, print_blob=True),
    )
