"""The embedded broker: ids, history and its caps, and what hubs are told."""

import threading
import tracemalloc

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_started
from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ds_broadcaster.brokers import Broker, Command, Frame, Position, create_broker
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.conf import History, get_settings
from ds_broadcaster.exceptions import Gap
from ds_broadcaster.ids import parse_id
from ds_broadcaster.log import FRAME_OVERHEAD, LOG_OVERHEAD
from tests.fakes import FACTOR


class RecordingReceiver:
    """A hub as the broker sees it."""

    process = "here"

    def __init__(self, users=()):
        self.heard = []
        self.throttled = 0
        self.on = {"room": list(users)} if users else {}

    def deliver(self, channel, sequence, item):
        self.heard.append((channel, sequence, item))

    async def athrottle(self):
        pass

    def throttle(self):
        self.throttled += 1

    def users(self, channel):
        return self.on.get(channel, [])

    def connections(self, channel):
        return len(self.on.get(channel, []))

    def channels(self):
        return list(self.on)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def make_broker(**limits):
    return MemoryBroker("", {}, History(**limits))


def make_clock_and_broker(**limits):
    clock = Clock()
    return clock, MemoryBroker("", {}, History(**limits), clock=clock)


def run(coroutine):
    """Return the result of a coroutine that never waits."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    return done.value.value


def read(broker, channel, cursor):
    """Return the payloads after the cursor, without their ids."""
    return [frame.data.split(b"\n", 1)[1] for _, frame in run(broker.read(channel, cursor))]


def kept(broker, channel):
    """Return every (sequence, frame) that a channel still holds."""
    oldest = next(cursor for cursor in range(broker.heard() + 1) if broker.covers(channel, cursor))
    return run(broker.read(channel, oldest))


def test_sequence_counts_over_all_channels_and_begins_each_frame():
    broker = make_broker()
    assert broker.heard() == 0
    assert [broker.publish(channel, b"x\n\n") for channel in "aba"] == [1, 2, 3]
    assert run(broker.apublish("b", b"y\n\n")) == 4
    assert parse_id(broker.cursor()) == (broker.epoch, 4)
    assert run(broker.read("b", 0)) == [
        (2, Frame(f"id: {broker.epoch}-2\nx\n\n".encode())),
        (4, Frame(f"id: {broker.epoch}-4\ny\n\n".encode())),
    ]


def test_only_ids_of_this_life_and_not_of_the_future_are_resumed():
    broker = make_broker()
    broker.publish("a", b"x")
    assert broker.locate(["a", "b"], broker.cursor()) == Position(broker.epoch, 1, 1)
    assert broker.locate(["a", "b"], f"{broker.epoch}-0") == Position(broker.epoch, 1, 0)
    for nothing in (None, ""):
        assert broker.locate(["a", "b"], nothing) == Position(broker.epoch, 1, 1)
    for foreign in (f"{broker.epoch}-2", make_broker().cursor(), "garbage", "1", f"{broker.epoch}-"):
        assert (
            broker.locate(["a", "b"], foreign)
            == run(broker.alocate(["a", "b"], foreign))
            == Position(broker.epoch, 1, 1, {"a", "b"})
        )


def test_channels_that_do_not_go_back_far_enough_are_gaps_and_the_others_are_served():
    broker = make_broker(max_events=1)
    for channel in "aab":
        broker.publish(channel, b"x")
    assert broker.locate(["a", "b"], f"{broker.epoch}-0") == Position(broker.epoch, 3, 0, {"a"})
    # Where all are gaps the client begins at now.
    assert broker.locate(["a"], f"{broker.epoch}-0") == Position(broker.epoch, 3, 3, {"a"})


def test_history_is_kept_by_count_age_and_bytes():
    clock, broker = make_clock_and_broker(max_events=3, max_age=10)
    for number in range(5):
        broker.publish("a", b"%d" % number)
    assert read(broker, "a", 2) == [b"2", b"3", b"4"]
    assert broker.covers("a", 2)
    assert not broker.covers("a", 1)
    with pytest.raises(Gap):
        read(broker, "a", 1)
    clock.now += 10
    assert not broker.covers("a", 4)
    assert broker.covers("a", 5)
    broker = make_broker(max_bytes=2000)
    for _ in range(10):
        broker.publish("a", b"x" * 500)
    assert len(read(broker, "a", 7)) == 3
    assert not broker.covers("a", 6)


def test_channel_that_was_never_sent_to_has_no_gap():
    broker = make_broker(max_events=1)
    for _ in range(5):
        broker.publish("busy", b"x")
    assert broker.covers("quiet", 0)
    assert read(broker, "quiet", 0) == []


def test_event_larger_than_the_history_is_carried_and_is_a_gap_for_the_rest():
    broker = make_broker(max_bytes=1000)
    receiver = RecordingReceiver()
    broker.attach(receiver)
    broker.publish("a", b"x" * 2000)
    assert [sequence for _, sequence, _ in receiver.heard] == [1]
    assert not broker.covers("a", 0)
    assert broker.covers("a", 1)


def test_reading_before_a_log_that_holds_nothing_more_is_a_gap():
    broker = make_broker(max_bytes=1000)
    broker.publish("a", b"x" * 2000)
    assert read(broker, "a", 1) == []
    with pytest.raises(Gap):
        read(broker, "a", 0)


def test_killed_channels_history_is_gone_and_stays_a_gap():
    broker = make_broker()
    broker.publish("a", b"secret")
    broker.publish("b", b"x")
    broker.command("a", Command("kill"))
    assert not broker.covers("a", 0)
    assert broker.covers("a", 1)
    broker.publish("a", b"new")
    assert not broker.covers("a", 0)
    assert read(broker, "a", 1) == [b"new"]
    assert read(broker, "b", 0) == [b"x"]


def test_disconnect_leaves_the_history():
    broker = make_broker()
    broker.publish("a", b"x")
    broker.command("a", Command("disconnect", 1))
    assert broker.heard() == 2
    assert read(broker, "a", 0) == [b"x"]


def test_old_logs_are_swept_and_leave_nothing_behind():
    clock, broker = make_clock_and_broker(max_age=10, max_events=1000, max_bytes=25_000, max_total_bytes=100_000)
    for number in range(100):
        broker.publish(f"room-{number}", b"x" * 100)
    clock.now += 11
    broker.publish("room-fresh", b"x")
    assert broker.covers("room-5", 6)
    broker.sweep()
    # Channels without a log share the floor of all that were swept.
    assert not broker.covers("room-5", 0)
    assert not broker.covers("room-5", 6)
    assert broker.covers("room-5", 100)
    # The whole cap is free again.
    for _ in range(100):
        broker.publish("room-fresh", b"x" * 100)
    assert len(read(broker, "room-fresh", 100)) == 101


def test_sweeping_is_spaced():
    clock, broker = make_clock_and_broker(max_age=100, max_bytes=1000)

    def publish_what_is_not_kept():
        first, _ = (broker.publish(channel, b"x" * 2000) for channel in "ab")
        return first

    def is_swept(sequence):
        return not broker.covers("a", sequence)

    first = publish_what_is_not_kept()
    clock.now += 101
    assert not is_swept(first)
    broker.sweep()
    assert is_swept(first)
    second = publish_what_is_not_kept()
    clock.now += 9
    broker.sweep()
    assert not is_swept(second)
    clock.now += 2
    broker.sweep()
    assert is_swept(second)


def test_cap_over_all_channels_is_about_memory_however_many_channels_there_are():
    broker = make_broker(max_total_bytes=2_000_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            broker.publish(f"room-{number}", b"x")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_500_000


def test_cap_over_all_channels_drops_the_oldest_first():
    broker = make_broker(max_events=10_000, max_bytes=100_000, max_total_bytes=200_000)
    rooms = [f"room-{number}" for number in range(50)]
    for number in range(1000):
        broker.publish(rooms[number % 50], b"x" * 500)
        if number % 50 == 49:
            held = [each for room in rooms for each in kept(broker, room)]
            size = sum(len(frame.data) + FRAME_OVERHEAD for _, frame in held) + 50 * LOG_OVERHEAD
            assert size <= 200_000
    assert size > 160_000
    sequences = sorted(sequence for sequence, _ in held)
    assert sequences == list(range(sequences[0], 1001))
    cursor = sequences[0] - 1
    for room in rooms:
        assert broker.covers(room, cursor)
        assert not broker.covers(room, cursor - 50)


def test_hub_attaches_between_two_events_and_not_during_one():
    """Each loop of a process has a hub, and a thread may publish while one attaches."""
    broker, late, begins = make_broker(), RecordingReceiver(), []

    class Busy(RecordingReceiver):
        def deliver(self, channel, sequence, item):
            attaching.start()
            attaching.join(0.1)
            assert attaching.is_alive(), "It did not wait."

    attaching = threading.Thread(target=lambda: begins.append(broker.attach(late)))
    broker.attach(Busy())
    broker.publish("a", b"x")
    attaching.join()
    assert begins == [1]
    assert late.heard == []


def test_hubs_are_told_everything_from_where_they_came_in():
    broker = make_broker()
    broker.publish("a", b"before")
    receiver, late = RecordingReceiver(), RecordingReceiver()
    assert broker.attach(receiver) == 1
    broker.publish("a", b"x")
    broker.command("a", Command("kill"))
    assert broker.attach(late) == 3
    run(broker.acommand("b", Command("disconnect", 7)))
    broker.detach(receiver)
    broker.publish("a", b"y")
    assert [(channel, sequence) for channel, sequence, _ in receiver.heard] == [("a", 2), ("a", 3), ("b", 4)]
    assert [item for *_, item in receiver.heard[1:]] == [Command("kill"), Command("disconnect", 7)]
    assert [sequence for _, sequence, _ in late.heard] == [4, 5]
    assert receiver.throttled == 1
    assert late.throttled == 1


def test_users_and_channels_are_those_of_all_hubs():
    broker = make_broker()
    broker.attach(RecordingReceiver([1, 1, 2]))
    broker.attach(RecordingReceiver([2, 3]))
    assert broker.users("room") == [1, 1, 2, 2, 3]
    assert broker.users("hall") == []
    assert broker.channels() == ["room"]


def test_subscriber_misses_nothing_after_the_sequence_it_is_given():
    broker = make_broker()
    broker.publish("a", b"x")
    assert run(broker.subscribe(RecordingReceiver(), "a")) == 1
    run(broker.unsubscribe(RecordingReceiver(), "a"))


def test_threads_that_publish_at_once_are_heard_in_one_order():
    broker = make_broker(max_events=10_000)
    receiver = RecordingReceiver()
    broker.attach(receiver)
    ready = threading.Barrier(4)

    def publish(name):
        ready.wait()
        for number in range(500):
            broker.publish("room", b"%s %d" % (name, number))

    threads = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sequence for _, sequence, _ in receiver.heard] == list(range(1, 2001))
    history = run(broker.read("room", 0))
    assert history == [(sequence, frame) for _, sequence, frame in receiver.heard]
    for name in (b"a", b"b", b"c", b"d"):
        payloads = [frame.data.split(b"\n")[1] for _, frame in history]
        own = [payload.rsplit(b" ", 1)[1] for payload in payloads if payload.startswith(name)]
        assert own == [b"%d" % number for number in range(500)]


class BrokerMachine(RuleBasedStateMachine):
    """What a broker calls complete is complete, whatever was trimmed, swept, cut and killed."""

    def __init__(self):
        super().__init__()
        self.clock, self.broker = make_clock_and_broker(max_events=5, max_age=20, max_bytes=1500, max_total_bytes=2500)
        self.published = []
        self.killed = dict.fromkeys("abc", 0)

    @rule(channel=st.sampled_from("abc"), size=st.sampled_from([1, 200, 600, 3000]))
    def publish(self, channel, size):
        self.published.append((self.broker.publish(channel, b"x" * size), channel))

    @rule(channel=st.sampled_from("abc"), verb=st.sampled_from(["kill", "disconnect"]))
    def command(self, channel, verb):
        self.broker.command(channel, Command(verb))
        if verb == "kill":
            self.killed[channel] = self.broker.heard()

    @rule(seconds=st.sampled_from([1, 3, 21]))
    def let_time_pass(self, seconds):
        self.clock.now += seconds

    @rule()
    def sweep(self):
        self.broker.sweep()

    @rule(channel=st.sampled_from("abc"), back=st.integers(0, 12))
    def read(self, channel, back):
        cursor = max(0, self.broker.heard() - back)
        everything = [sequence for sequence, name in self.published if name == channel and sequence > cursor]
        if self.broker.covers(channel, cursor):
            assert [sequence for sequence, _ in run(self.broker.read(channel, cursor))] == everything
            assert not [each for each in everything if each < self.killed[channel]], "killed, and still here"
            assert len(everything) <= 5
        else:
            assert back, "now is never a gap"
            with pytest.raises(Gap):
                run(self.broker.read(channel, cursor))

    @invariant()
    def it_knows_what_it_holds(self):
        assert self.broker._size == sum(log.size + LOG_OVERHEAD for log in self.broker._logs.values()) <= 2500


def test_what_the_broker_calls_complete_is_complete():
    run_state_machine_as_test(
        BrokerMachine,
        settings=settings(max_examples=80 * FACTOR, stateful_step_count=30, deadline=None, print_blob=True),
    )


# The setting names the broker.


class OtherBroker(MemoryBroker):
    pass


class NoBroker:
    pass


def test_setting_names_the_broker():
    with override_settings(
        DS_BROADCASTER_BROKER={
            "BACKEND": "tests.brokers.test_memory.OtherBroker",
            "LOCATION": "somewhere",
            "OPTIONS": {"a": 1},
        }
    ):
        broker = create_broker(get_settings())
    assert type(broker) is OtherBroker
    assert isinstance(broker, Broker)
    assert (broker.location, broker.options) == ("somewhere", {"a": 1})
    assert type(create_broker(get_settings())) is MemoryBroker


@pytest.mark.parametrize(
    "backend, message",
    [
        ("nowhere.Broker", "'nowhere.Broker' cannot be imported"),
        ("Broker", "'Broker' cannot be imported"),
        ("tests.brokers.test_memory.Missing", "cannot be imported"),
        ("tests.brokers.test_memory.NoBroker", "is not a subclass of ds_broadcaster.brokers.Broker"),
        ("tests.brokers.test_memory.make_broker", "is not a subclass of ds_broadcaster.brokers.Broker"),
    ],
)
def test_setting_that_names_no_broker_is_refused_by_its_name(backend, message):
    with (
        override_settings(DS_BROADCASTER_BROKER={"BACKEND": backend}),
        pytest.raises(ImproperlyConfigured, match=rf"^DS_BROADCASTER_BROKER\['BACKEND'\] .*{message}"),
    ):
        create_broker(get_settings())


def test_process_that_serves_nothing_is_warned_once(caplog, monkeypatch):
    monkeypatch.setattr(MemoryBroker, "serves", False)
    broker = make_broker()
    broker.publish("a", b"data: 1\n\n")
    broker.publish("b", b"data: 2\n\n")
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["Sent to channel 'a'"]


@pytest.mark.django_db  # Django looks at its connections when a request begins.
def test_process_that_serves_pages_is_not_warned(caplog, monkeypatch):
    monkeypatch.setattr(MemoryBroker, "serves", False)
    request_started.send(ASGIHandler)
    make_broker().publish("a", b"data: 1\n\n")
    assert caplog.records == []
