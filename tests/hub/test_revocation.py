"""Whatever is said about a user or a channel from the moment a request comes in is obeyed, under every interleaving."""

import asyncio
from contextlib import ExitStack

import pytest
from django.test import override_settings
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ds_broadcaster.brokers import EVERYWHERE, Command
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.hub.admission import GRANT_AGE
from ds_broadcaster.hub.rechecks import LONGEST_PAUSE, SECOND_LOOK
from ds_broadcaster.streams.scope import ARRIVAL_KEY
from tests.fakes import FACTOR, FakeClient, virtual_world

USERS = (1, 2)
CHANNELS = ("a", "b")


class LateBroker(MemoryBroker):
    """The memory broker, as if its events and commands took their time to the hub, and none were known of before."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.on_their_way = []

    def heard(self):
        return 0

    def attach(self, receiver):
        self.hub = receiver
        super().attach(self)
        return self._sequence

    def detach(self, receiver):
        super().detach(self)

    def deliver(self, *item):
        self.on_their_way.append(item)

    async def athrottle(self):
        pass

    def throttle(self):
        pass

    def arrive(self):
        while self.on_their_way:
            self.hub.deliver(*self.on_their_way.pop(0))


class SteppedClient(FakeClient):
    """A request that waits before each of its steps: the check, the grant, the opening."""

    STEPS = ("check", "grant", "open")

    def __init__(self, machine, channels, user_id, **options):
        self.machine = machine
        self.gates = {step: asyncio.Event() for step in self.STEPS}
        self.allowed = None
        self.granted_at = self.opened_at = None
        # Whether everything that lets the user in was taken away, and word of it given, while the request waited.
        self.is_removed = False
        self.was_removed_before_opening = False
        super().__init__(machine.loop, machine.broadcaster, channels, user_id, **options)
        self.scope[ARRIVAL_KEY] = machine.broadcaster.opener._now()

    def step(self):
        for name in self.STEPS:
            if not self.gates[name].is_set():
                self.gates[name].set()
                return name
        return None

    async def _run_handed_off(self):
        await self._check()
        if self.allowed:
            await super()._run_handed_off()

    async def _run_plain(self):
        await self._check()
        if self.allowed:
            await super()._run_plain()

    async def _check(self):
        await self.gates["check"].wait()
        self.allowed = self.machine.is_allowed(self.user_id)
        await self.gates["grant"].wait()
        if not self.allowed:
            self.end = "refused"
        self.granted_at = self.loop.time()

    async def _pass_middleware(self):
        await self.gates["open"].wait()
        self.opened_at = self.loop.time()
        self.was_removed_before_opening = self.is_removed
        self.was_allowed_at_opening = self.machine.is_allowed(self.user_id)


class RevocationMachine(RuleBasedStateMachine):
    broker_class = MemoryBroker

    def __init__(self):
        super().__init__()
        self.world = ExitStack()
        world = self.world.enter_context(
            virtual_world(broker_class=self.broker_class, still_allowed=self._still_allowed)
        )
        self.loop, self.broadcaster, self.broker = world.loop, world.broadcast, world.broker
        self.members = set(USERS)
        self.sessions = set(USERS)
        self.clients = []
        self.before, self.after = 0, 0
        self.number = 0

    def is_allowed(self, user):
        return user in self.members and user in self.sessions

    async def _still_allowed(self, connection):
        await asyncio.sleep(self.before)
        allowed = self.is_allowed(connection.user_id)
        await asyncio.sleep(self.after)
        return allowed

    # Requests.

    @rule(
        channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=2, unique=True),
        user=st.sampled_from(USERS),
        kind=st.sampled_from(["driven", "task", "plain"]),
        back=st.none() | st.integers(0, 3),
    )
    def come_in(self, channels, user, kind, back):
        now = self.broker._sequence
        cursor = None if back is None else f"{self.broker.epoch}-{max(0, now - back)}"
        self.clients.append(SteppedClient(self, channels, user, kind=kind, cursor=cursor))
        note(f"client {len(self.clients) - 1}: {user} on {channels}")
        self.loop.turn(2)

    def _waiting(self):
        return [each for each in self.clients if each.end is None and not each.gates["open"].is_set()]

    @rule(
        user=st.sampled_from(USERS),
        kind=st.sampled_from(["driven", "task", "plain"]),
        seconds=st.sampled_from([0, 2.5, 3.5]),
    )
    def come_in_and_keep_the_grant_waiting(self, user, kind, seconds):
        self.come_in(["a"], user, kind, None)
        client = self.clients[-1]
        client.step(), client.step()
        self.loop.turn(3)
        self.loop.advance(seconds)

    @precondition(lambda self: self._waiting())
    @rule(data=st.data(), turns=st.integers(0, 6))
    def go_on(self, data, turns):
        client = data.draw(st.sampled_from(self._waiting()))
        note(f"client {self.clients.index(client)}: {client.step()}")
        self.loop.turn(turns)

    @rule(user=st.sampled_from(USERS), kind=st.sampled_from(["driven", "task", "plain"]))
    def come_in_during_a_logout(self, user, kind):
        self.log_out(user, 0.9)
        self.loop.advance(0.25)
        self.come_in(["a"], user, kind, None)
        while self.clients[-1].step():
            self.loop.turn(3)

    # What happens meanwhile.

    @rule(before=st.sampled_from([0, 0.3]), after=st.sampled_from([0, 0.3]))
    def let_checks_take_time(self, before, after):
        self.before, self.after = before, after

    @rule(user=st.sampled_from(USERS), seconds=st.sampled_from([0, 0.2, 0.9]))
    def log_out(self, user, seconds):
        """Django tells of a logout, and then ends the session."""
        self.broker.command(EVERYWHERE, Command("recheck", user))
        self.loop.call_later(seconds, self._end_session, user)

    def _end_session(self, user):
        self.sessions.discard(user)
        self._note_removal(lambda each: each.user_id == user)

    @rule(
        user=st.sampled_from(USERS),
        channel=st.sampled_from([*CHANNELS, EVERYWHERE]),
        verb=st.sampled_from(["recheck", "recheck all", "disconnect", "kill"]),
    )
    def remove(self, user, channel, verb):
        self.members.discard(user)
        if channel == EVERYWHERE:
            verb = "recheck"
        command = {
            "recheck": Command("recheck", user),
            "recheck all": Command("recheck"),
            "disconnect": Command("disconnect", user),
            "kill": Command("kill"),
        }[verb]
        self.broker.command(channel, command)
        self._note_removal(lambda each: each.user_id == user and (channel == EVERYWHERE or channel in each.channels))

    def _note_removal(self, concerns):
        for client in self.clients:
            client.is_removed = client.is_removed or concerns(client)

    @rule(user=st.sampled_from(USERS))
    def expire(self, user):
        """Nothing is said of a session that has grown old."""
        self.sessions.discard(user)

    @rule(user=st.sampled_from(USERS))
    def let_in_again(self, user):
        self.members.add(user)
        self.sessions.add(user)
        for client in self.clients:
            if client.user_id == user:
                # What it gets from now on it may have, until another removal.
                client.is_removed = client.was_removed_before_opening = False

    @rule(channel=st.sampled_from(CHANNELS))
    def publish(self, channel):
        self.number += 1
        self.broadcaster(channel, f"<p id=e{self.number}>")

    @rule(turns=st.integers(1, 5))
    def turn(self, turns):
        self.loop.turn(turns)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.5, GRANT_AGE + 0.5]))
    def wait(self, seconds):
        self.loop.advance(seconds, step=0.05)

    @precondition(lambda self: getattr(self.broker, "on_their_way", None))
    @rule()
    def arrive(self):
        self.broker.arrive()

    @rule()
    def come_to_rest(self):
        while waiting := self._waiting():
            waiting[0].step()
            self.loop.turn(3)
        if self.broker_class is LateBroker:
            self.broker.arrive()
        self.loop.advance(2 * LONGEST_PAUSE + SECOND_LOOK)
        for number, client in enumerate(self.clients):
            if client.is_removed:
                assert client.end is not None, f"client {number} was removed, and is here"
            if client.was_removed_before_opening and client.is_removed:
                assert not client.frames, f"client {number} was removed before it opened, and got something"
            is_late = client.opened_at is not None and client.opened_at - client.granted_at > GRANT_AGE + 0.1
            if is_late and not client.was_allowed_at_opening and not self.is_allowed(client.user_id):
                assert not client.frames, f"client {number} waited with its grant, and got something"
        # One that was never removed has its stream.
        for client in self.clients:
            if client.end == "refused":
                assert not client.allowed
        self.clients = [each for each in self.clients if each.end is None]

    def teardown(self):
        self.come_to_rest()
        self.world.close()


class LateRevocationMachine(RevocationMachine):
    broker_class = LateBroker


@pytest.mark.parametrize("machine", [RevocationMachine, LateRevocationMachine])
@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100_000, DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=None)
def test_what_is_said_of_a_stream_is_obeyed_whenever_it_is_said(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=100 * FACTOR, stateful_step_count=25, deadline=None, print_blob=True),
    )
