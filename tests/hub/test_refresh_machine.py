"""Pages that are refreshed and patched at once end with what is true; no older picture covers a newer one."""

import asyncio
import re
from contextlib import ExitStack
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ds_broadcaster.hub.grant import Audience
from ds_broadcaster.hub.refreshes import Rendered
from ds_broadcaster.sse import encode_elements, encode_fragment
from tests.fakes import FACTOR, KINDS, FakeClient, virtual_world

CHANNELS = ("room", "hall")
channels = st.sampled_from(CHANNELS)
PART = re.compile(r"<p id=(\w+)( data-s)?>(\d+)</p>")


class RefreshMachine(RuleBasedStateMachine):
    """What is true of each channel is a number; fragments tell the new one, refreshes tell that there is one."""

    def __init__(self):
        super().__init__()
        self.world = ExitStack()
        world = self.world.enter_context(virtual_world(render_own=self._render_own, still_allowed=self._still_allowed))
        self.loop, self.broadcaster = world.loop, world.broadcast
        self.world.enter_context(patch("ds_broadcaster.hub.replay.READ_BYTES", 100))
        self.world.enter_context(patch("ds_broadcaster.log.HELD", 100))
        self.true = dict.fromkeys(CHANNELS, 0)
        self.seconds = 0
        self.clients = []
        self.numbers = iter(range(1, 1_000_000))

    # What pages show.

    def _snapshot(self, names=CHANNELS):
        return "".join(f"<p id={name} data-s>{self.true[name]}</p>" for name in names)

    async def _still_allowed(self, connection):
        return True

    async def _render_own(self, connection, refreshed):
        shown = encode_elements(self._snapshot())
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return Rendered(shown)

    def _render_shared(self):
        return encode_fragment(self._snapshot())

    # Changes.

    @rule(channel=channels)
    def tell(self, channel):
        self.true[channel] = next(self.numbers)
        self.broadcaster(channel, f"<p id={channel}>{self.true[channel]}</p>")

    @rule(channel=channels)
    def refresh(self, channel):
        self.true[channel] = next(self.numbers)
        self.broadcaster.refresh(channel)

    @rule(channel=channels, count=st.integers(1, 30))
    def say_something_else(self, channel, count):
        for _ in range(count):
            self.broadcaster(channel, "<b id=other></b>")

    @rule(seconds=st.sampled_from([0, 0.25, 1, 6]))
    def take(self, seconds):
        self.seconds = seconds

    # Clients.

    @rule(
        names=st.lists(channels, min_size=1, max_size=2, unique=True),
        kind=st.sampled_from(KINDS),
        audience=st.sampled_from([None, "a", "b"]),
    )
    def open(self, names, kind, audience):
        self._open(names, kind, audience, None, {name: self.true[name] for name in names})

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave_and_return(self, data):
        client = data.draw(st.sampled_from(self.clients))
        self._look()
        client.drain()
        client.vanish()
        self.loop.turn(2)
        self._show(client)
        self.clients.remove(client)
        # A client that never heard of a cursor returns to the beginning, as a page does with that of its rendering.
        self._open(client.names, client.kind, client.audience, client.last_id or client.began_at, client.page)

    def _open(self, names, kind, audience, cursor, page):
        began_at = cursor or self.broadcaster.cursor()
        shared = None if audience is None else Audience(audience, audience, self._render_shared)
        client = FakeClient(
            self.loop,
            self.broadcaster,
            names,
            1,
            kind=kind,
            cursor=began_at,
            snapshot_callback=lambda request, name: self._snapshot([name]),
            audience=shared,
        )
        client.names, client.audience, client.page, client.began_at = names, audience, dict(page), began_at
        client.shown = 0
        self.clients.append(client)
        self.loop.turn(3)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def stall(self, data):
        data.draw(st.sampled_from(self.clients)).stall()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def drain(self, data):
        data.draw(st.sampled_from(self.clients)).drain()

    # Time.

    @rule(count=st.integers(1, 3))
    def turn(self, count):
        self.loop.turn(count)

    @rule(seconds=st.sampled_from([0.25, 0.5, 2]))
    def wait(self, seconds):
        self.loop.advance(seconds)

    # What is right.

    def _show(self, client):
        texts = client.texts
        for text in texts[client.shown :]:
            for name, is_snapshot, number in PART.findall(text):
                if name in client.page and is_snapshot:
                    assert int(number) >= client.page[name], f"an older picture of {name} covers a newer one"
                if name in client.page:
                    client.page[name] = int(number)
        client.shown = len(texts)

    @invariant()
    def _look(self):
        for client in self.clients:
            self._show(client)

    def teardown(self):
        self.seconds = 0
        for client in self.clients:
            client.drain()
        self.loop.advance(20)
        self._look()
        for client in list(self.clients):
            if client.end is not None:  # It fell behind, and returns.
                self.clients.remove(client)
                self._open(client.names, client.kind, client.audience, client.last_id or client.began_at, client.page)
        self.loop.advance(5)
        self._look()
        for client in self.clients:
            assert client.end is None
            assert client.page == {name: self.true[name] for name in client.names}
            assert client.last_id == self.broadcaster.cursor() or client.last_id == client.began_at
            client.vanish()
        self.loop.advance(20)
        assert all(hub.is_idle() for hub in self.broadcaster.hubs())
        self.world.close()


TestRefreshMachine = RefreshMachine.TestCase
TestRefreshMachine.settings = settings(max_examples=60 * FACTOR, stateful_step_count=40, deadline=None)
