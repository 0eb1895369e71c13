"""For tests: the contract that every broker keeps, as a test class.

A broker is born through it:

    class TestMyBroker(BrokerContract):
        def make_broker(self, **history):
            return MyBroker(self.location, {}, History(**history))

Each call of make_broker() in one test stands for one more process on the same cluster: what one publishes all others
carry. Between two tests nothing may be left.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from .brokers import EVERYWHERE, Broker, Command
from .exceptions import Gap
from .ids import parse_id

T = TypeVar("T")

# Seconds that an event may take from one process to another.
PATIENCE = 5


class Ear:
    """A receiver that remembers: what a broker sees of a hub, for one process of a test."""

    def __init__(self, users: dict[str, list[Any]] | None = None) -> None:
        self.heard: list[tuple[str, int, bytes | Command]] = []
        self.present = users or {}
        self._more = threading.Condition()

    def deliver(self, channel: str, sequence: int, item: bytes | Command) -> None:
        with self._more:
            self.heard.append((channel, sequence, item))
            self._more.notify_all()

    def missed(self, channel: str) -> None:
        self.heard.append((channel, -1, Command("missed")))

    def reset(self) -> None:
        self.heard.append((EVERYWHERE, -1, Command("reset")))

    def throttle(self) -> None:
        pass

    def attended(self, channel: str) -> None:
        self.heard.append((channel, -1, Command("attended")))

    def graced(self, channel: str) -> list[Any]:
        return []

    def users(self, channel: str) -> list[Any]:
        return list(self.present.get(channel, ()))

    def channels(self) -> list[str]:
        return list(self.present)

    def sequences(self, channel: str) -> list[int]:
        """Return the sequences heard on a channel, in their order."""
        return [sequence for name, sequence, _ in list(self.heard) if name == channel]

    async def hears(self, channel: str, sequence: int) -> None:
        """Wait until this sequence has come; raises AssertionError when it does not."""

        def wait() -> bool:
            with self._more:
                return self._more.wait_for(lambda: sequence in self.sequences(channel), PATIENCE)

        arrived = await asyncio.to_thread(wait)
        assert arrived, f"{sequence} on {channel!r} did not arrive within {PATIENCE} s; there was {self.heard}."


class BrokerContract:
    """What every broker does. Subclass it, say how to make one, and run it with pytest."""

    def make_broker(self, **history: Any) -> Broker:
        """Return a broker that is one more process on the same cluster; `history` are fields of conf.History."""
        raise NotImplementedError("make_broker() must return the broker that is to be tested.")

    def close(self, broker: Broker) -> None:
        """Let go of a broker at the end of a test."""

    def run(self, test: Coroutine[Any, Any, T]) -> T:
        """Run what needs an event loop, as a hub has one."""
        return asyncio.run(test)

    # Order: one line of sequences over all channels.

    def test_sequences_ascend_over_all_channels(self) -> None:
        """A cursor serves a stream of many channels: so what was published later has the higher sequence."""
        one, other = self.make_broker(), self.make_broker()
        given = [(one if number % 2 else other).publish(f"channel-{number % 3}", b"x\n\n") for number in range(20)]
        assert given == sorted(set(given))

    def test_async_publishing_is_the_same(self) -> None:
        """The twin takes its place in the same line."""
        broker = self.make_broker()
        first = broker.publish("a", b"x\n\n")
        assert self.run(broker.apublish("a", b"y\n\n")) > first

    def test_threads_and_processes_publish_without_losing_or_doubling(self) -> None:
        """Ten publishers at a time: every sequence is given once, and whoever listens hears all of them, ascending."""

        async def test() -> None:
            listening, ear = self.make_broker(), Ear()
            listening.attach(ear)
            await listening.subscribe("busy")
            given: list[int] = []

            def publish() -> None:
                broker = self.make_broker()
                given.extend(broker.publish("busy", b"x\n\n") for _ in range(20))

            await asyncio.gather(*(asyncio.to_thread(publish) for _ in range(10)))
            await ear.hears("busy", max(given))
            assert len(set(given)) == 200
            assert ear.sequences("busy") == sorted(given)

        self.run(test())

    # Carrying.

    def test_subscriber_hears_everything_after_the_sequence_it_was_told(self) -> None:
        """subscribe() returns a sequence after which nothing is missed, however busy the channel is meanwhile."""

        async def test() -> None:
            listening, publishing, ear = self.make_broker(), self.make_broker(), Ear()
            listening.attach(ear)
            before = publishing.publish("a", b"before\n\n")
            begin = await listening.subscribe("a")
            assert begin >= before
            after = [publishing.publish("a", b"%d\n\n" % number) for number in range(5)]
            await ear.hears("a", after[-1])
            assert [each for each in ear.sequences("a") if each > begin] == after

        self.run(test())

    def test_frame_begins_with_its_id_and_goes_on_as_it_was_given(self) -> None:
        """Clients return with the id; the payload is not touched, whatever bytes are in it."""

        async def test() -> None:
            broker, ear = self.make_broker(), Ear()
            broker.attach(ear)
            await broker.subscribe("a")
            payload = b"event: x\ndata: \xff\x00 \xc3\xa9\n\n" + b"y" * 20_000
            sequence = await broker.apublish("a", payload)
            await ear.hears("a", sequence)
            expected = b"id: %b-%d\n%b" % (broker.epoch.encode(), sequence, payload)
            assert ("a", sequence, expected) in ear.heard
            assert await broker.read("a", sequence - 1) == [(sequence, expected)]

        self.run(test())

    # History.

    def test_history_is_read_from_a_cursor_on_in_every_process(self) -> None:
        """What one process published another replays."""
        publishing, reading = self.make_broker(), self.make_broker()
        given = [publishing.publish("a", b"%d\n\n" % number) for number in range(5)]
        events = self.run(reading.read("a", given[1]))
        assert [sequence for sequence, _ in events] == given[2:]

    def test_cursor_before_the_history_is_a_gap(self) -> None:
        """A client that missed more than is kept must be told, and never silently served the rest."""
        broker = self.make_broker(max_events=3)
        given = [broker.publish("a", b"%d\n\n" % number) for number in range(6)]
        id_of = {sequence: f"{broker.epoch}-{sequence}" for sequence in given}
        assert broker.locate(["a"], id_of[given[2]]).gaps == frozenset()
        assert broker.locate(["a"], id_of[given[1]]).gaps == {"a"}
        try:
            self.run(broker.read("a", given[1]))
        except Gap:
            return
        raise AssertionError("read() before the history must raise Gap.")

    def test_foreign_ids_are_gaps_and_no_id_is_now(self) -> None:
        """Whatever a client sends in last-event-id: never an error, never somebody else's place."""
        broker = self.make_broker()
        newest = broker.publish("a", b"x\n\n")
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
            broker, ear = self.make_broker(), Ear()
            broker.attach(ear)
            await broker.subscribe("a")
            first = broker.publish("a", b"why\n\n")
            self.make_broker().command("a", Command("disconnect", 5))
            last = broker.publish("a", b"after\n\n")
            await ear.hears("a", last)
            heard = [item for name, sequence, item in ear.heard if name == "a" and sequence >= first]
            assert [type(item) for item in heard] == [bytes, Command, bytes]
            assert heard[1] == Command("disconnect", 5)

        self.run(test())

    def test_command_everywhere_reaches_whoever_subscribes_to_nothing(self) -> None:
        """A recheck of a user concerns streams of all channels."""

        async def test() -> None:
            broker, ear = self.make_broker(), Ear()
            broker.attach(ear)
            await broker.subscribe("a")
            await self.make_broker().acommand(EVERYWHERE, Command("recheck", 5))
            last = broker.publish("a", b"x\n\n")
            await ear.hears("a", last)
            assert [item for name, _, item in ear.heard if name == EVERYWHERE] == [Command("recheck", 5)]

        self.run(test())

    def test_commands_are_kept_for_streams_that_are_still_opening(self) -> None:
        """What is said about a user between the grant and the opening of a stream holds."""

        async def test() -> None:
            broker = self.make_broker()
            granted = broker.locate(["a"], None).granted
            given = [Command("disconnect", 5), Command("recheck", 6), Command("kill")]
            broker.command("a", given[0])
            broker.command(EVERYWHERE, given[1])
            broker.command("b", Command("disconnect", 7))
            await broker.acommand("a", given[2])
            other = self.make_broker()
            assert await other.commands("a", granted) == given
            assert await other.commands("a", other.locate(["a"], None).granted) == []

        self.run(test())

    def test_kill_forgets_the_history(self) -> None:
        """Whoever returns to a killed channel is at a gap, and sees nothing of what was."""
        broker = self.make_broker()
        sequence = broker.publish("a", b"secret\n\n")
        self.make_broker().command("a", Command("kill"))
        assert broker.locate(["a"], f"{broker.epoch}-{sequence - 1}").gaps == {"a"}
        later = broker.publish("a", b"new\n\n")
        assert [each for each, _ in self.run(broker.read("a", later - 1))] == [later]

    # Who is there.

    def test_users_and_channels_are_those_of_the_hubs(self) -> None:
        """Somebody with two tabs counts twice."""

        async def test() -> None:
            broker, ear = self.make_broker(), Ear({"a": [1, 1, 2]})
            broker.attach(ear)
            await broker.subscribe("a")
            broker.changed("a")
            assert sorted(await broker.ausers("a")) == [1, 1, 2]
            assert await broker.achannels() == ["a"]
            assert broker.users("nobody") == []
            broker.detach(ear)
            assert await broker.ausers("a") == []

        self.run(test())
