"""The contract, first part: events, their order and history, and commands."""

import asyncio
import time

from ..brokers import EVERYWHERE, Command, Event, Facts, Frame
from ..exceptions import Gap
from ..ids import parse_id
from .cluster import Cluster, apart
from .receiver import PATIENCE, RecordingReceiver


class EventsContract(Cluster):
    """What a broker does with what is published."""

    # Order: one line of sequences over all channels.

    def test_sequences_ascend_over_all_channels(self) -> None:
        """A cursor serves a stream of many channels: so what was published later has the higher sequence."""
        one, other = self.make_broker(), self.make_broker()
        given = [self.publish(one if number % 2 else other, f"channel-{number % 3}", b"x\n\n") for number in range(20)]
        assert given == sorted(set(given))

    def test_async_publishing_is_the_same(self) -> None:
        """The twin takes its place in the same line."""
        broker = self.make_broker()
        first = self.publish(broker, "a", b"x\n\n")
        second = self.run(broker.apublish("a", b"y\n\n"))
        assert second is not None
        assert second > first

    def test_several_are_published_one_after_the_other(self) -> None:
        """publish_all() is as good as publish() for each: in this order, over all channels, kept like all others."""

        async def test() -> None:
            listening, publishing, ear = self.make_broker(), self.make_broker(), RecordingReceiver()
            listening.attach(ear)
            begin = max([await listening.subscribe(ear, channel) for channel in ("a", "b")])
            events = [Event("b" if number % 3 else "a", b"%d\n\n" % number) for number in range(10)]
            await apart(publishing.publish_all, events)
            await apart(publishing.publish_all, [])
            newest = await self.apublish(publishing, "a", b"10\n\n")
            await ear.hears("a", newest)
            heard = [(name, _payload(item)) for name, _, item in ear.heard if isinstance(item, Frame)]
            assert heard == [*((each.channel, each.payload) for each in events), ("a", b"10\n\n")]
            given = [sequence for _, sequence, item in ear.heard if isinstance(item, Frame)]
            assert given == sorted(set(given))
            kept = await publishing.read("b", begin)
            assert [_payload(frame) for _, frame in kept] == [each.payload for each in events if each.channel == "b"]

        self.run(test())

    def test_threads_and_processes_publish_without_losing_or_doubling(self) -> None:
        """Ten publishers at a time: every sequence is given once, and whoever listens hears all of them, ascending."""

        async def test() -> None:
            listening, ear = self.make_broker(), RecordingReceiver()
            listening.attach(ear)
            await listening.subscribe(ear, "busy")
            given: list[int] = []

            def publish() -> None:
                broker = self.make_broker()
                given.extend(self.publish(broker, "busy", b"x\n\n") for _ in range(20))

            await asyncio.gather(*(apart(publish) for _ in range(10)))
            await ear.hears("busy", max(given))
            assert len(set(given)) == 200
            assert ear.sequences("busy") == sorted(given)

        self.run(test())

    # Carrying.

    def test_subscriber_hears_everything_after_the_sequence_it_was_told(self) -> None:
        """subscribe() returns a sequence after which nothing is missed, however busy the channel is meanwhile."""

        async def test() -> None:
            listening, publishing, ear = self.make_broker(), self.make_broker(), RecordingReceiver()
            listening.attach(ear)
            before = await self.apublish(publishing, "a", b"before\n\n")
            begin = await listening.subscribe(ear, "a")
            assert begin >= before
            after = [await self.apublish(publishing, "a", b"%d\n\n" % number) for number in range(5)]
            await ear.hears("a", after[-1])
            assert [each for each in ear.sequences("a") if each > begin] == after

        self.run(test())

    def test_frame_begins_with_its_id_and_goes_on_as_it_was_given(self) -> None:
        """Clients return with the id; the payload is not touched, whatever bytes are in it."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            payload = b"event: x\ndata: \xff\x00 \xc3\xa9\n\n" + b"y" * 20_000
            sequence = await self.apublish(broker, "a", payload)
            await ear.hears("a", sequence)
            expected = Frame(b"id: %b-%d\n%b" % (broker.epoch.encode(), sequence, payload))
            assert ("a", sequence, expected) in ear.heard
            assert await broker.read("a", sequence - 1) == [(sequence, expected)]

        self.run(test())

    def test_facts_are_carried_and_kept_beside_the_bytes(self) -> None:
        """Who does not get an event is known wherever it is delivered or replayed, and is no part of its bytes."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            facts = Facts(exclude="tab-number-1")
            publishing = self.make_broker()
            first = await apart(publishing.publish, "a", b"1\n\n", facts)
            second = await publishing.apublish("a", b"2\n\n", facts)
            await apart(publishing.publish_all, [Event("a", b"3\n\n", facts), Event("a", b"4\n\n")])
            last = await self.apublish(broker, "a", b"5\n\n")
            await ear.hears("a", last)
            assert first is not None
            assert second is not None
            heard = [item for _, sequence, item in ear.heard if sequence >= first and isinstance(item, Frame)]
            kept = [frame for _, frame in await broker.read("a", first - 1)]
            for frames in (heard, kept):
                assert [_payload(frame) for frame in frames] == [b"%d\n\n" % number for number in range(1, 6)]
                assert [frame.facts.exclude for frame in frames] == [*["tab-number-1"] * 3, None, None]

        self.run(test())

    def test_odd_names_are_names(self) -> None:
        """A channel is any string."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            names = ["a", "a ", "A", "ä", "\U0001f600 %s {} * ?", "-1", "x" * 5000, "half \ud800", "a:b", "a'b\"c"]
            for name in names:
                await broker.subscribe(ear, name)
            given = {name: await self.apublish(broker, name) for name in names}
            for name in names:
                await ear.hears(name, given[name])
                assert ear.sequences(name) == [given[name]]
                assert [each for each, _ in await broker.read(name, given[name] - 1)] == [given[name]]

        self.run(test())

    def test_channel_is_carried_no_longer_than_wanted(self) -> None:
        """A process is spared what none of its clients is to get."""

        async def test() -> None:
            broker, other, ear = self.make_broker(), self.make_broker(), RecordingReceiver()
            if not broker.is_shared:
                return
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            await broker.subscribe(ear, "b")
            await broker.unsubscribe(ear, "a")
            unheard = await self.apublish(other, "a")
            await ear.hears("b", await self.apublish(other, "b"))
            assert unheard not in ear.sequences("a")
            begin = await broker.subscribe(ear, "a")
            assert begin >= unheard
            await ear.hears("a", await self.apublish(other, "a"))

        self.run(test())

    def test_lost_connections_lose_and_double_nothing(self) -> None:
        """What was published meanwhile comes in its place: events and commands, of all channels in one line."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            for channel in ("a", "b"):
                await broker.subscribe(ear, channel)
            given = []
            for number in range(30):
                if number % 10 == 5:
                    await apart(self.interrupt)
                if number == 15:
                    await self.make_broker().acommand("a", Command("disconnect", 5))
                given.append(await self.apublish(self.make_broker(), "ab"[number % 2]))
            await ear.hears("b", given[-1])
            assert [sequence for _, sequence, item in ear.heard if isinstance(item, Frame)] == given
            sequences = [sequence for _, sequence, _ in ear.heard if sequence > 0]
            assert sequences == sorted(sequences)
            [command] = [sequence for _, sequence, item in ear.heard if item == Command("disconnect", 5)]
            assert given[14] < command < given[15]

        self.run(test())

    # History.

    def test_history_is_read_from_a_cursor_on_in_every_process(self) -> None:
        """What one process published another replays."""
        publishing, reading = self.make_broker(), self.make_broker()
        given = [self.publish(publishing, "a", b"%d\n\n" % number) for number in range(5)]
        events = self.run(reading.read("a", given[1]))
        assert [sequence for sequence, _ in events] == given[2:]

    def test_cursor_before_the_history_is_a_gap(self) -> None:
        """A client that missed more than is kept must be told, and never silently served the rest."""
        broker = self.make_broker(max_events=3)
        given = [self.publish(broker, "a", b"%d\n\n" % number) for number in range(6)]
        epoch = self.epoch_of(broker)
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
        given = [self.publish(broker, "a", b"x" * 3000 + b"\n\n") for _ in range(5)]
        epoch = self.epoch_of(broker)
        assert broker.locate(["a"], f"{epoch}-{given[3]}").gaps == frozenset()
        assert broker.locate(["a"], f"{epoch}-{given[0]}").gaps == {"a"}

    def test_history_is_bounded_in_time(self) -> None:
        """What is older than max_age is no longer shown to whoever returns, also where nothing else happens."""
        broker = self.make_broker(max_age=0.3)
        first = self.publish(broker, "a")
        before = f"{self.epoch_of(broker)}-{first - 1}"
        assert broker.locate(["a"], before).gaps == frozenset()
        deadline = time.monotonic() + PATIENCE
        while not broker.locate(["a"], before).gaps:
            assert time.monotonic() < deadline, "What is too old is still there."
            time.sleep(0.05)
        try:
            self.run(broker.read("a", first - 1))
        except Gap:
            # Nothing happened since, so whoever has it misses nothing.
            assert broker.locate(["a"], f"{self.epoch_of(broker)}-{first}").gaps == frozenset()
            return
        raise AssertionError("read() of what is too old must raise Gap.")

    def test_foreign_ids_are_gaps_and_no_id_is_now(self) -> None:
        """Whatever a client sends in last-event-id: never an error, never somebody else's place."""
        broker = self.make_broker()
        newest = self.publish(broker, "a", b"x\n\n")
        parsed = parse_id(broker.cursor())
        assert parsed is not None
        assert parsed[1] >= newest
        assert self.run(broker.acursor()) == broker.cursor()
        for event_id in ("garbage", "another-1", f"{broker.epoch}-{parsed[1] + 1000}", "\ud800"):
            assert broker.locate(["a", "b"], event_id).gaps == {"a", "b"}, event_id
        place = self.run(broker.alocate(["a", "b"], None))
        assert place.gaps == frozenset()
        assert place.cursor == place.granted >= newest

    # Commands.

    def test_command_comes_behind_what_was_published_before_it(self) -> None:
        """A page is told why before it is closed."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            first = await self.apublish(broker, "a", b"why\n\n")
            await self.make_broker().acommand("a", Command("disconnect", 5))
            last = await self.apublish(broker, "a", b"after\n\n")
            await ear.hears("a", last)
            heard = [item for name, sequence, item in ear.heard if name == "a" and sequence >= first]
            assert [type(item) for item in heard] == [Frame, Command, Frame]
            assert heard[1] == Command("disconnect", 5)

        self.run(test())

    def test_command_everywhere_reaches_whoever_subscribes_to_nothing(self) -> None:
        """A recheck of a user concerns streams of all channels."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            await self.make_broker().acommand(EVERYWHERE, Command("recheck", 5))
            last = await self.apublish(broker, "a", b"x\n\n")
            await ear.hears("a", last)
            assert [item for name, _, item in ear.heard if name == EVERYWHERE] == [Command("recheck", 5)]

        self.run(test())

    def test_commands_are_kept_for_streams_that_are_still_opening(self) -> None:
        """What is said about a user between the grant and the opening of a stream holds."""

        async def test() -> None:
            broker = self.make_broker()
            granted = (await broker.alocate(["a"], None)).granted
            given = [Command("disconnect", 5), Command("recheck", 6), Command("kill")]
            await broker.acommand("a", given[0])
            await broker.acommand(EVERYWHERE, given[1])
            await broker.acommand("b", Command("disconnect", 7))
            await broker.acommand("a", given[2])
            other = self.make_broker()
            assert await other.commands("a", granted) == given
            assert await other.commands("a", (await other.alocate(["a"], None)).granted) == []

        self.run(test())

    def test_kill_forgets_the_history(self) -> None:
        """Whoever returns to a killed channel is at a gap, and sees nothing of what was."""
        broker = self.make_broker()
        sequence = self.publish(broker, "a", b"secret\n\n")
        self.make_broker().command("a", Command("kill"))
        assert broker.locate(["a"], f"{self.epoch_of(broker)}-{sequence - 1}").gaps == {"a"}
        later = self.publish(broker, "a", b"new\n\n")
        assert [each for each, _ in self.run(broker.read("a", later - 1))] == [later]


def _payload(frame: Frame) -> bytes:
    return frame.data.partition(b"\n")[2]
