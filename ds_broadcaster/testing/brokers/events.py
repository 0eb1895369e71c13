"""The contract, first part: events, their order and history, and commands."""

import asyncio
import time

from ...brokers import EVERYWHERE, Command, Event, Facts, Frame
from ...compaction import CONTAINER, ELEMENT, NOTHING, REFRESH, SIGNALS
from ...exceptions import Gap
from ...ids import parse_id
from .cluster import Cluster, apart, epoch_of, on_loop, publish
from .receiver import PATIENCE


class EventsContract(Cluster):
    """How a broker treats events and commands."""

    # Order: one line of sequences over all channels.

    def test_sequences_ascend_over_all_channels(self) -> None:
        """One cursor serves a stream of many channels, so a later event has a higher sequence."""
        one, other = self.make_broker(), self.make_broker()
        given = [publish(one if number % 2 else other, f"channel-{number % 3}") for number in range(20)]
        assert given == sorted(set(given))

    def test_async_publishing_is_the_same(self) -> None:
        """The twin gives sequences of the same line."""
        broker = self.make_broker()
        first = publish(broker, "a")
        second = self.run(broker.apublish("a", b"y\n\n"))
        assert second is not None
        assert second > first

    @on_loop
    async def test_several_are_published_one_after_the_other(self) -> None:
        """publish_all() equals publish() for each: in this order, over all channels, kept like all others."""
        listening, publishing = self.start(), self.start()
        begin = await listening.subscribe("a", "b")
        events = [Event("b" if number % 3 else "a", b"%d\n\n" % number) for number in range(10)]
        await apart(publishing.broker.publish_all, events)
        await apart(publishing.broker.publish_all, [])
        newest = await publishing.publish("a", b"10\n\n")
        await listening.receiver.hears("a", newest)
        heard = [
            (name, sequence, _payload(item))
            for name, sequence, item in listening.receiver.heard
            if sequence >= 0
            if isinstance(item, Frame)
        ]
        assert [(name, payload) for name, _, payload in heard] == [
            *((each.channel, each.payload) for each in events),
            ("a", b"10\n\n"),
        ]
        given = [sequence for _, sequence, _ in heard]
        assert given == sorted(set(given))
        kept = await publishing.broker.read("b", begin)
        assert [_payload(frame) for _, frame in kept] == [each.payload for each in events if each.channel == "b"]

    @on_loop
    async def test_threads_and_processes_publish_without_losing_or_doubling(self) -> None:
        """With ten publishers at a time, every sequence is given once, and subscribers hear all of them, ascending."""
        listening = self.start()
        await listening.subscribe("busy")
        given: list[int] = []

        def publish_many() -> None:
            broker = self.make_broker()
            given.extend(publish(broker, "busy") for _ in range(20))

        await asyncio.gather(*(apart(publish_many) for _ in range(10)))
        await listening.receiver.hears("busy", max(given))
        assert len(set(given)) == 200
        assert listening.receiver.sequences("busy") == sorted(given)

    # Carrying.

    @on_loop
    async def test_subscriber_hears_everything_after_the_sequence_it_was_told(self) -> None:
        """subscribe() returns a sequence after which nothing is missed, even on a busy channel."""
        listening, publishing = self.start(), self.start()
        before = await publishing.publish("a", b"before\n\n")
        begin = await listening.subscribe("a")
        assert begin >= before
        after = [await publishing.publish("a", b"%d\n\n" % number) for number in range(5)]
        await listening.receiver.hears("a", after[-1])
        assert [each for each in listening.receiver.sequences("a") if each > begin] == after

    @on_loop
    async def test_frame_begins_with_its_id_and_goes_on_as_it_was_given(self) -> None:
        """Clients return with the id; the payload stays as it is, whatever its bytes."""
        process = self.start()
        await process.subscribe("a")
        payload = b"event: x\ndata: \xff\x00 \xc3\xa9\n\n" + b"y" * 20_000
        sequence = await process.publish("a", payload)
        await process.receiver.hears("a", sequence)
        expected = Frame(b"id: %b-%d\n%b" % (process.broker.epoch.encode(), sequence, payload))
        assert ("a", sequence, expected) in process.receiver.heard
        assert await process.broker.read("a", sequence - 1) == [(sequence, expected)]

    @on_loop
    async def test_facts_are_carried_and_kept_beside_the_bytes(self) -> None:
        """The excluded tab is known wherever an event is delivered or replayed, and is no part of its bytes."""
        process, publishing = self.start(), self.start().broker
        await process.subscribe("a")
        facts = Facts(exclude="tab-number-1")
        first = await apart(publishing.publish, "a", b"1\n\n", facts)
        second = await publishing.apublish("a", b"2\n\n", facts)
        await apart(publishing.publish_all, [Event("a", b"3\n\n", facts), Event("a", b"4\n\n")])
        last = await process.publish("a", b"5\n\n")
        await process.receiver.hears("a", last)
        assert first is not None
        assert second is not None
        heard = [item for _, sequence, item in process.receiver.heard if sequence >= first and isinstance(item, Frame)]
        kept = [frame for _, frame in await process.broker.read("a", first - 1)]
        for frames in (heard, kept):
            assert [_payload(frame) for frame in frames] == [b"%d\n\n" % number for number in range(1, 6)]
            assert [frame.facts.exclude for frame in frames] == [*["tab-number-1"] * 3, None, None]

    @on_loop
    async def test_odd_names_are_names(self) -> None:
        """A channel is any string."""
        process = self.start()
        names = ["a", "a ", "A", "ä", "\U0001f600 %s {} * ?", "-1", "x" * 5000, "half \ud800", "a:b", "a'b\"c"]
        await process.subscribe(*names)
        given = {name: await process.publish(name) for name in names}
        for name in names:
            await process.receiver.hears(name, given[name])
            assert process.receiver.sequences(name) == [given[name]]
            assert [each for each, _ in await process.broker.read(name, given[name] - 1)] == [given[name]]

    @on_loop
    async def test_channel_is_carried_no_longer_than_wanted(self) -> None:
        """A process is spared events that none of its clients gets."""
        process, other = self.start(), self.start()
        if process.broker is other.broker:  # A broker of one process may carry everything to it.
            return
        await process.subscribe("a", "b")
        await process.broker.unsubscribe(process.receiver, "a")
        unheard = await other.publish("a")
        await process.receiver.hears("b", await other.publish("b"))
        assert unheard not in process.receiver.sequences("a")
        begin = await process.subscribe("a")
        assert begin >= unheard
        await process.receiver.hears("a", await other.publish("a"))

    @on_loop
    async def test_lost_connections_lose_and_double_nothing(self) -> None:
        """What was published meanwhile comes in its place: events and commands, of all channels in one line."""
        process = self.start()
        await process.subscribe("a", "b")
        given = []
        for number in range(30):
            if number % 10 == 5:
                await apart(self.interrupt)
            if number == 15:
                await self.make_broker().acommand("a", Command("disconnect", 5))
            given.append(await apart(publish, self.make_broker(), "ab"[number % 2]))
        await process.receiver.hears("b", given[-1])
        heard = process.receiver.heard
        assert [sequence for _, sequence, item in heard if isinstance(item, Frame)] == given
        sequences = [sequence for _, sequence, _ in heard if sequence > 0]
        assert sequences == sorted(sequences)
        [command] = [sequence for _, sequence, item in heard if item == Command("disconnect", 5)]
        assert given[14] < command < given[15]

    # History.

    def test_history_is_read_from_a_cursor_on_in_every_process(self) -> None:
        """A process replays what another published."""
        publishing, reading = self.make_broker(), self.make_broker()
        given = [publish(publishing, "a", b"%d\n\n" % number) for number in range(5)]
        events = self.run(reading.read("a", given[1]))
        assert [sequence for sequence, _ in events] == given[2:]

    def test_cursor_before_the_history_is_a_gap(self) -> None:
        """A client that missed more than is kept must be told, and never silently served the rest."""
        broker = self.make_broker(max_events=3)
        given = [publish(broker, "a", b"%d\n\n" % number) for number in range(6)]
        epoch = epoch_of(broker)
        id_of = {sequence: f"{epoch}-{sequence}" for sequence in given}
        assert broker.locate(["a"], id_of[given[2]]).gaps == frozenset()
        assert broker.locate(["a"], id_of[given[1]]).gaps == {"a"}
        try:
            self.run(broker.read("a", given[1]))
        except Gap:
            return
        raise AssertionError("read() before the history must raise Gap.")

    def test_history_is_bounded_in_bytes(self) -> None:
        """Large events are kept for a shorter time than small ones."""
        broker = self.make_broker(max_bytes=10_000)
        given = [publish(broker, "a", b"x" * 3000 + b"\n\n") for _ in range(5)]
        epoch = epoch_of(broker)
        assert broker.locate(["a"], f"{epoch}-{given[3]}").gaps == frozenset()
        assert broker.locate(["a"], f"{epoch}-{given[0]}").gaps == {"a"}

    def test_history_is_bounded_in_time(self) -> None:
        """A returning client gets nothing older than max_age, even where nothing else happens."""
        broker = self.make_broker(max_age=0.3)
        first = publish(broker, "a")
        before = f"{epoch_of(broker)}-{first - 1}"
        assert broker.locate(["a"], before).gaps == frozenset()
        deadline = time.monotonic() + PATIENCE
        while not broker.locate(["a"], before).gaps:
            assert time.monotonic() < deadline, "What is too old is still there."
            time.sleep(0.05)
        try:
            self.run(broker.read("a", first - 1))
        except Gap:
            # Nothing happened since, so a client that has it misses nothing.
            assert broker.locate(["a"], f"{epoch_of(broker)}-{first}").gaps == frozenset()
            return
        raise AssertionError("read() of what is too old must raise Gap.")

    def test_foreign_ids_are_gaps_and_no_id_is_now(self) -> None:
        """No last-event-id is an error, and none leads to another client's position."""
        broker = self.make_broker()
        newest = publish(broker, "a")
        parsed = parse_id(broker.cursor())
        assert parsed is not None
        assert parsed[0] == broker.epoch
        assert parsed[1] >= newest
        assert self.run(broker.acursor()) == broker.cursor()
        for event_id in ("garbage", "another-1", f"{broker.epoch}-{parsed[1] + 1000}", "\ud800"):
            assert broker.locate(["a", "b"], event_id).gaps == {"a", "b"}, event_id
        now = self.run(broker.alocate(["a", "b"], None))
        assert now.gaps == frozenset()
        assert now.cursor == now.granted >= newest

    # What is in no history, or no longer.

    @on_loop
    async def test_transient_event_is_heard_in_its_place_and_never_read(self) -> None:
        """Those who listen get it, in order with all others; the history does without, and has no gap."""
        process, publishing = self.start(max_events=3), self.start().broker
        begin = await process.subscribe("a")
        facts = Facts(is_transient=True, key="cursor-7")
        first = await process.publish("a", b"1\n\n")
        await publishing.apublish("a", b"2\n\n", facts)
        await apart(publishing.publish_all, [Event("a", b"%d\n\n" % number, facts) for number in range(3, 8)])
        await apart(publishing.publish_all, [Event("a", b"8\n\n", facts), Event("a", b"9\n\n")])
        last = await process.publish("a", b"10\n\n")
        await process.receiver.hears("a", last)
        heard = [each for each in process.receiver.heard if each[1] > begin and isinstance(each[2], Frame)]
        assert [sequence for _, sequence, _ in heard] == sorted({sequence for _, sequence, _ in heard})
        frames = [item for _, _, item in heard if isinstance(item, Frame)]
        bare = [frame for frame in frames if frame.facts.is_transient]
        assert bare == [Frame(b"%d\n\n" % number, facts) for number in range(2, 9)]
        assert [_payload(frame) for frame in frames if frame not in bare] == [
            b"%d\n\n" % number for number in (1, 9, 10)
        ]
        kept = await process.broker.read("a", begin)
        assert [_payload(frame) for _, frame in kept] == [b"1\n\n", b"9\n\n", b"10\n\n"]
        position = await process.broker.alocate(["a"], f"{process.broker.epoch}-{first}")
        assert position.gaps == frozenset()

    def test_transient_events_alone_leave_no_history(self) -> None:
        """A client that returns to them has missed nothing."""
        broker = self.make_broker(max_events=2)
        before = publish(broker, "b")
        for number in range(5):
            broker.publish("a", b"%d\n\n" % number, Facts(is_transient=True))
        assert self.run(broker.read("a", before)) == []
        after = publish(broker, "b")
        assert after > before
        assert broker.locate(["a", "b"], f"{epoch_of(broker)}-{before}").gaps == frozenset()

    def test_superfluous_event_leaves_the_history_without_a_gap(self) -> None:
        """The bounds of the history count only what is left."""
        broker = self.make_broker(max_events=3, max_bytes=10_000)
        begin = publish(broker, "a", b"0\n\n")
        for number in range(20):
            broker.publish("a", b"%d\n\n" % number + b"x" * 3000, Facts(replaces=SIGNALS + "1"))
            broker.publish("a", b"%d\n\n" % number, Facts(replaces=ELEMENT + "outer bar"))
        assert [_payload(frame)[:2] for _, frame in self.run(broker.read("a", begin - 1))] == [b"0\n", b"19", b"19"]
        assert broker.locate(["a"], f"{epoch_of(broker)}-{begin - 1}").gaps == frozenset()

    def test_what_makes_an_event_superfluous(self) -> None:
        """One of the same name, for all who got the first, with nothing between them that may look at it."""
        one, two = "tab-number-1", "tab-number-2"
        element, other, container, signals = (f"{kind}name" for kind in (ELEMENT, ELEMENT + "no ", CONTAINER, SIGNALS))
        for events, left in (
            ([(element, None), (element, None)], [1]),
            ([(element, None), (other, None), (element, None)], [1, 2]),
            ([(element, None), (NOTHING, None), (signals, None), (element, None)], [1, 2, 3]),
            ([(element, None), (container, None), (element, None)], [1, 2]),
            ([(element, None), (None, None), (element, None)], [0, 1, 2]),
            ([(signals, None), (None, None), (signals, None)], [0, 1, 2]),
            ([(container, None), (container, None)], [1]),
            ([(container, None), (signals, None), (container, None)], [1, 2]),
            ([(container, None), (NOTHING, None), (container, None)], [0, 1, 2]),
            ([(container, None), (element, None), (container, None)], [0, 1, 2]),
            ([(NOTHING, None), (NOTHING, None)], [0, 1]),
            ([(None, None), (None, None)], [0, 1]),
            ([(element, None), (element, one)], [0, 1]),
            ([(element, one), (element, None)], [1]),
            ([(element, one), (element, two), (element, one)], [1, 2]),
            ([(element, one), (element, two), (element, None)], [2]),
            ([(REFRESH, None), (None, None), (container, None), (REFRESH, None)], [1, 2, 3]),
        ):
            broker = self.make_broker()
            channel = f"{events}"
            given = [
                broker.publish(channel, b"x\n\n", Facts(tab, replaces=name, is_refresh=name == REFRESH))
                for name, tab in events
            ]
            assert given[0] is not None
            kept = [sequence for sequence, _ in self.run(broker.read(channel, given[0] - 1))]
            assert kept == [given[number] for number in left], events

    def test_client_is_told_which_channels_were_refreshed_since(self) -> None:
        """It gets a snapshot, as for a gap; a refresh that the history does not hold any more is one."""
        broker = self.make_broker(max_events=3)
        facts = Facts(replaces=REFRESH, is_refresh=True)
        before = publish(broker, "a")
        broker.publish("a", b"\n", facts)
        newest = broker.publish("a", b"\n", facts)
        publish(broker, "b")
        broker.publish("c", b"x\n\n", Facts(is_refresh=True, is_audience=True))
        id_of = f"{epoch_of(broker)}-%d"
        found = broker.locate(["a", "b", "c"], id_of % before)
        assert not found.gaps
        assert found.refreshed == {"a", "c"}
        assert broker.locate(["a"], id_of % newest).refreshed == frozenset()
        assert broker.locate(["a"], None).refreshed == frozenset()
        assert [frame.facts.is_refresh for _, frame in self.run(broker.read("a", before))] == [True]
        for _ in range(3):
            publish(broker, "a")
        found = broker.locate(["a"], id_of % before)
        assert "a" in found.gaps | found.refreshed

    # Commands.

    @on_loop
    async def test_command_comes_after_what_was_published_before_it(self) -> None:
        """A page is told why before it is closed."""
        process = self.start()
        await process.subscribe("a")
        first = await process.publish("a", b"why\n\n")
        await self.make_broker().acommand("a", Command("disconnect", 5))
        last = await process.publish("a", b"after\n\n")
        await process.receiver.hears("a", last)
        heard = [item for name, sequence, item in process.receiver.heard if name == "a" and sequence >= first]
        assert [type(item) for item in heard] == [Frame, Command, Frame]
        assert heard[1] == Command("disconnect", 5)

    @on_loop
    async def test_command_everywhere_reaches_every_hub(self) -> None:
        """A recheck of a user concerns streams of all channels."""
        process = self.start()
        await process.subscribe("a")
        await self.make_broker().acommand(EVERYWHERE, Command("recheck", 5))
        await process.receiver.hears("a", await process.publish("a"))
        everywhere = [item for name, _, item in process.receiver.heard if name == EVERYWHERE]
        assert everywhere == [Command("recheck", 5)]

    @on_loop
    async def test_commands_are_kept_for_streams_that_are_still_opening(self) -> None:
        """A command between the arrival of a request and the opening of its stream applies to the stream."""
        broker = self.make_broker()
        began = time.monotonic()
        before = (await broker.alocate(["a"], None)).granted
        given = [Command("disconnect", 5), Command("recheck", 6), Command("kill")]
        await broker.acommand("a", given[0])
        await broker.acommand(EVERYWHERE, given[1])
        await broker.acommand("b", Command("disconnect", 7))
        await broker.acommand("a", given[2])
        other = self.make_broker()
        found = await other.commands(["a", "c"], 10)
        assert [each.command for each in found] == given
        assert before < found[0].sequence < found[1].sequence < found[2].sequence
        # Clocks of a server may count in milliseconds.
        assert all(0 <= each.age <= time.monotonic() - began + 0.002 for each in found)

    @on_loop
    async def test_age_of_a_command_tells_whether_a_request_came_in_before_it(self) -> None:
        """What was said before a request came in is older than the request."""
        broker = self.make_broker()
        await broker.acommand("a", Command("disconnect", 5))
        await asyncio.sleep(0.05)
        came_in = time.monotonic()
        await broker.acommand("a", Command("disconnect", 6))
        asked = time.monotonic()
        older, newer = await self.make_broker().commands(["a"], 10)
        assert older.age > asked - came_in
        assert newer.age <= time.monotonic() - came_in + 0.002

    @on_loop
    async def test_sequence_that_was_heard_of_has_been_given_out(self) -> None:
        """A process may know of a sequence without asking, never of one that is still to come."""
        broker = self.make_broker()
        await broker.acommand("a", Command("recheck"))
        assert broker.heard() <= (await broker.alocate(["a"], None)).granted

    def test_kill_forgets_the_history(self) -> None:
        """A client that returns to a killed channel is at a gap, and sees nothing of its past."""
        broker = self.make_broker()
        sequence = publish(broker, "a", b"secret\n\n")
        self.make_broker().command("a", Command("kill"))
        assert broker.locate(["a"], f"{epoch_of(broker)}-{sequence - 1}").gaps == {"a"}
        later = publish(broker, "a", b"new\n\n")
        assert [each for each, _ in self.run(broker.read("a", later - 1))] == [later]


def _payload(frame: Frame) -> bytes:
    return frame.data.partition(b"\n")[2]
