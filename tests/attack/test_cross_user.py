"""One user's stream never carries what is another's: events, snapshots, presence, tabs, elements, tokens."""

import json
import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attack.conftest import FULL, running
from tests.fakes import FACTOR, KINDS, FakeClient, virtual_world
from tests.harness import MODES
from tests.live import begun, until

USERS = [1, 2, 3, None]
CHANNELS = ["a", "b", "c"]
TABS = ["tab-of-bob", "tab-of-eve", None]
ELEMENTS = ["broadcast-1", "broadcast-2", None]
DATASTAR = {"Datastar-Request": "true"}


def query_of(tab, element, cursor):
    """Return what a client writes into its request: anything at all."""
    signals = quote(json.dumps({"broadcastTab": tab}))
    parts = {"datastar": signals if tab else None, "element": element, "cursor": cursor}
    return "&".join(f"{name}={value}" for name, value in parts.items() if value).encode()


class Spy(FakeClient):
    """A client with all the text it got, which knows what it may see."""

    def __init__(self, world, channels, user, tab, element, cursor, kind):
        self.tab, self.mine = tab, f"snapshot-of-{user}-{len(world.spies)}"
        options = {
            "presence_callback": lambda channel, users: {f"presence_{channel}": len(users)},
            "snapshot_callback": lambda request, channel: f"<p id={self.mine}-{channel}-end>",
        }
        query = query_of(tab, element, cursor)
        super().__init__(world.loop, world.broadcast, channels, user, query=query, kind=kind, **options)
        world.spies.append(self)

    @property
    def raw(self):
        return b"".join(self.heard)


openings = st.tuples(
    st.just("open"),
    st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True),
    st.sampled_from(USERS),
    st.sampled_from(TABS),
    st.sampled_from(ELEMENTS),
    st.none() | st.integers(-1, 12),
    st.sampled_from(KINDS),
)
sendings = st.tuples(st.just("send"), st.sampled_from(CHANNELS), st.sampled_from(TABS))
hindrances = st.tuples(st.sampled_from(["stall", "drain", "advance"]), st.integers(0, 9))
orders = st.tuples(st.just("disconnect"), st.sampled_from(CHANNELS), st.sampled_from(USERS[:3]))


@settings(max_examples=100 * FACTOR, deadline=None)
@given(st.lists(openings | sendings | hindrances | orders, max_size=25))
def test_a_stream_carries_its_own_and_nothing_else(steps):
    with virtual_world() as world:
        world.spies = []
        sent = []
        for verb, *arguments in steps:
            if verb == "open":
                channels, user, tab, element, sequence, kind = arguments
                cursor = None if sequence is None else f"{world.broker.epoch}-{max(sequence, 0)}"
                Spy(world, channels, user, tab, element, "other-1" if sequence == -1 else cursor, kind)
            elif verb == "send":
                channel, exclude = arguments
                sent.append((f"event-{len(sent)}-of-{channel}-end", channel, exclude))
                world.broadcast.signals(channel, {sent[-1][0]: 1}, exclude=exclude)
            elif verb == "disconnect":
                world.disconnect(*arguments)
            elif verb == "advance":
                world.advance(arguments[0])
            elif world.spies:
                getattr(world.spies[arguments[0] % len(world.spies)], verb)()
            world.settle()
        for spy in world.spies:
            spy.drain()
        world.settle()
        for spy in world.spies:
            check(spy, sent)


def check(spy, sent):
    text = spy.raw.decode()
    channels = set(spy.channels)
    of_events = {name: (channel, exclude) for name, channel, exclude in sent}
    for name in re.findall(r"event-\d+-of-\w-end", text):
        channel, exclude = of_events[name]
        assert channel in channels
        assert exclude is None or exclude != spy.tab
    assert {each.partition("_")[2] for each in re.findall(r"presence_\w", text)} <= channels
    assert all(each.startswith(spy.mine) for each in re.findall(r"snapshot-of-[\w-]*-end", text))
    # Whose tab it is that does not get an event is told to no client.
    assert "tab-of" not in text
    assert "exclude" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_tab_and_the_element_of_another_user_close_no_stream_of_theirs(kind):
    with virtual_world() as world:
        query = query_of("tab-of-bob", "broadcast-1", None)
        bob = world.client("room", 1, query=query, kind=kind)
        eve = world.client("room", 2, query=query, kind=kind)
        anyone = world.client("room", None, query=query, kind=kind)
        world.disconnect("room", 2)
        world.broadcast.signals("room", {"a": 1})
        world.settle()
        assert bob.end is anyone.end is None
        assert eve.end == "clean"
        assert bob.signals[-1] == anyone.signals[-1] == '{"a":1}'
        assert len(bob.retries) == 1  # Nobody has told it to wait for ever.


# Tokens, on a running server


def live(test):
    return pytest.mark.servers(pytest.mark.django_db(transaction=True)(test))


@pytest.fixture(scope="module", params=MODES if FULL else ["plain"])
def site(request, django_db_setup):
    with running(f"{request.param}/memory") as site:
        yield site


def address_of(visitor, channel):
    """Return the address of the stream that the visitor's page opens."""
    page = visitor.get(f"/subscription/{channel}/").text
    [string] = re.findall(r"@get\(&#x27;([^&]*?(?:&amp;[^&]*?)*)&#x27;,|@get\('([^']*)'", page)
    text = (string[0] or string[1]).replace("&amp;", "&")
    return unquote(json.loads(f'"{text}"').partition("?")[0])


def is_refused(visitor, address):
    """Tell whether a new client and one that returns are both refused, without a word about why."""
    answers = [visitor.get(address, headers=DATASTAR | more) for more in ({}, {"last-event-id": "a-1"})]
    assert all(answer.body == b"" for answer in answers)
    return [answer.status for answer in answers] == [403, 204]


@live
def test_a_token_is_of_use_to_nobody_else_and_not_after_a_logout(site, channel):
    ann, bob = site.server.login("ann"), site.server.login("bob")
    stranger = site.server.visitor()
    address = address_of(ann, channel)
    open_stream = ann.connect(path=address)
    begun(open_stream)
    for other in (bob, stranger):
        assert is_refused(other, address)
        # Neither with its own channels and ann's signature, nor the other way round.
        own, theirs = address_of(other, channel).split(":"), address.split(":")
        assert is_refused(other, ":".join([own[0], *theirs[1:]]))
        assert is_refused(other, ":".join([theirs[0], *own[1:]]))
    old_cookies = dict(ann.cookies)
    ann.get("/logout/")
    assert open_stream.wait_end(10)
    assert is_refused(ann, address)
    ann.cookies = old_cookies
    assert is_refused(ann, address)
    # Another session of the same user is that user.
    again = site.server.login("ann").connect(path=address)
    begun(again)
    assert again.status == 200


@live
def test_the_token_of_strangers_brings_no_user_and_that_of_a_user_no_stranger(site, channel):
    stranger, ann = site.server.visitor(), site.server.login("ann")
    address = address_of(stranger, channel)
    begun(stranger.connect(path=address))
    assert is_refused(ann, address)
    assert site.server.call("get_users", channel) == []


@live
def test_the_sessions_end_without_a_word_is_noticed_when_asked(site, channel):
    """Sessions deleted in the database send no signal: recheck() finds out."""
    ann = site.server.login("ann")
    stream = ann.connect(path=address_of(ann, channel))
    begun(stream)
    site.server.get("/end-sessions/")
    site.server.call("recheck")
    assert stream.wait_end(10)
    until(lambda: site.server.call("get_users", channel) == [])
