"""A random walk through what may happen to presence, and what must be true whatever it was."""

import asyncio
import random
from collections.abc import Iterable
from typing import Any

from ...brokers import PresenceDiff
from ...brokers.ledger import Ledger
from .cluster import Cluster, Process, apart

WALKS = 2
STEPS = 40
# Seconds. A process whose lease is this short is dead when it matters; a store that forgot settles after the second.
DEATH, SETTLES = 0.002, 0.2

CHANNELS = ("a", "b")

Pair = tuple[str, Any]


class Account:
    """Whom the cluster was told to be online, each with a channel: joins and leaves must alternate.

    What nothing can prove is left out. A store that forgets takes with it the users of processes that have died, or die
    before they tell it again; and one that has settled meanwhile did not wait for a process silent for that long. Until
    the first process from before has spoken, others are told at once of users who are online with those from before.
    """

    def __init__(self) -> None:
        self.told: set[Pair] = set()
        # What processes knew that have not told it to a store that forgot, and what others have told it.
        self._unheard: list[Ledger] = []
        self._heard: set[Pair] = set()
        # The processes from before that moment, until the first of them has spoken.
        self._silent: list[Ledger] = []

    def note(self, diff: PresenceDiff) -> None:
        """Note a store's answer; raises AssertionError for a join or a leave too many."""
        joined, left = {*diff.joined}, {*diff.left}
        assert len(joined | left) == len(diff.joined + diff.left), f"Told twice: {diff}"
        if diff.is_settled and not self._silent:
            self.told -= _known(self._unheard) - self._heard
        self._heard = (self._heard | joined) - left
        if self._silent:
            elsewhere = _known(self._unheard)
            joined, left = joined - elsewhere, left - elsewhere
        assert not self.told & joined, f"Joined without having left: {self.told & joined}"
        assert self.told >= left, f"Left without having joined: {left - self.told}"
        self.told = (self.told | joined) - left

    def forget(self, living: Iterable[Ledger]) -> None:
        """Note that the store has forgotten everything."""
        self._silent = [ledger for ledger in living if ledger.memory is not None]
        self._unheard, self._heard = [ledger for ledger in self._silent if ledger.known()], set()
        self.told = _known(self._unheard)

    def speak(self, ledger: Ledger) -> bool:
        """Note that a process is about to tell the store anything; tell whether it is the first word from before."""
        if ledger not in self._silent:
            return False
        self._silent = []
        return True

    def hear(self, ledger: Ledger) -> None:
        """Note that a process is about to tell everything."""
        if ledger in self._unheard:
            self._unheard.remove(ledger)
            self._heard |= ledger.known()
            self.told |= ledger.known()

    def bury(self, ledger: Ledger) -> bool:
        """Note that a process has died; tell whether the store knew of it."""
        is_silent = ledger in self._silent
        if is_silent:
            self._silent.remove(ledger)
        if ledger not in self._unheard:
            return not is_silent
        self._unheard.remove(ledger)
        self.told -= ledger.known() - self._heard - _known(self._unheard)
        return False


def _known(ledgers: Iterable[Ledger]) -> set[Pair]:
    return {pair for ledger in ledgers for pair in ledger.known()}


class Walk:
    """One walk over the processes of a cluster."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._dice = random.Random(seed)
        self._processes: list[Process] = []
        self._account = Account()

    async def run(self) -> None:
        """Walk; raises AssertionError at a join or a leave too many, and at the end for one that is missing."""
        steps = [self._set_users] * 8 + [self._start, self._die, self._die_together, self._settle]
        if self._cluster.can_forget:
            steps.append(self._forget)
        for _ in range(STEPS):
            await self._dice.choice(steps)()
        await self._rest()
        for process in self._processes:
            for channel in CHANNELS:
                await self._tell(process, channel)
            process.broker.detach(process.receiver)
        assert not self._account.told, f"Nobody was told that they left: {self._account.told}"

    async def _set_users(self) -> None:
        if self._processes:
            users = self._dice.sample([1, 2, 3], self._dice.randint(0, 3))
            await self._tell(self._dice.choice(self._processes), self._dice.choice(CHANNELS), *users)

    async def _start(self) -> None:
        self._processes.append(self._cluster.start())

    async def _die(self, count: int = 1) -> None:
        for process in self._processes[:count]:
            self._processes.remove(process)
            if self._account.bury(process.ledger):
                self._account.note(await process.sync(lease=DEATH))
            process.broker.detach(process.receiver)
        await asyncio.sleep(2 * DEATH)

    async def _die_together(self) -> None:
        await self._die(2)

    async def _forget(self) -> None:
        if self._dice.random() < 0.5:
            await self._rest()
        from_before = [process for process in self._processes if process.ledger.memory is not None]
        if not from_before:
            return
        await apart(self._cluster.forget)
        self._account.forget(process.ledger for process in self._processes)
        if self._dice.random() < 0.5:
            await self._start()
            await self._tell(self._processes[-1], self._dice.choice(CHANNELS), 1, 2)
        first = self._dice.choice(from_before)
        self._account.speak(first.ledger)
        diff = await first.sync(lease=SETTLES)
        assert not diff.is_settled, "A process from before the loss has spoken: joins and leaves must wait."
        self._account.note(diff)

    async def _settle(self) -> None:
        self._account.note(await self._cluster.settle(SETTLES))

    async def _rest(self) -> None:
        """Have every process tell what it has, before and after the store settles; then the account must be right."""
        for step in (self._settle, None):
            for process in self._processes:
                await self._tell(process)
            if step is not None:
                await step()
        users = {(name, user) for each in self._processes for name in CHANNELS for user in each.receiver.users(name)}
        assert self._account.told == users, f"{users} are online, but the cluster was told of {self._account.told}"
        assert _known(process.ledger for process in self._processes) == users

    async def _tell(self, process: Process, channel: str = "", *users: Any) -> None:
        self._account.speak(process.ledger)
        self._account.hear(process.ledger)
        self._account.note(await process.tell())
        self._account.note(await process.tell(channel, *users))
