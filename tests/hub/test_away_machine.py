"""Whatever happens to tabs and processes: the cluster is told who is here, away and gone, each change once."""

from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ds_broadcaster import signals
from ds_broadcaster.brokers import LEASE, Command
from ds_broadcaster.conf import History, Settings
from ds_broadcaster.hub.channels import Channels
from ds_broadcaster.hub.presence import Presence
from ds_broadcaster.present import merged
from tests.fakes import FACTOR, SharedPresence, VirtualLoop

GRACE, AWAY = 0.5, 60.0
USERS, TABS = (1, 2), 3
NAMES = {signals.user_joined: "joined", signals.user_left: "left", signals.user_away: "away", signals.user_back: "back"}
# What may be told of a user, and how the user is on the channel then.
NEXT = {
    ("gone", "joined"): "here",
    ("here", "away"): "away",
    ("away", "back"): "here",
    ("here", "left"): "gone",
    ("away", "left"): "gone",
}


class Connection(SimpleNamespace):
    """A stream, as presence sees it."""

    __hash__ = object.__hash__

    def end(self, why, *, clean, until):
        pass


class Host:
    """A process's hub, with its presence alone."""

    def __init__(self, machine, name):
        self.process, self.machine = name, machine
        self.connections = []

        async def subscribe(channel):
            return 0

        async def unsubscribe(channel):
            pass

        loop = machine.loop
        self.channels = Channels(
            loop, History(), {}, subscribe=subscribe, unsubscribe=unsubscribe, floor=lambda name: 0
        )
        self.presence = Presence(
            loop,
            self.channels,
            SimpleNamespace(send=machine.hear),
            Settings(presence_grace=GRACE, presence_away=AWAY),
            receiver=self,
            store=machine.store,
            connections_of=lambda user: [each for each in self.connections if each.user_id == user],
            close=self.close,
        )

    def part(self, channel, user):
        return self.presence.part(channel, user)

    def open(self, user, tab):
        channel = self.channels.get("room")
        connection = Connection(
            user_id=user, tab=tab, element="stream", meta=None, is_present=True, channels=(channel,), cursor=0
        )
        self.connections.append(connection)
        channel.connections[connection] = None
        self.presence.came(channel, connection)

    def close(self, connection, *, at_once=False):
        self.connections.remove(connection)
        for channel in connection.channels:
            del channel.connections[connection]
            self.presence.went(channel, connection, at_once=at_once)
            self.channels.retire(channel)

    def obey(self, command):
        channel = self.channels.find("room")
        if channel is not None:
            self.presence.forget_hidden(channel, command)
            for connection in [each for each in self.connections if command.concerns(each.user_id)]:
                self.close(connection, at_once=True)
            self.presence.dismiss(channel, command)
            self.channels.retire(channel)

    def has(self, tab):
        return next((each for each in self.connections if each.tab == tab), None)


class AwayMachine(RuleBasedStateMachine):
    """Tabs of users open, hide, are shown in another process, reload and close; processes are killed."""

    @initialize()
    def begin(self):
        self.loop = VirtualLoop()
        self.store = SharedPresence(self.loop.time)
        self.hosts, self.count = [], 0
        # What was told of each user.
        self.told = dict.fromkeys(USERS, "gone")
        self.events, self.failures = [], []
        # The model: when a host gives up a hidden tab.
        self.hidden = {}
        for _ in range(2):
            self.start()

    def hear(self, signal, channel, user):
        name = NAMES[signal]
        self.events.append((user, name))
        if (self.told[user], name) not in NEXT:
            self.failures.append(f"{user} {name} while {self.told[user]}")
        self.told[user] = NEXT.get((self.told[user], name), self.told[user])

    @invariant()
    def changes_follow_each_other(self):
        assert not self.failures

    some = st.integers(0, 10)
    tabs = st.sampled_from([f"tab-{number}" for number in range(TABS)])

    def host(self, number):
        return self.hosts[number % len(self.hosts)]

    @staticmethod
    def user_of(tab):
        return USERS[int(tab[-1]) % len(USERS)]

    def opened(self, tab):
        """Return the host that has the tab's stream, and the stream."""
        return next(((host, host.has(tab)) for host in self.hosts if host.has(tab)), None)

    @precondition(lambda self: len(self.hosts) < 4)
    @rule()
    def start(self):
        self.hosts.append(Host(self, f"process-{self.count}"))
        self.count += 1

    def show(self, tab, number):
        if self.opened(tab) is None:
            host = self.host(number)
            host.open(self.user_of(tab), tab)
            self.hidden.pop((host, tab), None)

    def hide(self, tab):
        if found := self.opened(tab):
            host, connection = found
            host.close(connection)
            self.hidden[host, tab] = self.loop.time() + GRACE + AWAY

    times = st.sampled_from([0, 0.06, GRACE + 0.1, 3, LEASE, AWAY])

    @rule(tab=tabs, number=some, seconds=times)
    def show_or_hide(self, tab, number, seconds):
        if self.opened(tab) is None:
            self.show(tab, number)
        else:
            self.hide(tab)
        self.wait(seconds)

    @rule(tab=tabs, is_word_first=st.booleans(), seconds=st.sampled_from([0, 0.1, 1]))
    def close_page(self, tab, is_word_first, seconds):
        """The page's word and the end of its stream come in any order. The word reaches every process in the end."""
        if is_word_first:
            self.say_closed(tab)
        else:
            self.hide(tab)
        self.wait(seconds)
        if is_word_first:
            self.hide(tab)
        else:
            self.say_closed(tab)

    def say_closed(self, tab):
        for host in self.hosts:
            host.presence.close_tab(self.user_of(tab), tab)
            self.hidden.pop((host, tab), None)

    @rule(tab=tabs, number=some, seconds=st.sampled_from([0, 0.1, 0.3]))
    def reload(self, tab, number, seconds):
        """No user leaves for that, nor is away, whether or not the page was in sight."""
        if self.opened(tab) or any(each == tab for _, each in self.hidden):
            before, was_open = len(self.events), self.opened(tab) is not None
            self.close_page(tab, True, 0)
            self.wait(seconds)
            self.show(tab, number)
            self.wait(0.2)
            told = [name for user, name in self.events[before:] if user == self.user_of(tab)]
            assert "left" not in told
            assert "away" not in told or not was_open

    @rule(user=st.sampled_from(USERS), seconds=times)
    def disconnect(self, user, seconds=0):
        for host in self.hosts:
            host.obey(Command("disconnect", user))
        self.hidden = {key: end for key, end in self.hidden.items() if self.user_of(key[1]) != user}
        self.wait(seconds)

    @precondition(lambda self: len(self.hosts) > 1)
    @rule(number=some, seconds=times)
    def kill_host(self, number, seconds):
        host = self.hosts.pop(number % len(self.hosts))
        if host.presence._sync._task is not None:
            host.presence._sync._task.cancel()
        for channel in host.channels:
            for timer in (channel.expiry, channel.render, host.presence._hidden._timer):
                if timer is not None:
                    timer.cancel()
        self.hidden = {key: end for key, end in self.hidden.items() if key[0] is not host}
        self.wait(seconds)

    def wait(self, seconds):
        self.loop.advance(seconds, step=0.25)
        now = self.loop.time()
        self.hidden = {key: end for key, end in self.hidden.items() if end > now}

    @rule()
    def rest(self):
        """When graces and leases are over, what was told is what is there, and each process knows it."""
        if not any(host.connections for host in self.hosts):
            self.hosts[0].open(9, "witness")
            self.told.setdefault(9, "gone")
        self.wait(LEASE + 2)
        now = self.loop.time()
        if any(end < now + 1 for end in self.hidden.values()):
            self.wait(2)
        here = {each.user_id for host in self.hosts for each in host.connections}
        away = {self.user_of(tab) for _, tab in self.hidden} - here
        expected = dict.fromkeys(here, "here") | dict.fromkeys(away, "away")
        assert {user: how for user, how in self.told.items() if how != "gone"} == expected
        for host in self.hosts:
            present = merged([*host.presence.parts("room"), *self.store.remote_parts(host, "room")])
            assert {each.user_id: "away" if each.away else "here" for each in present} == expected
            for each in present:
                open_tabs = {c.tab for h in self.hosts for c in h.connections if c.user_id == each.user_id}
                hidden_tabs = {tab for _, tab in self.hidden if self.user_of(tab) == each.user_id}
                assert each.user_id == 9 or each.tabs == len(open_tabs | hidden_tabs)
        if (witness := self.hosts[0].has("witness")) is not None:
            self.hosts[0].close(witness, at_once=True)
            self.wait(1)

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            self.rest()
            for user in USERS:
                self.disconnect(user)
            self.rest()
            assert all(host.presence.is_idle() for host in self.hosts)
            assert not self.failures
        finally:
            self.loop.close_down()
        assert not self.loop.errors


TestAway = AwayMachine.TestCase
TestAway.settings = settings(max_examples=100 * FACTOR, stateful_step_count=20, deadline=None)
