"""A client that asks for too much: streams, channels, headers, history; and one that reads too slowly."""

import contextlib
import json
import socket
import threading

import pytest

from tests.attack.conftest import FULL, running
from tests.attack.test_races import check_gone, counts, member
from tests.harness import MODES
from tests.live import begun, open_many, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.servers]

PER_USER, PER_PROCESS, CHANNELS = 4, 12, 5
LIMITS = {
    "DS_BROADCASTER_MAX_CONNECTIONS_PER_USER": PER_USER,
    "DS_BROADCASTER_MAX_CONNECTIONS": PER_PROCESS,
    "DS_BROADCASTER_MAX_CHANNELS_PER_STREAM": CHANNELS,
}
MB = 1 << 20
# Small, so that what is kept beyond it shows. One event is up to a quarter of a channel's share.
HISTORY = {"max_events": 10_000, "max_age": 300, "max_bytes": MB // 4, "max_total_bytes": 4 * MB}


@pytest.fixture(scope="module", params=MODES if FULL else ["handoff"])
def limited(request, django_db_setup):
    """A server with low limits."""
    with running(f"{request.param}/memory", **LIMITS) as site:
        yield site


@pytest.fixture
def calm(limited, channel):
    """The same, without streams."""
    until(lambda: limited.server.call("get_channels") == [], 20)
    return limited


def statuses(clients):
    for client in clients:
        client.opened(20)
    return [client.status for client in clients]


# Streams


def open_ones(clients, most):
    """Return the clients whose streams stay, when no more than `most` are left. The others were refused, or cut."""
    statuses(clients)

    def left():
        return [client for client in clients if client.status == 200 and client.end is None]

    until(lambda: len(left()) <= most, 20)
    return left()


def check_refused(client, status):
    client.opened(20)
    assert client.status == status
    assert int(client.response_headers["retry-after"]) > 0
    assert client.response_headers["cache-control"] == "no-store"


def test_a_user_has_so_many_streams_and_no_more(calm, channel):
    ann, bob = calm.server.login("ann"), calm.server.login("bob")
    flood = open_ones([ann.connect(channel, wait=False) for _ in range(5 * PER_USER)], PER_USER)
    assert len(flood) == PER_USER
    assert calm.server.call("get_users", channel) == [ann.user_id] * PER_USER
    for _ in range(20):
        check_refused(ann.connect(channel), 429)
    # It is nobody else's matter, and over when one of the streams is.
    begun(bob.connect(channel))
    flood[0].close()
    begun(until(lambda: _opened(ann, channel), 20))
    # Who floods the server does not flood its log.
    assert calm.server.log().count("MAX_CONNECTIONS_PER_USER") in range(1, 10)


@pytest.mark.parametrize("varied", ["channels", "elements", "tabs", "nothing"])
def test_one_tab_is_no_way_around_the_limit(calm, channel, varied):
    """What takes another stream's place is one stream, and nothing that a client says of itself makes room for more."""
    ann = calm.server.login("ann")
    streams = []
    for number in range(3 * PER_USER):
        its = {each: number if each == varied else 0 for each in ("channels", "elements", "tabs")}
        signals = json.dumps({"broadcastTab": f"the-tab-{its['tabs']}"})
        query = {"datastar": signals, "element": f"broadcast-{its['elements']}"}
        streams.append(ann.connect(f"{channel}-{its['channels']}", wait=False, **query))
    # One more than the limit: it may be about to take the place of another.
    open_ones(streams, 1 if varied == "nothing" else PER_USER + 1)


def _opened(visitor, channel):
    client = visitor.connect(channel)
    return client if client.status == 200 else None


def test_a_process_has_so_many_streams_and_goes_on_to_serve_pages(calm, channel):
    flood = open_ones([calm.server.connect(channel, wait=False) for _ in range(3 * PER_PROCESS)], PER_PROCESS)
    assert len(flood) == PER_PROCESS
    check_refused(calm.server.connect(channel), 503)
    assert calm.server.get("/ready/").status == 200
    for client in flood:
        client.close()
    begun(until(lambda: _opened(calm.server.visitor(), channel), 20))


def test_a_stream_has_so_many_channels_and_no_more(calm, channel):
    names = [f"{channel}-{number}" for number in range(CHANNELS + 1)]
    begun(calm.server.connect(*names[:CHANNELS]))
    assert calm.server.connect(*names).status >= 400
    assert calm.server.call("get_channels") == sorted(names[:CHANNELS])


def test_a_flood_of_one_user_does_not_delay_the_removal_of_another(calm, channel):
    """Streams that open and close all the time, and are refused, while another user is removed."""
    ann, bob = member(calm, channel, "ann"), member(calm, channel, "bob")
    stream = bob.connect(path=f"/events/clubs/{channel}/")
    begun(stream)
    is_over = threading.Event()

    def flood():
        while not is_over.is_set():
            clients = [ann.connect(path=f"/events/clubs/{channel}/", wait=False) for _ in range(2 * PER_USER)]
            statuses(clients)
            for client in clients:
                client.close()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        until(lambda: counts(calm, channel)["stream_done"] > 2 * PER_USER, 20)
        calm.other.get(f"/revoke/{channel}/bob/recheck/")
        check_gone(stream)
    finally:
        is_over.set()
        flooding.join()


def test_openings_that_hang_do_not_keep_a_stream_of_another(calm, channel):
    """Checks that hang before their streams open: each waits for itself alone."""
    ann, bob = member(calm, channel, "ann"), member(calm, f"{channel}-bob", "bob")
    stream = bob.connect(path=f"/events/clubs/{channel}-bob/")
    begun(stream)
    hanging = [ann.connect(path=f"/events/clubs/{channel}/", gate=1, wait=False) for _ in range(20)]
    try:
        until(lambda: counts(calm, channel)["stream_begun"] == len(hanging), 20)
        calm.other.get(f"/revoke/{channel}-bob/bob/recheck/")
        check_gone(stream)
    finally:
        calm.server.get(f"/gate/{channel}/open/")
    assert len(open_ones(hanging, PER_USER)) <= PER_USER


# Memory


@pytest.fixture(scope="module")
def small(django_db_setup):
    """A server that keeps little, and does little for a stream."""
    settings = {"DS_BROADCASTER_HISTORY": HISTORY, "MIDDLEWARE": [], "LOGGING": {"version": 1}}
    with running("handoff/memory", **settings) as site:
        yield site.server


@contextlib.contextmanager
def growing_no_more_than(server, most):
    """Fail if the server's memory has grown by more bytes than this when the block ends."""
    server.facts()
    before = server.facts()["memory"]
    yield
    grown = server.facts()["memory"] - before
    assert grown < most, f"It grew by {grown / MB:.1f} MB."


def test_a_client_that_reads_a_little_all_the_time_holds_little(small, channel):
    """It takes some kB a second, which is progress, and never has everything."""
    reading = threading.Event()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", small.port))
        slow.sendall(f"GET /connect/{channel}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert b"200 OK" in slow.recv(1024)

        def dribble():
            with contextlib.suppress(OSError):
                while not reading.wait(0.02) and slow.recv(1024):
                    pass

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            # The first of it fills the buffers of both ends.
            small.burst(channel, 100, size=100_000)
            with growing_no_more_than(small, 16 * MB):
                for _ in range(60 if FULL else 12):
                    small.burst(channel, 50, size=100_000)
        finally:
            reading.set()
            thread.join()


def test_many_channels_hold_no_more_than_all_together_may(small, channel):
    clients = open_many(
        60, lambda number: small.connect(*[f"{channel}-{number}-{each}" for each in range(5)], wait=False)
    )
    with growing_no_more_than(small, 24 * MB):
        for number in range(60):
            for each in range(5):
                small.burst(f"{channel}-{number}-{each}", 1, size=200_000)
    assert {client.end for client in clients} <= {None, "cut", "reset"}


def test_channels_that_nobody_has_cost_no_more_than_all_together_may(small, channel):
    with growing_no_more_than(small, 12 * MB):
        small.get(f"/flood/{channel}/{200_000 if FULL else 40_000}/", timeout=120)


def test_what_a_stream_keeps_of_large_headers_is_bounded(small, channel):
    """As large as the server takes, and as large as a stream takes."""
    for size, streams, most in ((60_000, 300, 20_000_000), (31_000, 100, 10_000_000)):
        header = {"X-Large": "x" * size}
        statuses([small.connect(channel, headers=header) for _ in range(10)])
        with growing_no_more_than(small, most):
            statuses([small.connect(channel, headers=header, wait=False) for _ in range(streams)])
