"""Whatever happens to hubs and to their presence store: joins and leaves alternate, and the last tells who is there."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ds_broadcaster.brokers import LEASE
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.hub.channels import Channels
from ds_broadcaster.hub.presence_sync import PresenceSync
from ds_broadcaster.testing.brokers.walk import Account
from tests.fakes import FACTOR, SharedPresence, VirtualLoop

GRACE = 0.5


class Process:
    """A hub's part in presence, with a name, as a store sees it."""

    def __init__(self, machine, name):
        self.process = name
        self.machine = machine
        self.slowness = 0.0
        self.events = []

        async def subscribe(channel):
            return 0

        async def unsubscribe(channel):
            pass

        loop = machine.loop
        self.channels = Channels(
            loop, History(), {}, subscribe=subscribe, unsubscribe=unsubscribe, floor=lambda name: 0
        )
        self.sync = PresenceSync(loop, self.channels, self.tell, LEASE, GRACE, on_diff=self.note)

    @property
    def ledger(self):
        return self.sync._ledger

    def note(self, diff):
        self.events += [("join", pair) for pair in diff.joined] + [("leave", pair) for pair in diff.left]

    async def tell(self, changes, lease, memory):
        await asyncio.sleep(self.slowness)
        if self.machine.is_away:
            raise BrokerUnavailable("It is away.")
        if self.machine.account.speak(self.ledger):
            self.machine.settles = self.machine.loop.time() + lease
        if self.ledger.is_behind:
            self.machine.account.hear(self.ledger)
        diff = await self.machine.store.sync(self, changes, lease, memory)
        self.machine.check(diff)
        self.machine.events += [("join", pair) for pair in diff.joined] + [("leave", pair) for pair in diff.left]
        return diff

    def users(self):
        return {(channel.name, user) for channel in self.channels for user in channel.roster.online()}

    def part(self, channel, user):
        return None

    def join(self, name, user):
        channel = self.channels.get(name)
        channel.roster.join(user, 0)
        self.sync.changed(channel, user)

    def leave(self, name, user):
        channel = self.channels.find(name)
        channel.roster.leave(user)
        self.sync.changed(channel, user)
        self.channels.retire(channel)


class PresenceMachine(RuleBasedStateMachine):
    """Hubs on one store: users come and go, hubs die and stop, are slow and cut off; the store is away and forgets."""

    def check(self, diff):
        try:
            assert diff.is_settled == (self.settles <= self.loop.time())
            self.account.note(diff)
        except AssertionError as error:  # Which a hub would take for one of the store's, and try again.
            self.failures.append(error)
            raise

    @invariant()
    def nothing_is_told_too_often(self):
        assert not self.failures

    @initialize()
    def begin(self):
        self.loop = VirtualLoop()
        self.store = SharedPresence(self.loop.time)
        self.is_away = False
        self.account = Account()
        # When joins and leaves are told again, after the first word of a process from before a loss.
        self.settles = 0
        self.processes = []
        self.started = []
        self.events = []
        self.failures = []

    @rule()
    def start(self):
        if len(self.processes) < 4:
            self.processes.append(Process(self, f"process-{len(self.started)}"))
            self.started.append(self.processes[-1])

    some = st.integers(0, 3)

    def chosen(self, number):
        return self.processes[number % len(self.processes)]

    has_process = precondition(lambda self: self.processes)

    @has_process
    @rule(number=some, channel=st.sampled_from("ab"), user=st.integers(1, 3))
    def join(self, number, channel, user):
        self.chosen(number).join(channel, user)

    @has_process
    @rule(number=some, data=st.data())
    def leave(self, number, data):
        process = self.chosen(number)
        if users := sorted(process.users()):
            process.leave(*data.draw(st.sampled_from(users)))

    @rule(number=some, data=st.data())
    @has_process
    def move(self, number, data):
        """Users go from one process to another, which may be the one that removes the first."""
        process = self.chosen(number)
        if users := sorted(process.users()):
            pair = data.draw(st.sampled_from(users))
            process.leave(*pair)
            self.chosen(number + 1).join(*pair)

    @has_process
    @rule(number=some, count=st.integers(1, 3))
    def die(self, number, count):
        for _ in range(min(count, len(self.processes))):
            process = self.processes.pop(number % len(self.processes))
            if process.sync._task is not None:
                process.sync._task.cancel()
            self.account.bury(process.ledger)

    @has_process
    @rule(number=some)
    def stop(self, number):
        process = self.processes.pop(number % len(self.processes))
        self.loop.run_until_complete(self._closed(process))
        self.account.bury(process.ledger)

    async def _closed(self, process):
        closing = self.loop.create_task(process.sync.close())
        while not closing.done():
            self.loop.clock += 0.01
            await asyncio.sleep(0)

    @has_process
    @rule(number=some, seconds=st.sampled_from([0, 0.02, 0.3, LEASE + 3]))
    def slow_down(self, number, seconds):
        self.chosen(number).slowness = seconds

    @rule(is_away=st.booleans())
    def lose_and_find(self, is_away):
        self.is_away = is_away

    @rule()
    def forget(self):
        self.store.forget()
        self.settles = 0
        self.account.forget(process.ledger for process in self.processes)

    @rule(seconds=st.sampled_from([0.01, 0.06, 1, LEASE / 3, LEASE]))
    def wait(self, seconds):
        self.loop.advance(seconds, step=min(seconds, 0.25))

    @rule()
    def rest(self):
        """When everything works again, the cluster knows who is there, if any process serves a stream."""
        self.is_away = False
        self.processes.append(witness := Process(self, f"witness-{len(self.started)}"))
        self.started.append(witness)
        witness.join("c", 9)
        for process in self.processes:
            process.slowness = 0
        # What is under way now, the leases of the dead, and a settling store's that begins only then.
        self.loop.advance(2 * LEASE + LEASE + 3 + LEASE)
        there = {pair for process in self.processes for pair in process.users()}
        assert self.account.told == there
        assert {pair for process in self.processes for pair in process.ledger.known()} == there
        witness.leave("c", 9)
        self.loop.advance(1)
        self.processes.remove(witness)
        witness.sync._task.cancel()

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            self.rest()
            told = [event for process in self.started for event in process.events]
            assert sorted(told) == sorted(self.events)
        finally:
            self.loop.close_down()
        assert not self.loop.errors
        assert not self.failures


TestPresence = PresenceMachine.TestCase
TestPresence.settings = settings(max_examples=100 * FACTOR, stateful_step_count=30, deadline=None)
