"""A server that is told to stop ends in two seconds, whatever it serves, and its clients come back."""

import http.client
import os
import signal
import socket
import time
from contextlib import closing, nullcontext

import pytest

from tests.harness import MODES, SERVERS
from tests.live import BARE, FULL, begun, numbers, open_many, told_of_a_gap, until

STREAMS = 60
EVERY_SERVER = [f"{kind}/{mode}" for kind in SERVERS for mode in MODES]
# What a plain answer of a server that closes looks like in its log, and is none of ours.
NOISE = ("Traceback", "Error", "ERROR", "exception", "Exception", "never retrieved", "was destroyed", "Cancelled")


def parts_from_stalled_clients(name):
    """hypercorn needs --graceful-timeout for that in plain mode, and granian --workers-kill-timeout=1."""
    return name != "hypercorn/plain" and not name.startswith("granian")


each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def start(start_server):
    def start(name, **options):
        kind, mode = name.split("/")
        return start_server(kind, mode, settings=BARE, **options)

    return start


def limit():
    """Return the seconds from the signal to the process' end: two, and more where others use the machine too."""
    return 2.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def open_streams(server, channel, count=STREAMS):
    """Open this many streams, half of them with a user, and let each receive something."""

    def connect(number):
        path = f"/as/{number}/{channel}/?presence=signals" if number % 2 else f"/connect/{channel}/"
        return server.connect(path=path, wait=False)

    clients = open_many(count, connect)
    server.call("elements", channel, "<p id=a>hello</p>")
    for client in clients:
        client.expect("hello")
    return clients


def stalled_client(server, channel):
    """Open a stream whose client stops reading, and send more than all buffers on the way take."""
    client = server.connect(channel, receive_buffer=4096)
    begun(client)
    client.stall()
    for start in range(0, 80, 10):
        server.burst(channel, 10, start=start, size=100_000)
    return client


def check_ends(clients):
    """Every client was told when to return, at different times, and is one of those that do return."""
    for client in clients:
        # Without HTTP's last chunk: to every retry mode of the Datastar client that is an error, so it returns.
        assert client.wait_end(limit()) == "cut"
        assert 1000 <= client.retry <= 5000
    if len(clients) >= 50:
        assert len({client.retry for client in clients}) > len(clients) / 2


def check_log(server):
    # Ctrl-C reaches granian's worker too, which may end before its parent has told it to.
    log = server.log().replace("[ERROR] Unexpected exit from worker-1", "")
    assert not [line for line in log.splitlines() if any(word in line for word in NOISE)], log


# Every server


@pytest.mark.parametrize("name", EVERY_SERVER)
def test_sigterm_ends_the_server_and_its_clients_are_to_return(start, channel, name):
    server = start(name)
    clients = open_streams(server, channel)
    with stalled_client(server, f"{channel}-stalled") if parts_from_stalled_clients(name) else nullcontext():
        server.burst(channel, 20)
        assert server.sigterm() < limit()
    check_ends(clients)
    # What was sent right before arrives first.
    assert all(numbers(client) == list(range(20)) for client in clients)
    check_log(server)


@pytest.mark.parametrize("name", [f"{kind}/handoff" for kind in SERVERS if kind != "uvicorn-h11"])
def test_ctrl_c_ends_the_server_and_its_clients_are_to_return(start, channel, name):
    server = start(name)
    clients = open_streams(server, channel, 20)
    assert server.sigint() < limit()
    check_ends(clients)
    check_log(server)


# uvicorn, with a thousand, and as it is run


@pytest.mark.parametrize("mode", MODES if FULL else ["handoff"])
def test_a_thousand_streams_and_a_stalled_one_end_in_time(start, channel, mode):
    server = start(f"uvicorn-httptools/{mode}")
    clients = open_streams(server, channel, 1000)
    with stalled_client(server, f"{channel}-stalled") as stalled:
        assert server.sigterm() < limit()
        stalled.resume()
        assert stalled.wait_end() in ("cut", "reset")
    check_ends(clients)
    check_log(server)


@each_mode
def test_workers_end_in_time(start, channel, mode):
    server = start(f"uvicorn-httptools/{mode}", args=["--workers=2"])
    # Which worker takes a connection is chance: with this many each has some.
    clients = open_many(60, lambda number: server.connect(channel, wait=False))
    assert server.sigterm() < limit()
    check_ends(clients)
    check_log(server)


@each_mode
def test_a_reloader_restarts_the_server_the_pages_come_back_and_it_ends_in_time(start, channel, tmp_path, mode):
    code = tmp_path / "code.py"
    code.write_text("")
    server = start(f"uvicorn-httptools/{mode}", args=["--reload", f"--reload-dir={tmp_path}"])
    clients = open_streams(server, channel, 20)
    pid = server.facts()["pid"]
    begin = time.monotonic()
    os.utime(code, (time.time() + 10,) * 2)
    for client in clients:
        assert client.wait_end(5) == "cut"
    check_ends(clients)
    back = until_connected(server, channel, clients[0].last_event_id)
    back.expect_comment("gap")
    assert server.facts()["pid"] != pid
    assert time.monotonic() - begin < 8
    clients = open_streams(server, channel, 20)
    assert server.sigterm() < limit()
    check_ends(clients)
    check_log(server)


@each_mode
def test_a_worker_that_has_served_its_requests_ends_in_time(start, channel, mode):
    server = start(f"uvicorn-httptools/{mode}", args=["--limit-max-requests=80"])
    clients = open_many(20, lambda number: server.connect(channel, wait=False))
    begin = time.monotonic()
    try:
        for _ in range(80):
            server.get("/ready/")
            begin = time.monotonic()
    except OSError:
        pass  # It has had its requests.
    server.process.wait(10)
    assert time.monotonic() - begin < limit() + 0.5
    check_ends(clients)
    check_log(server)


# Afterwards


def until_connected(server, channel, last_event_id):
    """Try to return until the server takes connections again."""

    def connect():
        try:
            client = server.connect(channel, last_event_id=last_event_id, snapshot="state")
        except (OSError, AssertionError):
            return None
        return client if client.status == 200 else None

    return until(connect, timeout=10)


@each_mode
def test_after_a_restart_who_returns_gets_the_snapshot_and_goes_on(start, channel, mode):
    server = start(f"uvicorn-httptools/{mode}")
    clients = open_streams(server, channel, 20)
    server.restart()
    for client in clients:
        assert client.wait_end() == "cut"
        back = server.connect(channel, last_event_id=client.last_event_id, snapshot="state")
        assert "state" in back.expect("snapshot").elements
        assert told_of_a_gap(back)
        clients[clients.index(client)] = back
    server.burst(channel, 2)
    for client in clients:
        client.expect(">0<")
        client.expect(">1<")
        assert len(client.events) == 3


@pytest.mark.parametrize("name", ["uvicorn-httptools/handoff", "uvicorn-h11/plain"])
def test_while_it_closes_a_server_sends_new_streams_elsewhere(start, channel, name):
    server = start(name)
    witness = server.connect(channel)
    begun(witness)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    # For the last bytes of a stalled client a server waits half a second.
    with closing(kept), stalled_client(server, f"{channel}-stalled"):
        kept.request("GET", "/ready/")
        assert kept.getresponse().read() == b"ready"
        server.signal(signal.SIGTERM)
        witness.wait_end()
        kept.request("GET", f"/connect/{channel}/")
        answer = kept.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert b"about to stop" in answer.read()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 5)
        server.process.wait(limit())


@each_mode
def test_a_server_whose_streams_have_all_gone_ends_at_once(start, channel, mode):
    server = start(f"uvicorn-httptools/{mode}")
    for client in open_streams(server, channel, 20):
        client.close()
    until(lambda: channel not in server.call("get_channels"))
    assert server.sigterm() < 1
    check_log(server)
