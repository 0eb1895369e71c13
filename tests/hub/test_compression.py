"""Streams as gzip: what is small, what is decoded, and what refers to nothing."""

import random
import zlib
from unittest.mock import patch

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_broadcaster.hub.compression import EMPTY_BLOCK, HEADER, OUT_OF_STEP, Piece, Place, Tape, packed, pieces_of
from ds_broadcaster.hub.refreshes import Rendered
from ds_broadcaster.streams.requests import takes_gzip
from tests.fakes import FACTOR, KINDS, make_request, make_scope, virtual_world

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def inflated(data):
    """Return the text of blocks that refer to nothing before them; raises zlib.error for others."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)


def renders(count, size=20_000):
    """Yield renders of a list in which one line in thirty changes."""
    words = random.Random(1)
    lines = [
        f'<li class="row" id="r-{n}"><a href="/r/{n}/">{words.getrandbits(64):x}</a></li>' for n in range(size // 70)
    ]
    for _ in range(count):
        for place in words.sample(range(len(lines)), len(lines) // 30):
            lines[place] = f'<li class="row" id="r-{place}"><a href="/r/{place}/">{words.getrandbits(64):x}</a></li>'
        yield f'<ul id="rows">{"".join(lines)}</ul>'


# Texts


@pytest.mark.parametrize("size", [1, 99, 100, 5000, 70_000, 200_000])
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("dictionary", [b"", b"<p>some text</p>" * 3000])
def test_piece_of_any_size_is_decoded_after_what_it_may_refer_to(size, is_stored, dictionary):
    text = (b"<p>some text, and more</p>" * (size // 20 + 1))[:size]
    decoder = zlib.decompressobj(-zlib.MAX_WBITS, zdict=dictionary[-(1 << 15) :])
    assert decoder.decompress(packed(Piece(text, is_stored), dictionary[-(1 << 15) :])) == text
    assert is_stored is (text in packed(Piece(text, is_stored))) or size < 100 or size > 60_000


class Streams:
    """Texts of two tapes and private ones, given to streams that each join where they like."""

    def __init__(self, count):
        self.tapes = [Tape(), Tape()]
        self.count = 0
        self.streams = [[zlib.decompressobj(-zlib.MAX_WBITS), OUT_OF_STEP, 0] for _ in range(count)]

    def send(self, text, tape, readers):
        self.count += 1
        segment = None
        if tape is not None:
            segment = self.tapes[tape].take(text, Place(self.tapes[tape], self.count, 0), self.count, 0)
        for number in readers:
            decoder, mark, since = stream = self.streams[number]
            dictionary = b"" if segment is None else segment.dictionary(mark, since)
            assert decoder.decompress(packed(Piece(text), dictionary)) == text
            if segment is None:
                stream[1:] = OUT_OF_STEP, 0
            else:
                stream[1:] = segment.after, since if dictionary else segment.before.offset


@settings(max_examples=80 * FACTOR, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 90, 200, 9_000, 33_000]),
            st.integers(0, 5),
            st.sampled_from([0, 0, 0, 1, None]),
            st.sets(st.integers(0, 3), min_size=1),
        ),
        max_size=30,
    )
)
def test_no_order_of_texts_and_joins_decodes_wrongly(steps):
    """Texts are slices of few words, so that a wrong reference hits other text of the same kind."""
    words = random.Random(2)
    source = [" ".join(words.choices(["lorem", "ipsum", "dolor", "sit"], k=7000)).encode() for _ in range(6)]
    streams = Streams(4)
    for size, which, tape, readers in steps:
        streams.send(source[which][:size], tape, readers)


def test_text_that_is_older_than_the_tape_is_not_put_on_it():
    tape = Tape()
    assert tape.take(b"id: 7\n\n", Place(tape, 7, 0), 8, 0) is not None
    assert tape.take(b"id: 8\n\n", Place(tape, 8, 0), 8, 0) is None
    assert tape.take(b"presence\n\n", Place(tape, 9, 0), 8, 3) is not None
    assert tape.take(b"presence\n\n", Place(tape, 9, 0), 8, 3) is None, "a new client's first presence"
    assert tape.take(b"id: 9\n\n", Place(tape, 9, 3), 9, 3) is not None


def test_pieces_of_one_channel_and_kind_are_joined():
    parts = [("a", Piece(b"1")), ("a", Piece(b"2")), ("b", Piece(b"3")), ("b", Piece(b"4", True)), ("a", Piece(b"5"))]
    assert pieces_of(parts) == (Piece(b"12"), Piece(b"3"), Piece(b"4", True), Piece(b"5"))


# Streams


@each_kind
def test_repeated_renders_are_a_twentieth_of_their_size(world, kind):
    client = world.client(kind=kind, gzip=True)
    plain = world.client(kind=kind, gzip=False)
    before = len(client.wire)
    texts = list(renders(20))
    for text in texts:
        world.broadcast("room", text)
        world.settle()
    assert client.texts == plain.texts == texts
    assert client.wire[0].startswith(HEADER)
    assert plain.decoder is None
    sent, text = (sum(map(len, each[before:])) for each in (client.wire, client.heard))
    assert sent * 20 < text


def test_all_clients_at_one_place_are_sent_the_same_object(world):
    clients = [world.client(["room", f"user-{number}"], number, kind="task", gzip=True) for number in range(5)]
    clients += [world.client("room", number, kind="task", gzip=True) for number in range(5)]
    for number in range(3):
        world.broadcast("room", f"<p id=a>{number} {'text ' * 100}</p>")
        world.advance(20)  # Heartbeats, which tell of what comes next on another channel, come at different times.
        world.broadcast("user-1", "<p id=b>")
        world.settle()
    before = [len(client.wire) for client in clients]
    world.broadcast("room", f"<p id=a>4 {'text ' * 100}</p>")
    world.settle()
    last = [client.wire[-1] for client in clients]
    assert [len(client.wire) - count for client, count in zip(clients, before, strict=True)] == [1] * 10
    # One was sent an event of another channel last.
    assert len({id(data) for data in last}) == 2


@each_kind
def test_joiner_puts_no_one_else_out_of_step(world, kind):
    client = world.client(kind=kind, gzip=True, presence_callback=lambda channel, users: {"users": users})
    sizes = []
    for number, text in enumerate(renders(6)):
        world.broadcast("room", text)
        world.settle()
        sizes.append(len(client.wire[-1]))
        world.client(user_id=number % 2, kind=kind, gzip=True)
    assert max(sizes[1:]) * 5 < sizes[0]


def test_client_that_falls_out_of_step_is_in_step_again_after_one_event(world):
    client = world.client(gzip=True)
    slow = world.client(gzip=True)
    texts = list(renders(8))
    for number, text in enumerate(texts):
        if number == 3:
            slow.stall()
        if number == 6:
            slow.drain()
        world.broadcast("room", text)
        world.settle()
    assert client.texts == texts
    assert slow.texts[:4] == texts[:4]
    assert slow.texts[-1] == texts[-1]
    solo, after_it = (len(data) for data in slow.wire[-2:])
    assert after_it * 5 < solo


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
def test_heartbeat_without_news_leaves_a_stream_in_step(world):
    client, element = world.client(gzip=True), world.client(gzip=True, query=b"element=stream")
    for number in range(2):
        world.broadcast("room", f"<p id=a>{number} {'text ' * 100}</p>")
        world.settle()
    world.advance(4)
    assert client.wire[-1] == EMPTY_BLOCK
    assert client.heard[-1] == b""
    assert element.heard[-1].endswith(b"\n\n"), "its page must hear it"
    world.broadcast("elsewhere", "<p>")
    world.advance(4)
    assert client.last_id == element.last_id == world.broadcast.cursor()


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
def test_heartbeat_tells_the_id_where_the_last_event_did_not(world):
    client = world.client(gzip=True)
    world.broadcast("room", f"<p id=a>{'text ' * 100}</p>", transient=True)
    world.settle()
    assert client.last_id != world.broadcast.cursor()
    world.advance(4)
    assert client.last_id == world.broadcast.cursor()


@override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL=4)
def test_tapes_of_quiet_channels_are_given_up_where_there_are_many(world):
    busy = world.client("busy", gzip=True)
    clients = [world.client(f"user-{number}", gzip=True) for number in range(10)]
    texts = [f"<p id=a>{number} {'text ' * 1000}</p>" for number in range(4)]
    with patch("ds_broadcaster.hub.channels.TAPES_KEPT", 30_000):
        for number in range(10):
            world.broadcast(f"user-{number}", texts[0])
        for text in texts[:3]:
            world.broadcast("busy", text)
            world.advance(4)
    assert sum(channel.tape.size for channel in world.hub.live()) <= 30_000
    assert world.hub.channel("busy").tape.size > 10_000
    for name in ("busy", *(f"user-{number}" for number in range(10))):
        world.broadcast(name, texts[3])
    world.settle()
    assert busy.texts == texts
    assert all(client.texts == [texts[0], texts[3]] for client in clients)


# What refers to nothing


def test_what_is_for_one_viewer_refers_to_nothing_and_nothing_refers_to_it():
    secrets = {user: f"<p id=own>token-{user}-{'secret ' * 50}</p>" for user in (1, 2)}

    async def render_own(connection, refreshed):
        text = secrets[connection.user_id].encode()
        return Rendered(b"event: datastar-patch-elements\ndata: elements %b\n\n" % text)

    with virtual_world(render_own=render_own) as world:
        viewers = [
            world.client(user_id=user, gzip=True, snapshot_callback=lambda request, channel: "<p id=gap>")
            for user in secrets
        ]
        for number in range(3):
            world.broadcast("room", f"<p id=all>token-{number}-{'secret ' * 50}</p>")
            world.settle()
        world.broadcast.refresh("room")
        world.advance(1)
        for number in range(2):
            world.broadcast("room", f"<p id=all>token-{number}-{'secret ' * 60}</p>")
            world.settle()
        for viewer in viewers:
            [place] = [at for at, text in enumerate(viewer.heard) if b"id=own" in text]
            assert secrets[viewer.user_id].encode() in viewer.heard[place]
            for raw, text in zip(viewer.wire[place:-1], viewer.heard[place:-1], strict=True):
                assert inflated(raw) == text
            with pytest.raises(zlib.error):
                inflated(viewer.wire[-1])  # In step again.
        # What comes after the two is the same, to the byte: it cannot refer to what differs.
        assert viewers[0].wire[-1] == viewers[1].wire[-1]
        assert viewers[0].wire[-2] == viewers[1].wire[-2]


def test_snapshot_of_an_opening_stream_is_not_compressed_with_what_others_wrote():
    """Its size tells nothing of what both have in common."""
    secret = f"<p id=own>{random.Random(3).getrandbits(2000):x}</p>"

    def size_of(text):
        with virtual_world() as world:
            cursor = world.broadcast.cursor()
            world.client()
            world.broadcast("room", text)
            world.broadcast.refresh("room")
            world.broadcast("room", text)
            world.settle()
            client = world.client(cursor=cursor, gzip=True, snapshot_callback=lambda request, channel: secret)
            assert client.texts == [secret, text] or client.texts == [text, secret]
            return sum(map(len, client.wire))

    guess, other = secret.replace("own", "all"), f"<p id=all>{random.Random(4).getrandbits(2000):x}</p>"
    assert len(guess) == len(other)
    assert abs(size_of(guess) - size_of(other)) < 20


@each_kind
@pytest.mark.parametrize("is_slow", [False, True])
def test_event_that_must_not_be_compressed_is_sent_as_it_is(world, kind, is_slow):
    client = world.client(["room", "hall"], kind=kind, gzip=True)
    secret = f"<p id=own>token-{'secret ' * 50}</p>"
    for number in range(2):
        world.broadcast("room", f"<p id=all>token-{number}-{'secret ' * 50}</p>")
        world.settle()
    if is_slow:
        client.stall()
        world.broadcast("room", "<p id=first>")
        world.settle()
        world.broadcast("hall", "<p id=more>")
    world.broadcast("room", secret, compress=False)
    world.settle()
    client.drain()
    world.settle()
    assert secret.encode() in client.wire[-1]
    world.broadcast("room", f"<p id=all>token-3-{'secret ' * 50}</p>")
    world.settle()
    assert inflated(client.wire[-1]) == client.heard[-1]
    back = world.client("room", gzip=True, cursor=client.events[0].id)
    assert secret.encode() in b"".join(back.wire)


def test_channels_are_not_compressed_together(world):
    client = world.client(["room", "user-1"], gzip=True)
    client.stall()
    world.broadcast("room", "<p id=first>")
    world.settle()
    text = random.Random(5).getrandbits(3000)
    world.broadcast("room", f"<p id=a>{text:x}</p>")
    world.broadcast("user-1", f"<p id=b>{text:x}</p>")
    world.settle()
    client.drain()
    world.settle()
    assert len(client.wire[-1]) > 1.1 * 750
    assert client.texts[-1] == f"<p id=b>{text:x}</p>"


# Who gets it


@pytest.mark.parametrize(
    "accepted, takes",
    [
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("deflate,gzip; q=0.001", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("gzip;q=x", False),
        ("x-gzip, gzipped, br", False),
        ("*", False),
        ("identity", False),
        ("", False),
    ],
)
def test_client_takes_gzip_that_says_so(accepted, takes):
    scope = make_scope()
    scope["headers"].append((b"accept-encoding", accepted.encode()))
    assert takes_gzip(make_request(scope)) is takes


def test_setting_and_argument_switch_it_off(world):
    request = make_request(make_scope(gzip=True), 1)
    assert world.broadcast.connect("room", request)["Content-Encoding"] == "gzip"
    assert world.broadcast.connect("room", request)["Vary"] == "Accept-Encoding"
    assert world.broadcast.connect("room", request, compress=False)["Content-Encoding"] == "identity"
    opened = world.loop.run_until_complete(world.broadcast.aconnect("room", request, compress=False))
    assert opened["Content-Encoding"] == "identity"
    with override_settings(DS_BROADCASTER_COMPRESSION=False):
        assert world.broadcast.connect("room", request)["Content-Encoding"] == "identity"
    request = make_request(make_scope(), 1)
    assert world.broadcast.connect("room", request)["Content-Encoding"] == "identity"


@each_kind
def test_stream_that_ends_before_it_opens_is_gzip_too(world, kind):
    world.client(user_id=2)
    client = world.client(
        user_id=1, kind=kind, gzip=True, query=b"element=stream", before_opening=lambda: world.disconnect("room", 1)
    )
    assert client.end == "clean"
    assert 'data-broadcast="closed"' in client.texts[-1]
