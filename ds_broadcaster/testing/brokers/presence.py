"""The contract, second part: who is online, in all processes. Brokers without a presence store have little to do."""

import asyncio
from typing import Any
from uuid import UUID

from ...brokers import GONE, LEASE, PresenceChange, PresenceDiff, PresenceStore, ProcessHoldings
from ...present import UserPart
from .cluster import Cluster, Process, apart, between_processes, on_loop, publish, with_parts
from .receiver import PRESENCE
from .walk import WALKS, Walk


class PresenceContract(Cluster):
    """How a broker answers who is online, and what its presence store keeps."""

    @on_loop
    async def test_users_and_channels_are_those_of_the_hubs(self) -> None:
        """A user with two tabs counts twice, and a user who has left does not count."""
        process = self.start()
        # Only a presence store knows what other processes have.
        brokers = [process.broker] if process.broker.presence is None else [process.broker, self.make_broker()]
        await process.subscribe("a")
        await process.set_users("a", 1, 1, 2)
        for broker in brokers:
            assert sorted(await broker.ausers("a")) == [1, 1, 2]
            assert sorted(await apart(broker.users, "a")) == [1, 1, 2]
            assert await broker.achannels() == ["a"]
            assert await apart(broker.channels) == ["a"]
            assert await broker.ausers("empty") == []
            assert await apart(broker.holdings) == [ProcessHoldings(process.receiver.process, {"a": 3})]
        await process.set_users("a")
        process.broker.detach(process.receiver)
        for broker in brokers:
            assert (await broker.ausers("a"), await broker.achannels()) == ([], [])

    @on_loop
    async def test_users_keep_their_types(self) -> None:
        """Views compare them with primary keys."""
        users = [7, "7", "seven: \u00fc \ud800", UUID(int=7)]
        process = self.start()
        await process.set_users("a", *users)
        broker = process.broker if process.broker.presence is None else self.make_broker()
        assert set(await broker.ausers("a")) == set(users)

    @between_processes
    async def test_joins_and_leaves_are_told_once_in_all_processes(self, one: Process, other: Process) -> None:
        """A user with a tab on each of two machines joins once, and leaves with the last."""

        async def told(process: Process, *users: Any) -> tuple[list[Any], list[Any]]:
            diff = await process.set_users("a", *users)
            return diff.joined, diff.left

        assert await told(one, 1) == ([("a", 1)], [])
        assert await told(one, 1, 1) == ([], [])
        assert await told(other, 1) == ([], [])
        assert await told(one) == ([], [])
        assert await told(other) == ([], [("a", 1)])
        assert await told(one, 1) == ([("a", 1)], [])

    @between_processes
    async def test_user_online_by_grace_is_remote_but_has_no_connection(self, one: Process, other: Process) -> None:
        """A reload is not a leave, whichever process it goes to."""
        await one.set_users("a", 1, 2)
        one.receiver.set_users("a", 2)
        diff = await one.sync([PresenceChange("a", None, 1), PresenceChange("a", 1, 0)])
        assert diff.left == []
        assert await other.remote_users("a") == [1, 2]
        assert await one.remote_users("a") == []
        assert await other.broker.ausers("a") == [2]
        assert (await other.set_users("a", 1)).joined == []
        diff = await one.sync([PresenceChange("a", None, 1), PresenceChange("a", 1, GONE)])
        assert diff.left == []

    @between_processes
    async def test_other_hubs_are_told_of_joins_and_leaves(self, one: Process, other: Process) -> None:
        """They render presence for their pages."""
        await other.subscribe("a")
        for users in ([1], []):
            other.receiver.heard.clear()
            await one.set_users("a", *users)
            await other.receiver.hears("a", PRESENCE)

    @between_processes
    async def test_join_during_a_lost_connection_is_noticed(self, one: Process, other: Process) -> None:
        """A lost connection may have lost this news as well."""
        await other.subscribe("a")
        await apart(self.interrupt)
        await one.set_users("a", 1)
        await other.receiver.hears("a", PRESENCE)
        assert await other.remote_users("a") == [1]

    @between_processes
    async def test_dead_process_leaves_no_ghosts_longer_than_its_lease(self, dying: Process, living: Process) -> None:
        """A killed process says nothing more, so what it told holds for a limited time."""
        await living.subscribe("a")
        await dying.set_users("a", 1, 2, lease=0.3)
        diff = await living.set_users("a", 2)
        assert diff.left == []
        living.receiver.heard.clear()
        dying.broker.detach(dying.receiver)
        await _expire(diff, 0.3)
        assert await living.broker.ausers("a") == [2]
        assert await living.remote_users("a") == []
        # The next sync() of any process tells the leave, with or without changes; only one of them does.
        third = self.start()
        diffs = [await third.sync(), await living.sync()]
        assert [diff.left for diff in diffs] == [[("a", 1)], []]
        await living.receiver.hears("a", PRESENCE)
        holdings = await apart(living.broker.holdings)
        assert sorted(holdings) == sorted(
            [ProcessHoldings(living.receiver.process, {"a": 1}), ProcessHoldings(third.receiver.process, {})]
        )

    @between_processes
    async def test_users_of_a_dead_process_stay_online_where_they_have_another_tab(
        self, dying: Process, living: Process
    ) -> None:
        """The process that removes the dead one may be the one that still has them."""
        await dying.set_users("a", 1, 2, lease=0.3)
        diff = await living.set_users("a", 2)
        dying.broker.detach(dying.receiver)
        await _expire(diff, 0.3)
        diff = await living.sync()
        assert (diff.joined, diff.left) == ([], [("a", 1)])
        assert await living.broker.ausers("a") == [2]

    @between_processes
    async def test_process_taken_for_dead_tells_everything_again(self, one: Process, other: Process) -> None:
        """It was cut off, not dead: its later changes are not all that it has."""
        first = await one.set_users("a", 1, lease=0.1)
        assert first.is_forgotten
        assert first.is_settled
        diff = await one.set_users("b", 2, lease=0.1)
        assert not diff.is_forgotten
        await _expire(diff, 0.1)
        assert (await other.sync()).left == [("a", 1), ("b", 2)]
        diff = await one.sync()
        assert diff.is_forgotten
        assert diff.memory == first.memory, "memory must stay the same while nothing is lost."
        assert diff.next_end <= LEASE

    # Joins and leaves alternate, and the last one tells whether a user is there.

    @between_processes
    async def test_user_who_returns_in_the_call_that_removes_their_dead_process_neither_joins_nor_leaves(
        self, dying: Process, living: Process
    ) -> None:
        """Nothing happened in between that anyone was told of."""
        diff = await dying.set_users("a", 1, 2, lease=0.05)
        dying.broker.detach(dying.receiver)
        await _expire(diff, 0.05)
        diff = await living.set_users("a", 1)
        assert (diff.joined, diff.left) == ([], [("a", 2)])
        diff = await living.set_users("a")
        assert (diff.joined, diff.left) == ([], [("a", 1)])

    @between_processes
    async def test_user_of_two_processes_that_died_together_leaves_once(self, one: Process, other: Process) -> None:
        """Both are removed in one call."""
        diffs = [await each.set_users("a", 1, lease=0.05) for each in (one, other)]
        for process in (one, other):
            process.broker.detach(process.receiver)
        await asyncio.sleep(max(diff.next_end for diff in diffs) + 0.05)
        third = self.start()
        diff = await third.set_users("b", 1)
        assert (diff.joined, diff.left) == ([("b", 1)], [("a", 1)])

    @between_processes
    async def test_new_store_tells_a_join_in_the_very_call(self, one: Process, other: Process) -> None:
        """What no process knew before has lost nothing: there is nothing to wait for."""
        first = await one.tell("a", 1)
        assert (first.joined, first.is_settled) == ([("a", 1)], True)
        diff = await other.tell("a", 1, 2)
        assert (diff.joined, diff.is_settled, diff.memory) == ([("a", 2)], True, first.memory)
        assert (await one.tell("a")).left == []
        assert (await other.tell("a")).left == [("a", 1), ("a", 2)]

    @between_processes
    async def test_store_that_lost_its_memory_waits_from_when_a_process_says_so(
        self, one: Process, other: Process
    ) -> None:
        """Only a process from before can prove it: one that began later is told at once until then."""
        if not self.can_forget:
            return
        before = await one.tell("a", 1)
        await other.tell("a", 2)
        await apart(self.forget)
        new = self.start()
        diff = await new.tell("a", 3)
        assert (diff.joined, diff.is_settled) == ([("a", 3)], True)
        assert diff.memory != before.memory, "memory must change when it is lost."
        # Already for what this call changes; and a second proof is none of a second loss.
        waiting = [await one.sync(one.receiver.set_users("a", 4), 1.0), await other.tell("a"), await new.tell("a")]
        assert [(diff.joined, diff.left, diff.is_settled) for diff in waiting] == [([], [], False)] * 3
        assert waiting[0].next_end <= 1.0
        await asyncio.sleep(waiting[0].next_end)
        assert (await new.sync()).is_settled

    @between_processes
    async def test_store_that_lost_its_memory_tells_nobody_again(self, one: Process, other: Process) -> None:
        """Joins and leaves wait until each process has told what it has, for a lease."""
        if not self.can_forget:
            return
        before = await one.tell("a", 1, 2)
        assert (await other.tell("a", 2, 3)).joined == [("a", 3)]
        await apart(self.forget)
        waiting = await one.tell(lease=1.0)
        assert not waiting.is_settled
        memory = waiting.memory
        assert memory != before.memory, "memory must change when it is lost."
        new = self.start()
        # Two leaves: of a user who is still with `other`, and of one who has the new process too.
        diffs = [waiting, await new.tell("a", 1, 4), await one.tell("a")]
        diffs += [await other.tell("a", 2, 3), await other.tell("a", 2)]
        assert [(diff.joined, diff.left, diff.memory) for diff in diffs] == [([], [], memory)] * 5
        assert sorted(await other.broker.ausers("a")) == [1, 2, 4]
        await asyncio.sleep(waiting.next_end)
        diff = await self.settle()
        assert (diff.joined, diff.left) == ([("a", 4)], [("a", 3)])
        diffs = [await each.tell() for each in (one, other, new)]
        assert [(diff.joined, diff.left, diff.is_settled) for diff in diffs] == [([], [], True)] * 3

    # What is known of a user beside the number of connections.

    @between_processes
    async def test_user_of_several_processes_is_one_record(self, one: Process, other: Process) -> None:
        """Whatever a store keeps: by default, the connections alone."""
        await one.set_users("a", 1, 1)
        await other.set_users("a", 2, 1)
        records = {each.user_id: each for each in await one.broker.apresent("a")}
        assert {user: (each.tabs, each.away) for user, each in records.items()} == {1: (3, False), 2: (1, False)}
        assert await self.make_broker().apresent("empty") == []

    @with_parts
    async def test_what_a_process_says_of_a_user_is_kept(self, one: Process, other: Process) -> None:
        """Its tabs, its metadata, and since when: types survive."""
        user = UUID(int=7)
        meta: dict[str, tuple[float, Any]] = {
            "page": (5.5, {"name": "\u00fc \u2028 </script>", "numbers": [1, 2.5, None]})
        }
        part = UserPart(user, 1e9 + 0.125, False, ("one", "two"), ("three",), 2, meta)
        one.receiver.said["a", user] = part
        await one.set_users("a", user, user, user, user)
        assert await apart(lambda: list(_store(other).parts("a"))) == [part]
        assert await apart(lambda: list(_store(other).remote_parts(other.receiver, "a"))) == [part]
        assert await apart(lambda: list(_store(one).remote_parts(one.receiver, "a"))) == []
        assert await other.broker.ausers("a") == [user] * 4
        await one.set_users("a")
        assert await apart(lambda: list(_store(other).parts("a"))) == []

    @with_parts
    async def test_user_is_away_when_no_process_has_them_here(self, one: Process, other: Process) -> None:
        """Each change is told once, and only of users who have joined and have not left."""

        async def told(process: Process, connections: int, *, away: bool = False) -> list[str]:
            process.receiver.said["a", 1] = UserPart(1, 1e9, away)
            diff = await process.sync([PresenceChange("a", None, 0), PresenceChange("a", 1, connections)])
            names = [name for name in ("joined", "left", "away", "back") if getattr(diff, name)]
            assert all(list(getattr(diff, name)) == [("a", 1)] for name in names)
            return names

        await other.subscribe("a")
        assert await told(one, 1) == ["joined"]
        other.receiver.heard.clear()
        assert await told(one, 0, away=True) == ["away"]
        await other.receiver.hears("a", PRESENCE)
        assert await told(one, 0, away=True) == []
        assert await told(other, 1) == ["back"]
        assert await told(one, 1) == []
        assert await told(other, 0, away=True) == []
        assert await told(one, 0, away=True) == ["away"]
        assert await told(one, GONE) == []
        assert await told(other, GONE) == ["left"]
        # A user who comes is not back, whatever the process says.
        assert await told(one, 0, away=True) == ["joined"]

    @with_parts
    async def test_user_has_been_there_since_the_first_of_their_processes(self, one: Process, other: Process) -> None:
        """A page that is opened anew may be another process's; its user did not come a moment ago."""
        for process, since in ((one, 1e9), (other, 2e9)):
            process.receiver.said["a", 1] = UserPart(1, since)
        assert not (await one.set_users("a", 1)).since
        diff = await other.set_users("a", 1)
        assert list(diff.since) == [("a", 1, 1e9)]
        await one.set_users("a")
        [part] = await apart(lambda: list(_store(one).parts("a")))
        assert part.since == 1e9

    @with_parts
    async def test_dead_process_has_nobody_away(self, dying: Process, living: Process) -> None:
        """What it said of them goes with its lease."""
        dying.receiver.said["a", 1] = UserPart(1, 1e9, True)
        diff = await dying.set_users("a", 1, 2, lease=0.3)
        dying.broker.detach(dying.receiver)
        await living.set_users("a", 2)
        await _expire(diff, 0.3)
        assert [part.user for part in await apart(lambda: list(_store(living).parts("a")))] == [2]
        diff = await living.sync()
        assert (diff.left, list(diff.away), list(diff.back)) == ([("a", 1)], [], [])

    @with_parts
    async def test_every_process_hears_of_a_tab_that_is_closed(self, one: Process, other: Process) -> None:
        """The page's word reaches any of them, or one that serves no stream."""
        for process in (one, other):
            await process.subscribe("a")
        await apart(self.make_broker().presence.tell_closed, UUID(int=7), "a-tab")  # type: ignore[union-attr]
        for process in (one, other):
            told = process.receiver.closed_tabs
            await process.receiver.until(lambda told=told: told, "No tab was closed")  # type: ignore[misc]
            assert told == [(UUID(int=7), "a-tab")]

    @between_processes
    async def test_joins_and_leaves_alternate_whatever_happens(self, one: Process, other: Process) -> None:
        """Random walks: users come and go, processes begin and die, several at once, and the store forgets."""
        for process in (one, other):
            process.broker.detach(process.receiver)
        for seed in range(WALKS):
            await Walk(self, seed).run()

    @on_loop
    async def test_position_moves_on_with_events_of_other_channels(self) -> None:
        """A client of quiet channels moves on with the others, so that its cursor does not grow old."""
        process = self.start()
        await process.subscribe("a")
        last = await process.publish("a")
        newest = await apart(publish, self.make_broker(), "quiet")
        await process.sync()
        await process.receiver.hears("a", last)
        if process.broker.presence is not None:
            await process.receiver.reaches(newest)


def _store(process: Process) -> PresenceStore:
    assert process.broker.presence is not None
    return process.broker.presence


async def _expire(diff: PresenceDiff, lease: float) -> None:
    """Wait for the end of the next lease, which is this one."""
    assert 0 < diff.next_end <= lease, f"next_end must be within the lease of {lease} s, not {diff.next_end}."
    await asyncio.sleep(diff.next_end)
