"""The contract, second part: who is there, in all processes. A broker that is alone has little to do for it."""

import asyncio
from typing import Any
from uuid import UUID

from ..brokers import GONE, LEASE, Broker, PresenceChange, ProcessHoldings
from .cluster import Cluster, apart
from .receiver import ATTENDED, RecordingReceiver


class PresenceContract(Cluster):
    """What a broker does with what hubs tell of who is there.

    Where its hubs share nothing (`is_shared` is False) it has nothing to write down: they know.
    """

    def test_users_and_channels_are_those_of_the_hubs(self) -> None:
        """Somebody with two tabs counts twice, and nobody who has gone counts."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            await broker.sync(ear, ear.becomes("a", 1, 1, 2), LEASE)
            for each in (broker, self.make_broker()):
                assert sorted(await each.ausers("a")) == [1, 1, 2]
                assert sorted(await apart(each.users, "a")) == [1, 1, 2]
                assert await each.achannels() == ["a"]
                assert await apart(each.channels) == ["a"]
                assert await each.ausers("nobody") == []
                assert await apart(each.holdings) == [ProcessHoldings(ear.process, {"a": 3})]
            await broker.sync(ear, ear.becomes("a"), LEASE)
            broker.detach(ear)
            for each in (broker, self.make_broker()):
                assert (await each.ausers("a"), await each.achannels()) == ([], [])

        self.run(test())

    def test_users_keep_their_types(self) -> None:
        """They are compared with the primary keys that views have."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            people = [7, "7", "seven: \u00fc \ud800", UUID(int=7)]
            await broker.sync(ear, ear.becomes("a", *people), LEASE)
            assert set(await self.make_broker().ausers("a")) == set(people)
            broker.detach(ear)

        self.run(test())

    def test_joins_and_leaves_are_told_once_in_all_processes(self) -> None:
        """A user who has a tab on each of two machines came once, and leaves with the last."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            first, second = RecordingReceiver(), RecordingReceiver()
            one.attach(first)
            other.attach(second)

            async def told(broker: Broker, ear: RecordingReceiver, *users: Any) -> tuple[list[Any], list[Any]]:
                answer = await broker.sync(ear, ear.becomes("a", *users), LEASE)
                return answer.joined, answer.left

            assert await told(one, first, 1) == ([("a", 1)], [])
            assert await told(one, first, 1, 1) == ([], [])
            assert await told(other, second, 1) == ([], [])
            assert await told(one, first) == ([], [])
            assert await told(other, second) == ([], [("a", 1)])
            assert await told(one, first, 1) == ([("a", 1)], [])

        self.run(test())

    def test_who_is_online_by_grace_is_elsewhere_but_has_no_connection(self) -> None:
        """A reload is not a leave, whichever process it goes to."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            first, second = RecordingReceiver(), RecordingReceiver()
            one.attach(first)
            other.attach(second)
            await one.sync(first, first.becomes("a", 1, 2), LEASE)
            first.becomes("a", 2)
            answer = await one.sync(first, [PresenceChange("a", None, 1), PresenceChange("a", 1, 0)], LEASE)
            assert answer.left == []
            assert sorted(await apart(other.remote_users, second, "a")) == [1, 2]
            assert await apart(one.remote_users, first, "a") == []
            assert await other.ausers("a") == [2]
            answer = await other.sync(second, second.becomes("a", 1), LEASE)
            assert answer.joined == []
            answer = await one.sync(first, [PresenceChange("a", None, 1), PresenceChange("a", 1, GONE)], LEASE)
            assert answer.left == []

        self.run(test())

    def test_other_hubs_are_told_that_somebody_came_or_went(self) -> None:
        """They show their pages who is there."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            first, second = RecordingReceiver(), RecordingReceiver()
            one.attach(first)
            other.attach(second)
            await other.subscribe(second, "a")
            for users in ([1], []):
                second.heard.clear()
                await one.sync(first, first.becomes("a", *users), LEASE)
                await second.hears("a", ATTENDED)

        self.run(test())

    def test_who_came_while_nothing_was_heard_is_noticed(self) -> None:
        """A connection that was lost may have lost this news as well."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            first, second = RecordingReceiver(), RecordingReceiver()
            one.attach(first)
            other.attach(second)
            await other.subscribe(second, "a")
            await apart(self.interrupt)
            await one.sync(first, first.becomes("a", 1), LEASE)
            await second.hears("a", ATTENDED)
            assert await apart(other.remote_users, second, "a") == [1]

        self.run(test())

    def test_dead_process_leaves_no_ghosts_longer_than_its_lease(self) -> None:
        """Whoever is killed says nothing any more, so what it said holds for a time only."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            dying, living = RecordingReceiver(), RecordingReceiver()
            one.attach(dying)
            other.attach(living)
            await other.subscribe(living, "a")
            await one.sync(dying, dying.becomes("a", 1, 2), 0.3)
            answer = await other.sync(living, living.becomes("a", 2), LEASE)
            assert answer.left == []
            assert 0 < answer.next_end <= 0.3
            living.heard.clear()
            one.detach(dying)
            await asyncio.sleep(answer.next_end)
            assert await other.ausers("a") == [2]
            assert await apart(other.remote_users, living, "a") == []
            # The next who has something to say, or nothing, finds it out; one of them, and once.
            third = RecordingReceiver()
            broker = self.make_broker()
            broker.attach(third)
            answers = [await broker.sync(third, [], LEASE), await other.sync(living, [], LEASE)]
            assert [answer.left for answer in answers] == [[("a", 1)], []]
            await living.hears("a", ATTENDED)
            shares = await apart(other.holdings)
            assert sorted(shares) == sorted(
                [ProcessHoldings(living.process, {"a": 1}), ProcessHoldings(third.process, {})]
            )

        self.run(test())

    def test_process_that_was_taken_for_dead_tells_everything_again(self) -> None:
        """It was cut off, not dead: what it says changed is not all that it has."""

        async def test() -> None:
            one, other = self.make_broker(), self.make_broker()
            if not one.is_shared:
                return
            first, second = RecordingReceiver(), RecordingReceiver()
            one.attach(first)
            other.attach(second)
            assert (await one.sync(first, first.becomes("a", 1), 0.1)).is_forgotten
            assert not (await one.sync(first, first.becomes("b", 2), 0.1)).is_forgotten
            await asyncio.sleep(0.1)
            assert (await other.sync(second, [], LEASE)).left == [("a", 1), ("b", 2)]
            assert (await one.sync(first, [], LEASE)).is_forgotten

        self.run(test())

    def test_everything_up_to_here_is_said_to_be_heard(self) -> None:
        """A client whose channels are quiet moves on with the others, so that its cursor does not grow old."""

        async def test() -> None:
            broker, ear = self.make_broker(), RecordingReceiver()
            broker.attach(ear)
            await broker.subscribe(ear, "a")
            last = await self.apublish(broker, "a")
            newest = await self.apublish(self.make_broker(), "quiet")
            await broker.sync(ear, [], LEASE)
            await ear.hears("a", last)
            if broker.is_shared:
                await ear.reaches(newest)

        self.run(test())
