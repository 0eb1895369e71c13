"""Pages that are refreshed and patched at once end with what is true; no older picture covers a newer one."""

import asyncio
import re
from contextlib import ExitStack
from typing import NamedTuple
from unittest.mock import patch

import hypothesis.strategies as st
from django.test import override_settings
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ds_broadcaster.hub.grant import Audience
from ds_broadcaster.hub.refreshes import Rendered
from ds_broadcaster.ids import parse_id
from ds_broadcaster.sse import OWING, Facts, encode_elements, encode_fragment
from tests.fakes import FACTOR, KINDS, FakeClient, SlowThreads, virtual_world

CHANNELS = ("room", "hall")
AUDIENCES = (None, "a", "b")
SETTINGS = {
    # So small that a client which stands still loses its place, unless its log is held.
    "DS_BROADCASTER_HISTORY": {"max_events": 6, "max_age": 1000},
    "DS_BROADCASTER_HEARTBEAT_INTERVAL": 0.5,
    "DS_BROADCASTER_REFRESH_INTERVAL": 2,
}
# One render at a time, so that others wait; each ends, so that no page stays stale.
PATCHES = {
    "ds_broadcaster.hub.replay.READ_BYTES": 100,
    "ds_broadcaster.log.HELD": 100,
    "ds_broadcaster.hub.refreshes.PARALLEL": 1,
    "ds_broadcaster.hub.refreshes.LONGEST_PATIENCE": 10_000,
}
PART = re.compile(r"<p id=(\w+)( data-s)?>(\d+)</p>")

channels = st.sampled_from(CHANNELS)
audiences = st.sampled_from(AUDIENCES)
delays = st.sampled_from([0, 1, 6])
kinds = st.lists(st.sampled_from(["fragment", "refresh", "refresh", "template", "scribble", "same"]), max_size=3)


class Due(NamedTuple):
    """The newest number that a client has to show: told at this sequence, by an event of this kind."""

    number: int
    told_at: int
    kind: str


class RefreshMachine(RuleBasedStateMachine):
    """What is true of each channel is a number; fragments tell the new one, refreshes tell that there is one.

    A page has a number and a note of each channel, and the audience for which it was rendered. An id from the sequence
    on at which something was told says that the page shows it.
    """

    def __init__(self):
        super().__init__()
        self.world = ExitStack()
        self.world.enter_context(override_settings(**SETTINGS))
        for name, value in PATCHES.items():
            self.world.enter_context(patch(name, value))
        world = self.world.enter_context(
            virtual_world(
                threads=SlowThreads(lambda: self.seconds),
                render_own=self._render_own,
                render_event=self._render_event,
                still_allowed=self._still_allowed,
            )
        )
        self.loop, self.broadcaster, self.broker = world.loop, world.broadcast, world.broker
        self.true = dict.fromkeys(CHANNELS, 0)
        self.seconds = 0
        self.clients = []
        self.rendering = set()
        self.numbers = iter(range(1, 1_000_000))
        self.tabs = iter(range(1_000_000))
        self.hubs = []

    # What pages show.

    def _snapshot(self, audience=None):
        parts = "".join(f"<p id={name} data-s>{self.true[name]}</p><p id=note_{name} data-s>0</p>" for name in CHANNELS)
        return f"{parts}<p id=who data-s>{AUDIENCES.index(audience)}</p>"

    async def _still_allowed(self, connection):
        return True

    async def _render_own(self, connection, refreshed):
        assert connection not in self.rendering, "two renders for one connection"
        self.rendering.add(connection)
        try:
            shown = encode_elements(self._snapshot())
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return Rendered(shown)
        finally:
            self.rendering.discard(connection)

    def _render_event(self, payload, audience):
        name = payload.decode().strip()
        number, who = self.true[name], AUDIENCES.index(audience)
        return encode_elements(f"<p id={name}>{number}</p><p id=event_for data-s>{who}</p>")

    def _audience(self, value):
        if value is None:
            return None
        return Audience(value, ("view", value), lambda: encode_fragment(self._snapshot(value)))

    # Changes.

    def _tell(self, channel, kind, exclude=None):
        sequence = self.broker.heard() + 1
        if kind == "scribble":  # So that only a snapshot sets the page right.
            self.broadcaster(channel, f"<p id=note_{channel}>1</p>")
            return
        if kind == "same":
            # Which takes the place of a refresh that the log has.
            for client in self.clients:
                if channel in client.due and client.due[channel].kind == "refresh":
                    client.due[channel] = client.due[channel]._replace(told_at=sequence)
            self.broadcaster.refresh(channel)
            return
        number = self.true[channel] = next(self.numbers)
        for client in self.clients:
            if client.tab != exclude and channel in client.due:
                client.due[channel] = Due(number, sequence, kind)
        if kind == "fragment":
            self.broadcaster(channel, f"<p id={channel}>{number}</p>", exclude=exclude)
        elif kind == "refresh":
            self.broadcaster.refresh(channel, exclude=exclude)
        else:
            facts = Facts(exclude=exclude, is_refresh=True, is_audience=True)
            self.broker.publish(channel, channel.encode() + b"\n", facts)

    @rule(channel=channels, told=kinds, data=st.data())
    def tell(self, channel, told, data):
        exclude = data.draw(st.sampled_from([None, None, *(client.tab for client in self.clients)]))
        for kind in told:
            self._tell(channel, kind, exclude)
            self.loop.turn()

    @rule(channel=channels, count=st.integers(1, 30), transient=st.booleans())
    def say_something_else(self, channel, count, transient):
        for _ in range(count):
            self.broadcaster(channel, "<b id=other></b>", transient=transient)

    @rule(seconds=delays)
    def take(self, seconds):
        self.seconds = seconds

    # Clients.

    @rule(
        names=st.lists(channels, min_size=1, max_size=2, unique=True),
        kind=st.sampled_from(KINDS),
        audience=audiences,
        meanwhile=kinds,
    )
    def open(self, names, kind, audience, meanwhile):
        page = {name: self.true[name] for name in names} | {f"note_{name}": 0 for name in names}
        page["who"] = AUDIENCES.index(audience)
        due = {name: Due(self.true[name], self.broker.heard(), "page") for name in names}
        tab = f"tab-number-{next(self.tabs)}"
        self._open(tab, names, kind, audience, self.broadcaster.cursor(), page, due, meanwhile)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), meanwhile=kinds)
    def leave_and_return(self, data, meanwhile):
        client = data.draw(st.sampled_from(self.clients))
        self._look()
        client.drain()
        client.vanish()
        self.loop.turn(2)
        self._return(client, meanwhile)

    def _return(self, client, meanwhile=()):
        self._show(client)
        self.clients.remove(client)
        # Nothing in the log tells of its audience.
        client.page["who"] = AUDIENCES.index(client.audience)
        # A client that never heard of a cursor returns to the beginning, as a page does with that of its rendering.
        cursor = client.last_id or client.began_at
        options = client.kind, client.audience, cursor, client.page, client.due, meanwhile
        self._open(client.tab, client.names, *options)

    def _open(self, tab, names, kind, audience, cursor, page, due, meanwhile):
        def before_opening():
            for kind in meanwhile:
                self._tell(names[0], kind)

        client = FakeClient(
            self.loop,
            self.broadcaster,
            names,
            1,
            kind=kind,
            cursor=cursor,
            query=f'datastar={{"broadcastTab":"{tab}"}}'.encode(),
            before_opening=before_opening if meanwhile else None,
            snapshot_callback=lambda request, name: self._snapshot(),
            audience=self._audience(audience),
        )
        client.tab, client.names, client.audience, client.began_at = tab, names, audience, cursor
        client.page, client.due, client.shown = dict(page), dict(due), 0
        client.views = {AUDIENCES.index(audience)}
        self.clients.append(client)
        self.loop.turn(5 if meanwhile else 3)
        return client

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), audience=audiences)
    def see_as(self, data, audience):
        """Find out, by a re-check, that a client belongs to another audience."""
        client = data.draw(st.sampled_from(self.clients))
        self.loop.settle()
        self._look()
        hub = next(iter(self.broadcaster.hubs()))
        for connection in hub._connections.all():
            if connection.tab == client.tab and client.end is None and not client.stalled:
                client.audience, client.views = audience, {AUDIENCES.index(audience)}
                connection.see_as(self._audience(audience))

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def stall_or_drain(self, data):
        client = data.draw(st.sampled_from(self.clients))
        client.drain() if client.stalled else client.stall()

    @precondition(lambda self: len(self.clients) > 2)
    @rule()
    def restart(self):
        """Have the server end, and all clients return to another."""
        (hub,) = self.broadcaster.hubs()
        self.hubs.append(hub)
        clients = list(self.clients)
        hub.shutdown()
        for client in clients:
            client.was_hindered = True
        self.loop.advance(1)
        self._look()
        self.broadcaster._engine.hubs.forget()
        for client in clients:
            assert client.end is not None
            self._return(client)

    # Time.

    @rule(count=st.integers(1, 3))
    def turn(self, count):
        self.loop.turn(count)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2]))
    def wait(self, seconds):
        self.loop.advance(seconds, 0.1)

    # What is right.

    def _show(self, client):
        texts = client.texts
        for text in texts[client.shown :]:
            for name, is_snapshot, number in PART.findall(text):
                number = int(number)
                if name in ("who", "event_for"):
                    assert number in client.views, "what another audience sees"
                elif name in client.due and is_snapshot:
                    assert number >= client.page[name], f"an older picture of {name} covers a newer one"
                if name in client.page:
                    client.page[name] = number
        client.shown = len(texts)

    @invariant()
    def _look(self):
        for client in self.clients:
            self._show(client)
            # What a stream relies on may be gone when it opens.
            is_right = client.end is None or client.was_hindered or not client.frames
            assert is_right, "a client that keeps up lost its stream"
            if not client.last_id or client.last_id.endswith(OWING):
                continue
            _, sequence = parse_id(client.last_id)
            for name, due in client.due.items():
                shows = client.page[name] >= due.number
                assert shows or sequence < due.told_at, "an id says that its page shows what it does not"

    def _come_to_rest(self):
        self.loop.advance(60)
        self._look()
        for client in list(self.clients):
            if client.end is not None:  # It fell behind.
                self._return(client)
        self.loop.advance(60)
        self._look()

    def teardown(self):
        self.seconds = 0
        for client in self.clients:
            client.drain()
        self._come_to_rest()
        for client in self.clients:
            assert client.end is None
            assert client.page["who"] == AUDIENCES.index(client.audience)
            for name, due in client.due.items():
                assert due.number <= client.page[name] <= self.true[name]
        for name in CHANNELS:
            self.broadcaster.refresh(name)
        self._come_to_rest()
        for client in self.clients:
            numbers = {name: self.true[name] for name in client.names}
            assert client.page == numbers | {f"note_{name}": 0 for name in client.names} | {"who": client.page["who"]}
            assert client.last_id == self.broadcaster.cursor()
        for channel in [each for hub in self.broadcaster.hubs() for each in hub.live()]:
            assert not channel.blocked
        for client in self.clients:
            client.vanish()
        self.loop.advance(20)
        assert all(hub.is_idle() for hub in [*self.broadcaster.hubs(), *self.hubs])
        self.world.close()


TestRefreshMachine = RefreshMachine.TestCase
TestRefreshMachine.settings = settings(max_examples=150 * FACTOR, stateful_step_count=30, deadline=None)
