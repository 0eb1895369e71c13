"""The hub with its logs, cursors and gaps, under every interleaving that hypothesis finds."""

import asyncio
import json
import logging
import threading
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from django.test import override_settings
from hypothesis import event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ds_broadcaster import signals
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.brokers import EVERYWHERE, Command
from ds_broadcaster.brokers.base import frame
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.hub.hub import BACKLOG, BACKLOG_BYTES, BACKLOG_WAIT
from ds_broadcaster.hub.threads import Threads
from ds_broadcaster.ids import parse_id
from ds_broadcaster.log import HELD
from ds_broadcaster.streams.plain import StreamCut
from tests.fakes import FACTOR, KINDS, FakeClient, MortalBroker, virtual_world

CHANNELS = ("a", "b", "c")
USERS = (None, 1, 2, 3)
TINY_HISTORY = {"max_events": 4, "max_age": 20, "max_bytes": 2000, "max_total_bytes": 100_000}
# A chunk of this size holds two or three of the events below.
TINY_READ = 256

channels = st.sampled_from(CHANNELS)
users = st.sampled_from(USERS)
kinds = st.sampled_from(KINDS)
sizes = st.sampled_from([0, 10, 300])
# A client's tab, and the tab that an event leaves out.
TABS = (None, "tab-number-1", "tab-number-2")


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
        world = self.world.enter_context(virtual_world(still_allowed=self._still_allowed))
        self.loop, self.broadcaster, self.disconnect_user = world.loop, world.broadcast, world.disconnect
        self.threads = world.threads
        self.world.enter_context(patch("ds_broadcaster.hub.replay.READ_BYTES", TINY_READ))
        # As much as is ever published between two turns of the loop.
        self.world.enter_context(patch("ds_broadcaster.log.HELD", 100))
        self.world.enter_context(patch("ds_broadcaster.hub.channels.TAPES_KEPT", 2000))
        self.broker = self.broadcaster._broker
        self.published = []  # (sequence, channel, text, the tab that is left out)
        self.secrets = set()  # The texts that are never compressed.
        self.transient = {}  # Likewise, by text; and the clients that must get it.
        self.steps = {}  # By channel, the texts of its progress bar in their order, each with the tab that is left out.
        self.clients = []
        self.numbers = iter(range(1, 1_000_000))
        self.tabs = iter(range(1_000_000))
        self.asking = 0

    # Publishing.

    @rule(channel=channels, size=sizes, exclude=st.sampled_from(TABS), compress=st.booleans())
    def publish(self, channel, size, exclude=None, compress=True):
        text = f"<p id={channel}{next(self.numbers)}>{'x' * size}</p>"
        self.broadcaster(channel, text, exclude=exclude, compress=compress)
        if not compress:
            self.secrets.add(text)
        self.published.append((self.broker.heard(), channel, text, exclude))

    @rule(channel=channels, exclude=st.sampled_from(TABS))
    def publish_a_step(self, channel, exclude):
        """Each step of a progress bar replaces the one before it in the history."""
        text = f"<p id={channel}-bar>{next(self.numbers)}</p>"
        self.broadcaster(channel, text, exclude=exclude)
        self.published.append((self.broker.heard(), channel, text, exclude))
        self.steps.setdefault(channel, []).append((text, exclude))

    @rule(channel=channels, exclude=st.sampled_from(TABS), key=st.sampled_from([None, None, "a"]), size=sizes)
    def publish_what_is_transient(self, channel, exclude, key, size):
        text = f"<i id={channel}{next(self.numbers)}>{'x' * size}</i>"
        self.broadcaster(channel, text, exclude=exclude, transient=True, key=key)
        waiting = [
            each
            for each in self.clients
            if channel in each.channels and each.frames and each.end is None and each.ended_at is None
            if exclude is None or each.tab != exclude
        ]
        self.transient[text] = (self.broker.heard(), channel, exclude, waiting)

    @rule(names=st.lists(channels, min_size=5, max_size=15), size=sizes)
    def publish_more_than_is_kept(self, names, size):
        for name in names:
            self.publish(name, size)

    # Clients.

    def _connect(self, names, user, kind, cursor, before_opening=None):
        number = next(self.tabs)
        tab = TABS[number % len(TABS)]
        note(f"client {len(self.clients)}: {kind} on {names} as {user} in {tab} from {cursor!r}")
        client = FakeClient(
            self.loop,
            self.broadcaster,
            names,
            user,
            kind=kind,
            cursor=cursor,
            before_opening=before_opening,
            presence_callback=presence,
            gzip=number % 4 > 0,
            query=b"" if tab is None else f'datastar={{"broadcastTab":"{tab}"}}'.encode(),
        )
        client.tab = tab
        client.gave = cursor
        client.connected_at = self.broker.heard()
        client.ended_at = None  # The sequence of the disconnect or kill.
        self.clients.append(client)
        # The view, the hub and the opening frames take one turn; "task" needs a second one for its write, and what
        # stands for middleware two.
        self.loop.turn(3 if before_opening is None else 5)
        if not client.frames and client.end is None:
            assert self.asking, "nothing opened the stream"
        return client

    @rule(names=st.lists(channels, min_size=1, max_size=3, unique=True), user=users, kind=kinds)
    def connect(self, names, user, kind):
        self._connect(names, user, kind, None)

    @rule(names=st.lists(channels, min_size=1, max_size=3, unique=True), user=users, kind=kinds, data=st.data())
    def connect_with_a_cursor(self, names, user, kind, data):
        sequence = data.draw(st.integers(0, self.broker.heard()))
        self._connect(names, user, kind, f"{self.broker.epoch}-{sequence}")

    @rule(
        names=st.lists(channels, min_size=1, max_size=3, unique=True),
        user=users,
        kind=kinds,
        cursor=st.sampled_from(["0ld-3", "3", "-", "garbage", "EPOCH-999999", "EPOCH-1x", "EPOCH--1", "\xff"]),
    )
    def connect_with_garbage(self, names, user, kind, cursor):
        self._connect(names, user, kind, cursor.replace("EPOCH", self.broker.epoch))

    @rule(
        names=st.lists(channels, min_size=1, max_size=3, unique=True),
        user=users,
        kind=kinds,
        first=st.lists(channels, max_size=3),
        end=st.none() | st.tuples(st.sampled_from(["kill", "disconnect"]), channels, st.sampled_from(USERS[1:])),
        then=st.lists(channels, max_size=3),
        data=st.data(),
    )
    def connect_while_things_happen_before_it_opens(self, names, user, kind, first, end, then, data):
        back = data.draw(st.integers(0, min(2, self.broker.heard())))

        def happen():
            for channel in first:
                self.publish(channel, 0)
            if end is not None:
                verb, channel, ended_user = end
                self.kill(channel) if verb == "kill" else self.disconnect(channel, ended_user)
            for channel in then:
                self.publish(channel, 0)

        cursor = f"{self.broker.epoch}-{self.broker.heard() - back}"
        client = self._connect(names, user, kind, cursor, happen)
        if client.end == "cut":  # What was there for the view was gone when the stream opened.
            assert not client.frames
            assert len(first) + len(then) + back > TINY_HISTORY["max_events"] or end is not None
            self.clients.remove(client)

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

    @precondition(lambda self: any(each.end is None for each in self.clients))
    @rule(data=st.data(), seconds=st.sampled_from([1, 3]), size=sizes, then=st.sampled_from(["stall", "drain"]))
    def let_a_client_fall_behind(self, data, seconds, size, then):
        client = self._pick(data, lambda each: each.end is None)
        client.stall()
        self.publish(client.channels[0], size)
        self.loop.advance(seconds)
        self.publish_more_than_is_kept(client.channels[:1] * 8, size)
        self.loop.settle()
        getattr(client, then)()

    # Ends.

    def _commanded(self, accepts):
        for client in self.clients:
            if client.end is None and client.ended_at is None and accepts(client):
                client.ended_at = self.broker.heard()

    @rule(channel=channels, user=st.sampled_from(USERS[1:]))
    def disconnect(self, channel, user):
        self.disconnect_user(channel, user)
        self._commanded(lambda client: channel in client.channels and client.user_id == user)

    @rule(channel=channels)
    def kill(self, channel):
        self.broadcaster.kill(channel)
        self._commanded(lambda client: channel in client.channels)

    # Re-checks, of a server that is in trouble: they change nothing.

    async def _still_allowed(self, connection):
        self.asking += 1
        await asyncio.sleep(0.2)
        self.asking -= 1
        return True

    @rule(channel=st.sampled_from([*CHANNELS, EVERYWHERE]), user=users)
    def recheck(self, channel, user):
        self.broker.command(channel, Command("recheck", user))

    # Time.

    @rule(count=st.integers(1, 3))
    def turn(self, count):
        self.loop.turn(count)

    @rule(seconds=st.sampled_from([0.3, 1, 3, 16, 50]))
    def let_time_pass(self, seconds):
        self.loop.advance(seconds)
        if seconds == 50:  # A heartbeat finds the stalled within 15 s; the hub gives them 30.
            for client in self.clients:
                # Whatever is still on its way to one that has ended is the server's own affair.
                waits = client.stalled and client._sending and client.end is None
                assert not waits, "a stalled client is still here"

    @rule()
    def come_to_rest(self):
        self.loop.settle()
        self._check_transient()
        open_clients = [each for each in self.clients if each.end is None]
        for client in open_clients:
            if not client.was_hindered:
                assert client.ended_at is None, "disconnected, and still open"
                if client.frames:  # Otherwise it is asked about before it opens.
                    self._check_run(client, self.broker.heard())
        # One that is asked about before it opens is not there yet.
        online = [each for each in open_clients if each.frames and each.ended_at is None and not each.failing]
        uncertain = [each for each in open_clients if each.failing or not each.frames]
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

    def _expected(self, client, channel, start, until):
        return [
            (sequence, text)
            for sequence, name, text, left_out in self.published
            if name == channel and start < sequence <= until and (left_out is None or left_out != client.tab)
        ]

    def _check_run(self, client, until):
        """Check that the client has exactly what was sent to its channels, up to a sequence.

        One that was told of a gap may have the events of some channels from its cursor on, and those of the
        others, which the history does not hold any more, from the moment on at which it connected.
        """
        received = [
            (parse_id(event.id)[1], event.elements)
            for event in client.events
            if event.elements and event.elements not in self.transient
        ]
        start = self._start(client)
        for channel in client.channels:
            own = [event for event in received if event[1].startswith(f"<p id={channel}")]
            received = [event for event in received if event not in own]
            runs = [self._expected(client, channel, start, until)]
            if client.told_of_gap:
                runs.append(self._expected(client, channel, client.connected_at, until))
            assert any(self._is_run(client, own, run) for run in runs), f"client {self.clients.index(client)}"
        assert not received, "events of other channels"

    @invariant()
    def every_client_has_a_gapless_ordered_run_without_duplicates(self):
        for number, client in enumerate(self.clients):
            if not client.frames:
                continue
            ids = [parse_id(frame.id) for frame in client.frames if hasattr(frame, "id")]
            assert {epoch for epoch, _ in ids} == {self.broker.epoch}
            sequences = [sequence for _, sequence in ids]
            assert sequences == sorted(sequences), f"the ids of client {number} go backwards"
            self._check_run(client, sequences[-1])
            if client.ended_at is not None:
                assert sequences[-1] < client.ended_at, f"client {number} got more after its end"
                # What a slow client had still to get may be gone by then.
                if client.end == "clean" and not client.was_hindered:
                    self._check_run(client, client.ended_at)
            secrets = [event.elements for event in client.events if event.elements in self.secrets]
            wire = b"".join(client.wire) if secrets else b""
            assert all(text.encode() in wire for text in secrets), "a secret was compressed"

    def _is_run(self, client, own, run):
        """Tell whether a client has all of a run but for steps that a later one has replaced for it."""
        missing = [event for event in run if event not in own]
        return [event for event in run if event in own] == own and all(
            self._is_replaced(client, text) for _, text in missing
        )

    def _is_replaced(self, client, text):
        for steps in self.steps.values():
            texts = [each for each, _ in steps]
            if text in texts:
                return any(exclude is None or exclude != client.tab for _, exclude in steps[texts.index(text) + 1 :])
        return False

    @invariant()
    def transient_events_come_in_their_place_to_who_is_connected(self):
        for client in self.clients:
            if not client.frames:
                continue
            texts = [event.elements for event in client.events if event.elements]
            own = [text for text in texts if text in self.transient]
            assert len(own) == len(set(own)), "twice"
            order = {text: sequence for sequence, _, text, _ in self.published}
            order.update({text: sequence for text, (sequence, *_) in self.transient.items()})
            sequences = [order[text] for text in texts]
            assert sequences == sorted(sequences)
            for text in own:
                sequence, channel, exclude, _ = self.transient[text]
                assert channel in client.channels
                assert sequence > client.connected_at, "from before its time"
                assert exclude is None or exclude != client.tab

    def _check_transient(self):
        for text, (*_, waiting) in self.transient.items():
            for client in waiting:
                # One that is told to end, or is cut off, may go without.
                if client.end is None and not client.was_hindered and client.ended_at is None:
                    assert text in client.texts, f"client {self.clients.index(client)}"

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
    def no_client_is_told_of_a_gap_without_need(self):
        for client in self.clients:
            if client.gave in (None, f"{self.broker.epoch}-{client.connected_at}"):
                assert not client.told_of_gap

    @invariant()
    def no_client_that_keeps_up_is_cut_off(self):
        for number, client in enumerate(self.clients):
            # One that is asked about before it opens can find its history gone by then.
            if not client.was_hindered and client.frames:
                assert client.end != "cut", f"client {number}"
                assert client.end is None or client.ended_at is not None

    @invariant()
    def joins_and_leaves_take_turns(self):
        for threads in self.threads.values():
            online = set()
            for name, channel, user in threads.sent:
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
            event(f"{client.kind}: {client.end}")
            if client.told_of_gap:
                event("told of a gap")
            client.drain()
        self.come_to_rest()
        self.loop.advance(10)  # Those that are asked about before they open have opened.
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
        assert all(hub.is_idle() for hub in self.broadcaster.hubs())
        for threads in self.threads.values():
            joined = Counter(each[1:] for each in threads.sent if each[0] == "user_joined")
            left = Counter(each[1:] for each in threads.sent if each[0] == "user_left")
            assert joined == left

    def _check_presence(self):
        """Each client's newest presence lists the users who are online, by grace too."""
        for client in self.clients:
            if client.end is None and not client.failing:
                shown = {each["presence"]: each["online"] for each in map(json.loads, client.signals)}
                (hub,) = self.broadcaster.hubs()
                for name in client.channels:
                    assert shown[name] == hub.channel(name).roster.online()


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.ERROR, "ds_broadcaster")


@pytest.mark.usefixtures("quiet")
@override_settings(DS_BROADCASTER_HISTORY=TINY_HISTORY)
def test_every_client_sees_a_gapless_run_or_is_told_of_a_gap():
    run_state_machine_as_test(
        HubMachine,
        settings=settings(max_examples=100 * FACTOR, stateful_step_count=40, deadline=None, print_blob=True),
    )


# One by one, each with every way in which a stream is carried.

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def test_opening_frames_carry_the_cursor_and_a_jittered_retry(world):
    world.broadcast("room", "<p id=a>")
    clients = [world.client() for _ in range(50)]
    assert {client.last_id for client in clients} == {world.broadcast.cursor()}
    retries = {client.retries[0] for client in clients}
    assert len(retries) > 10
    assert min(retries) >= 1000
    assert max(retries) <= 2000
    assert not any(client.told_of_gap or client.texts for client in clients)


@each_kind
def test_hundred_events_in_one_tick_are_one_write(world, kind):
    client = world.client(kind=kind)
    before = client.writes
    texts = [f"<p id=e{number}>" for number in range(100)]
    for text in texts:
        world.broadcast("room", text)
    world.settle()
    assert client.texts == texts
    assert client.writes == before + 1


@each_kind
def test_burst_larger_than_the_history_reaches_those_who_keep_up(world, kind):
    client = world.client(kind=kind)
    texts = [f"<p id=e{number}>" for number in range(300)]
    for text in texts:
        world.broadcast("room", text)
    world.settle()
    assert client.end is None
    assert client.texts == texts


@each_kind
def test_events_of_several_channels_come_in_the_order_in_which_they_were_sent(world, kind):
    client = world.client(["b", "a"], kind=kind)
    texts = [f"<p id=e{number}>" for number in range(20)]
    for number, text in enumerate(texts):
        world.broadcast("aab"[number % 3], text)
    world.broadcast("c", "<p id=elsewhere>")
    world.settle()
    assert client.texts == texts


@each_kind
def test_stalled_client_delays_no_other_and_is_written_to_once(world, kind):
    stalled, other = world.client(kind=kind), world.client(kind=kind)
    stalled.stall()
    before = stalled.writes
    texts = [f"<p id=e{number}>" for number in range(20)]
    for text in texts:
        world.broadcast("room", text)
        world.settle()
    assert other.texts == texts
    assert stalled.writes == before + 1
    stalled.drain()
    world.settle()
    assert stalled.texts == texts
    assert stalled.writes == before + 2


@each_kind
def test_client_that_fell_off_the_log_is_cut_off_and_returns_to_a_gap(world, kind):
    client, other = world.client(kind=kind), world.client(kind=kind)
    client.stall()
    for number in range(3):
        world.broadcast("room", f"<p id=e{number}>")
        world.settle()
    world.advance(3)
    texts = [f"<p id=f{number}>" for number in range(150)]
    for text in texts:
        world.broadcast("room", text)
        world.settle()
    client.drain()
    world.settle()
    assert client.end == "cut"
    assert len(client.texts) < 3
    assert len(other.texts) == 153
    back = world.client(kind=kind, cursor=client.last_id)
    assert back.told_of_gap
    assert back.last_id == world.broadcast.cursor()
    assert not back.texts


def log_of(world, name="room"):
    return world.hub.channel(name).log


@override_settings(DS_BROADCASTER_HISTORY={"max_bytes": 100_000, "max_total_bytes": 10_000_000})
@each_kind
def test_client_that_reads_a_little_all_the_time_does_not_make_the_log_grow(world, kind):
    client, other = world.client(kind=kind), world.client()
    client.is_slow = True
    client.stall()
    largest = 0
    for _ in range(100):
        for _ in range(16):
            world.broadcast("room", f"<p>{'x' * 5000}</p>")
        world.advance(0.25)
        largest = max(largest, log_of(world).size)
        client.drain()  # One write: a little less than what was published meanwhile.
        if client.end is not None:
            break
    assert client.end == "cut"
    assert 100_000 < largest <= 100_000 * HELD
    assert len(other.texts) % 16 == 0
    assert other.end is None


@override_settings(DS_BROADCASTER_HISTORY={"max_bytes": 20_000, "max_total_bytes": 10_000_000})
def test_what_is_held_for_a_client_that_keeps_up_has_a_limit_too(world):
    client = world.client()
    client.stall()
    for _ in range(100):
        world.broadcast("room", f"<p>{'x' * 5000}</p>")
        world.settle()
        assert log_of(world).size <= 20_000 * HELD
    assert log_of(world).size > 20_000 * (HELD - 1)


@override_settings(DS_BROADCASTER_HISTORY={"max_total_bytes": 100_000})
@each_kind
def test_all_logs_of_a_hub_share_a_limit(kind):
    with virtual_world(broker_class=ForgetfulBroker) as world:
        names = [f"room-{number}" for number in range(30)]
        client = world.client(names, kind=kind)
        for _ in range(5):
            for name in names:
                world.broadcast(name, f"<p id=a>{'x' * 3000}</p>")
                world.settle()
                assert sum(log_of(world, each).size for each in names) <= 100_000
        assert len(client.texts) == 150
        client.vanish()
        world.advance(20)
        assert world.hub.is_idle()


class ForgetfulBroker(MemoryBroker):
    """A broker whose history is not in this process."""

    def floor(self, channel):
        return 0


@override_settings(DS_BROADCASTER_HISTORY={"max_bytes": 100_000, "max_total_bytes": 200_000})
def test_event_is_in_memory_once(world):
    """What the memory broker has dropped, the hub drops as well."""
    world.client("quiet")
    world.broadcast("quiet", "<p id=a>")
    assert len(log_of(world, "quiet")) == 0
    world.settle()
    assert len(log_of(world, "quiet")) == 1
    for number in range(10):  # Other channels, without a stream here.
        world.broadcast(f"busy-{number}", f"<p id=a>{'x' * 50_000}</p>")
    world.advance(16)
    assert world.broker.floor("quiet") > 0
    assert len(log_of(world, "quiet")) == 0


@override_settings(DS_BROADCASTER_HISTORY={"max_total_bytes": 100_000})
def test_events_that_were_dropped_are_held_nowhere():
    """What was written to the clients of a channel is not kept for the next of them, when its log no longer has it."""
    with virtual_world(broker_class=ForgetfulBroker) as world:
        names = [f"room-{number}" for number in range(30)]
        for name in names:
            world.client(name)
        for name in names:
            world.broadcast(name, f"<p id=a>{'x' * 10_000}</p>")
            world.settle()
        assert sum(len(chunk.body) for name in names for chunk in world.hub.channel(name).chunks.values()) <= 100_000


@each_kind
def test_returning_client_is_given_what_it_missed(world, kind):
    client = world.client(["a", "b"], kind=kind)
    world.broadcast("a", "<p id=seen>")
    world.settle()
    client.vanish()
    for number, channel in enumerate("abca"):
        world.broadcast(channel, f"<p id={channel}{number}>")
    world.settle()
    back = world.client(["a", "b"], kind=kind, cursor=client.last_id)
    assert not back.told_of_gap
    assert back.texts == ["<p id=a0>", "<p id=b1>", "<p id=a3>"]


@override_settings(DS_BROADCASTER_HISTORY={"max_bytes": 20_000})
@each_kind
def test_returning_client_is_given_no_more_at_a_time_than_a_slow_one_may_hold(world, kind):
    """It reads nothing, perhaps, and all that it missed would wait for it in memory."""
    names = [f"room-{number}" for number in range(20)]
    cursor = world.broadcast.cursor()
    texts = [f"<p id=e{number}>{'x' * 3000}</p>" for number in range(100)]
    for number, text in enumerate(texts):
        world.broadcast(names[number % 20], text)
    received = []
    for _ in range(20):
        client = world.client(names, kind=kind, cursor=cursor)
        assert not client.told_of_gap
        assert sum(map(len, client.texts)) <= 20_000 * HELD + 4000
        received += client.texts
        cursor = client.last_id
        if client.end is None:
            break
        assert client.end == "cut"
    assert received == texts
    world.broadcast("room-3", "<p id=new>")
    world.settle()
    assert client.texts[-1] == "<p id=new>"


def test_cursor_rendered_into_the_page_starts_the_stream_there(world):
    cursor = world.broadcast.cursor()
    world.broadcast("room", "<p id=meanwhile>")
    client = world.client(query=f"cursor={cursor}".encode())
    assert client.texts == ["<p id=meanwhile>"]
    assert not client.told_of_gap


def test_last_event_id_counts_before_the_cursor_of_the_page(world):
    old = world.broadcast.cursor()
    world.broadcast("room", "<p id=seen>")
    client = world.client(query=f"cursor={old}".encode(), cursor=world.broadcast.cursor())
    assert client.texts == []


def test_snapshot_is_sent_after_a_gap_and_only_then(world):
    def snapshot(request, channel):
        return f"<p id=snapshot-{channel}>", {"user": request.user.pk}

    world.broadcast("room", "<p id=old>")
    client = world.client(["room", "hall"], 7, cursor="another-1", snapshot_callback=snapshot)
    assert client.told_of_gap
    assert client.texts == ["<p id=snapshot-room>", "<p id=snapshot-hall>"]
    assert client.signals == ['{"user":7}'] * 2
    assert world.client("room", 7, snapshot_callback=snapshot).texts == []
    cursor = world.broadcast.cursor()
    assert world.client("room", 7, cursor=cursor, snapshot_callback=snapshot).texts == []


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
@each_kind
def test_heartbeats_come_once_an_interval_and_carry_the_newest_id(world, kind):
    clients = [world.client(kind=kind) for _ in range(40)]
    before = [len(client.frames) for client in clients]
    world.broadcast("elsewhere", "<p id=a>")
    world.advance(4)
    assert {len(client.frames) - count for client, count in zip(clients, before, strict=True)} == {1}
    assert {client.last_id for client in clients} == {world.broadcast.cursor()}
    world.advance(8)
    assert {len(client.frames) - count for client, count in zip(clients, before, strict=True)} == {3}


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
@each_kind
@pytest.mark.parametrize("ahead", [0, 10])
def test_element_is_told_the_interval_and_sees_each_heartbeat_whatever_its_cursor(world, kind, ahead):
    """It takes a stream without any for lost."""
    client = world.client(kind=kind, query=b"element=stream")
    heard = client.heard
    (connection,) = world.hub.channel("room").connections
    connection.cursor += ahead
    assert b"\ndata: heartbeat 4\n\n" in heard.pop(0)
    world.advance(8)
    newest = world.broadcast.cursor().encode()
    assert heard == [(b"" if ahead else b"id: " + newest + b"\n") + b"event: datastar\n\n"] * 2


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
def test_heartbeats_are_spread_over_the_interval(world):
    clients = [world.client() for _ in range(160)]
    before = sum(len(client.frames) for client in clients)
    for quarter in range(1, 5):
        world.advance(1)
        beats = sum(len(client.frames) for client in clients) - before
        assert beats == quarter * 40


@each_kind
def test_quiet_clients_cursor_does_not_grow_old(world, kind):
    client = world.client("quiet", kind=kind)
    for number in range(200):
        world.broadcast("busy", f"<p id=e{number}>")
        world.advance(5)
    client.vanish()
    assert not world.client("quiet", kind=kind, cursor=client.last_id).told_of_gap


@each_kind
def test_client_that_takes_nothing_for_thirty_seconds_is_aborted(world, kind):
    client, other = world.client(kind=kind), world.client(kind=kind)
    client.stall()
    world.broadcast("room", "<p id=a>")
    world.advance(29)
    assert client.end is None
    world.advance(4)
    if kind == "plain, no transport":  # Django's own write is out of reach; the stream ends with it.
        client.drain()
        world.settle()
    assert client.end == "cut"
    assert other.end is None


@each_kind
def test_stalled_client_that_was_disconnected_is_aborted_too(world, kind):
    client = world.client(user_id=1, kind=kind)
    client.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    world.disconnect("room", 1)
    world.advance(60)
    if kind == "plain, no transport":  # Django's own write is out of reach; the stream ends with it.
        client.drain()
        world.settle()
    assert client.task.done()


# Ends


@each_kind
def test_disconnect_leaves_other_users_and_channels_open(world, kind):
    tabs = [world.client(user_id=1, kind=kind) for _ in range(2)]
    others = [world.client(user_id=user, kind=kind) for user in (2, None)]
    elsewhere = world.client("hall", 1, kind=kind)
    world.disconnect("room", 1)
    world.disconnect("room", 99)
    world.settle()
    assert [each.end for each in tabs] == ["clean"] * 2
    assert [each.end for each in [*others, elsewhere]] == [None] * 3
    assert world.broadcast.get_users("room") == [2]


@each_kind
def test_kill_ends_all_connections_and_forgets_the_history(world, kind):
    cursor = world.broadcast.cursor()
    world.broadcast("room", "<p id=secret>")
    clients = [world.client(user_id=user, kind=kind) for user in (1, None)]
    both = world.client(["room", "hall"], 2, kind=kind)
    other = world.client("hall", 1, kind=kind)
    world.broadcast.kill("room")
    world.settle()
    assert [each.end for each in [*clients, both]] == ["clean"] * 3
    assert other.end is None
    assert world.broadcast.get_channels() == ["hall"]
    assert world.broadcast.get_users("hall") == [1]
    back = world.client(kind=kind, cursor=cursor)
    assert back.told_of_gap
    assert back.texts == []


@each_kind
def test_end_comes_behind_what_was_sent_before_and_before_what_was_sent_after(world, kind):
    client = world.client(user_id=1, kind=kind)
    world.broadcast("room", "<p id=before>")
    world.disconnect("room", 1)
    world.broadcast("room", "<p id=after>")
    world.settle()
    assert client.end == "clean"
    assert client.texts == ["<p id=before>"]


@each_kind
def test_end_comes_behind_what_was_sent_before_for_a_client_that_is_slow_too(world, kind):
    client = world.client(user_id=1, kind=kind)
    client.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    world.broadcast("room", "<p id=b>")
    world.disconnect("room", 1)
    world.settle()
    world.broadcast("room", "<p id=after>")
    client.drain()
    world.settle()
    assert client.end == "clean"
    assert client.texts == ["<p id=a>", "<p id=b>"]


@each_kind
def test_end_outlives_the_events_before_it(world, kind):
    """A client that has to return for them would escape a disconnect."""
    client, other = (world.client(user_id=user, kind=kind) for user in (1, 2))
    client.stall()
    for text in ("<p id=a>", "<p id=b>"):
        world.broadcast("room", text)
        world.settle()
    world.disconnect("room", 1)
    world.loop.advance(3)
    for number in range(300):
        world.broadcast("room", f"<p id=after-{number}>")
    world.settle()
    client.drain()
    world.settle()
    assert (client.end, other.end) == ("clean", None)
    assert "after" not in "".join(client.texts)


@each_kind
def test_end_comes_behind_large_events(world, kind):
    client = world.client(user_id=1, kind=kind)
    large = f"<p id=a>{'x' * 70_000}"
    world.broadcast("room", large)
    world.broadcast("room", "<p id=b>")
    world.disconnect("room", 1)
    world.settle()
    assert client.end == "clean"
    assert client.texts == [large, "<p id=b>"]


@each_kind
@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_stream_that_opens_after_an_end_stays(world, kind, verb):
    before = world.client(user_id=1, kind=kind)
    after = FakeClient(world.loop, world.broadcast, "room", 1, kind=kind)  # Runs when the loop turns.
    if verb == "kill":
        world.broadcast.kill("room")
    else:
        world.disconnect("room", 1)
    world.settle()
    assert before.end == "clean"
    assert after.end is None


@each_kind
@pytest.mark.parametrize("verb", ["kill", "disconnect"])
@pytest.mark.parametrize("channel_is_live", [True, False])
def test_end_reaches_a_stream_that_is_granted_and_not_open_yet(world, kind, verb, channel_is_live):
    if channel_is_live:
        world.client(user_id=2, kind=kind)

    def end_it():
        if verb == "kill":
            world.broadcast.kill("room")
        else:
            world.disconnect("room", 1)

    client = FakeClient(world.loop, world.broadcast, "room", 1, kind=kind, before_opening=end_it)
    world.settle()
    assert client.end == "clean"


@each_kind
def test_stream_that_ended_before_it_opened_is_given_nothing_sent_after_that(world, kind):
    world.client(user_id=2, kind=kind)
    stays = world.client("hall", user_id=2, kind=kind)

    def end_it():
        world.disconnect("room", 1)
        world.broadcast("room", "<p id=secret>")
        world.broadcast("hall", "<p id=secret>")

    client = FakeClient(world.loop, world.broadcast, ["room", "hall"], 1, kind=kind, before_opening=end_it)
    world.settle()
    assert client.end == "clean"
    assert client.texts == []
    assert stays.texts == ["<p id=secret>"]
    assert world.broadcast.get_users("hall") == [2]


@each_kind
def test_stream_that_opens_during_a_shutdown_passes_over_nothing(world, kind):
    cursor = world.broadcast.cursor()
    world.broadcast("room", "<p id=a>")
    other = world.client(user_id=2, kind=kind)  # The channel's log begins after the first event.
    world.broadcast("room", "<p id=b>")
    world.settle()
    client = FakeClient(
        world.loop, world.broadcast, "room", 1, kind=kind, cursor=cursor, before_opening=lambda: world.hub.shutdown()
    )
    world.settle()
    assert other.end == client.end == "cut"
    assert client.texts == ["<p id=a>", "<p id=b>"][: len(client.texts)]
    if not client.texts:
        assert client.last_id in ("", cursor)


@each_kind
def test_client_whose_connection_breaks_is_forgotten(world, kind):
    client, other = world.client(user_id=1, kind=kind), world.client(user_id=2, kind=kind)
    client.fail()
    world.broadcast("room", "<p id=a>")
    world.settle()
    assert client.end == "cut"
    assert other.texts == ["<p id=a>"]
    assert world.broadcast.get_users("room") == [2]


def test_send_that_fails_at_once_delays_no_other(world):
    clients = [world.client(kind="task") for _ in range(3)]

    def send(message):
        raise OSError("the connection is broken")

    world.connections[0]._send = send
    world.broadcast("room", "<p id=a>")
    world.settle()
    assert clients[0].end == "cut"
    assert [client.texts for client in clients[1:]] == [["<p id=a>"]] * 2


def test_hub_of_a_closed_loop_keeps_no_events(world):
    client = world.client()
    client.vanish()
    world.advance(5)
    hub = world.hub
    world.loop.close_down()
    for number in range(3):
        world.broadcast("room", f"<p id=e{number}>")
    assert hub.is_idle()


# Shutdown


@each_kind
def test_shutdown_sends_all_clients_away_to_return_spread_over_seconds(world, kind):
    clients = [world.client(user_id=number, kind=kind) for number in range(30)]
    world.broadcast("room", "<p id=last>")
    world.hub.shutdown()
    world.settle()
    assert {client.end for client in clients} == {"cut"}
    assert all(client.texts == ["<p id=last>"] for client in clients)
    waits = [client.retries[-1] for client in clients]
    assert min(waits) >= 1000
    assert max(waits) <= 5000
    assert len(set(waits)) > 10
    assert world.broadcast._engine.hubs.is_closing()
    assert not asyncio.all_tasks(world.loop)


@each_kind
def test_farewell_is_said_once_while_the_connection_closes(world, kind):
    """What a slow client has not read yet keeps its connection open for a while."""
    client = world.client(kind=kind)
    [connection] = world.hub.channel("room").connections
    world.hub.shutdown()
    writes = client.writes
    connection.pump()
    assert client.writes == writes
    world.settle()
    assert len(client.retries) == 2


def test_herd_is_sent_away_over_more_time(world):
    clients = [world.client() for _ in range(1000)]
    world.hub.shutdown()
    world.settle()
    waits = sorted(client.retries[-1] for client in clients)
    assert waits[-1] <= 5000
    for second in range(1, 5):
        assert 100 < sum(second * 1000 <= wait < (second + 1) * 1000 for wait in waits) < 500


@each_kind
def test_shutdown_does_not_wait_for_the_stalled(world, kind):
    stalled = world.client(user_id=1, kind=kind)
    stalled.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    done = world.hub.shutdown()
    world.advance(1)
    assert done.done()
    if kind == "plain, no transport":  # Only the server can end Django's write.
        stalled.drain()
        world.settle()
    assert stalled.task.done()
    assert world.hub.count == 0


def test_new_clients_are_refused_during_a_shutdown(world):
    world.client()
    world.hub.shutdown()
    late = world.client()
    assert late.end == "refused"
    assert world.hub.count == 0


@each_kind
def test_signals_of_those_aborted_at_a_shutdown_are_sent(kind):
    told = []
    both_told = threading.Event()

    def note(sender, channel, user_id, **kwargs):
        told.append(user_id)
        if len(told) == 2:
            both_told.set()

    threads = Threads(Broadcaster)
    signals.connection_closed.connect(note)
    try:
        with virtual_world(threads=threads) as world:
            clients = [world.client(user_id=user, kind=kind) for user in (1, 2)]
            clients[1].stall()
            world.broadcast("room", "<p id=a>")
            world.settle()
            world.hub.shutdown()
            world.advance(1)
            clients[1].drain()
            world.settle()
            for client in clients:
                client.task.result()
            assert world.hub.count == 0
            assert both_told.wait(5)
            assert told == [1, 2]
    finally:
        signals.connection_closed.disconnect(note)
        threads._ordered.shutdown()


# Publishers


@pytest.mark.parametrize("count, size", [(BACKLOG + 100, 0), (2 * BACKLOG_BYTES // 500_000, 500_000)])
def test_publisher_in_another_thread_waits_while_the_hub_is_far_behind(world, count, size):
    client = world.client()

    def publish():
        for number in range(count):
            world.broadcast("room", f"<p id=e{number}>{'x' * size}")

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join(BACKLOG_WAIT / 2)  # Far longer than it takes without a wait.
    assert thread.is_alive()
    while thread.is_alive():
        world.loop.turn()
    thread.join()
    world.settle()
    assert len(client.texts) == count


def test_publisher_on_the_loop_lets_the_hub_go_on_when_it_is_far_behind(world):
    client = world.client()
    most = 0

    async def publish():
        nonlocal most
        for number in range(100):
            await world.broadcast.aelements("room", f"<p id=e{number}>{'x' * 500_000}</p>")
            most = max(most, sum(len(item.data) for _, _, item in world.hub._incoming))

    world.loop.run_until_complete(publish())
    world.settle()
    assert most <= BACKLOG_BYTES + 600_000
    assert len(client.texts) == 100


def test_publisher_on_the_loop_never_waits_for_itself(world):
    client = world.client()

    async def publish():
        for number in range(2500):
            await world.broadcast.aelements("room", f"<p id=e{number}>")

    world.loop.run_until_complete(publish())
    world.settle()
    assert len(client.texts) == 2500


def test_events_of_channels_without_a_connection_are_not_kept_by_the_hub(world):
    world.client("room")
    world.broadcast("elsewhere", "<p id=a>")
    world.settle()
    assert world.hub.channels() == ["room"]
    assert world.hub.channel("elsewhere") is None


def test_no_client_gets_what_comes_after_a_gap_without_being_told(world):
    """An event that was waiting already makes a flush due before anything that is said of the gap."""
    client = world.client("room")
    epoch = world.broker.epoch
    world.hub.deliver("room", 1, frame(epoch, 1, b"event: before\n\n"))
    world.loop.turn()
    world.hub.on_gap("room")
    world.hub.deliver("room", 9, frame(epoch, 9, b"event: after\n\n"))
    world.settle()
    assert client.end == "cut"
    assert client.last_id == f"{epoch}-1"


@each_kind
def test_events_and_heartbeats_go_on_in_a_new_epoch(kind):
    """The sequences begin again: a heartbeat with an old one would move the cursor past all new events."""
    with virtual_world(broker_class=MortalBroker) as world:
        for number in range(5):
            world.broadcast("room", f"<p id=e{number}>")
        client = world.client(kind=kind)
        world.broker.begin_anew()
        world.settle()
        assert client.end == "cut"
        back = world.client(kind=kind, cursor=client.last_id)
        assert back.told_of_gap
        world.advance(20)
        assert back.last_id == f"{world.broker.epoch}-0"
        world.broadcast("room", "<p id=new>")
        world.settle()
        assert back.texts == ["<p id=new>"]


@pytest.mark.parametrize("kind", ["driven", "plain"])
def test_epoch_that_ends_between_grant_and_opening_is_a_gap(kind):
    with virtual_world(broker_class=MortalBroker) as world:
        world.client("hall")
        client = FakeClient(
            world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: world.broker.begin_anew()
        )
        world.settle()
        assert client.end == "cut"
        assert not client.frames
        assert world.broadcast.get_users("room") == []


@override_settings(DS_BROADCASTER_HISTORY={"max_age": 60}, DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
def test_events_on_a_quiet_channel_are_let_go_of_when_they_are_old(world):
    world.client()
    world.broadcast("room", "<p id=a>")
    world.advance(50)
    assert len(world.hub.channel("room").log) == 1
    world.advance(20)
    assert len(world.hub.channel("room").log) == 0


@each_kind
def test_heartbeat_moves_no_cursor_back(world, kind):
    """A page may have been rendered with an id that this hub has not heard of yet."""
    world.client("hall", kind=kind)
    ahead = world.client("room", 1, kind=kind)
    (connection,) = world.hub.channel("room").connections
    connection.cursor += 10
    before = len(ahead.frames)
    world.advance(20)
    assert len(ahead.frames) == before
    assert connection.cursor == world.broker.heard() + 10


@each_kind
@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_ended_user_leaves_all_channels_of_the_stream_at_once(world, kind, verb):
    """There is no grace for a user who was told to go."""
    world.client(["room", "hall"], 1, kind=kind)
    world.client(["room", "hall"], 2, kind=kind)
    if verb == "kill":
        world.broadcast.kill("room")
    else:
        world.disconnect("room", 1)
    world.settle()
    left = {("user_left", "room", 1), ("user_left", "hall", 1)}
    assert left <= set(world.signals)
    assert world.hub.channel("hall") is None or 1 not in world.hub.channel("hall").roster.online()


@each_kind
def test_refused_user_leaves_at_once(kind):
    async def refuse(connection):
        return False

    with virtual_world(still_allowed=refuse) as world:
        world.client(user_id=1, kind=kind)
        world.broker.command("room", Command("recheck", 1))
        world.settle()
        assert ("user_left", "room", 1) in world.signals


def test_crowd_that_waits_for_a_subscription_is_refused_together(caplog):
    """Each would find it out after a time limit of its own otherwise."""
    asked, answer = [], asyncio.Event()

    class AwayBroker(MemoryBroker):
        async def subscribe(self, receiver, channel):
            asked.append(channel)
            await answer.wait()
            raise BrokerUnavailable("It is away.")

    with virtual_world(broker_class=AwayBroker) as world:
        clients = [FakeClient(world.loop, world.broadcast, "room", number) for number in range(10)]
        world.settle()
        answer.set()
        world.settle()
        assert asked == ["room"]
        assert {client.end for client in clients} == {"cut"}
        assert not any(client.frames for client in clients)


@pytest.mark.parametrize("question", ["commands", "read"])
@pytest.mark.parametrize("kind", ["driven", "task", "plain"])
def test_stream_that_cannot_begin_without_its_broker_comes_again(caplog, question, kind):
    async def be_away(*arguments):
        raise BrokerUnavailable("It is away.")

    class LateBroker(MemoryBroker):
        async def subscribe(self, receiver, channel):
            return 1

    with virtual_world(broker_class=LateBroker) as world:
        world.client("room")
        world.broadcast("other", "<p id=a>")
        with patch.object(world.broker, question, be_away):
            client = world.client("other", kind=kind, cursor=f"{world.broker.epoch}-0")
        assert world.hub.channels() == ["room"]
        assert world.hub.channel("other") is None
    assert client.end == "cut"
    assert not client.task.cancelled()
    assert isinstance(client.task.exception(), (type(None), StreamCut))
    assert "It is away." in caplog.text
