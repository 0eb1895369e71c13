"""What a server does under load: with clients that do not read, with thousands who come and go, with a crowd."""

import json
import random
import statistics
import threading
import time
from contextlib import ExitStack

import pytest

from tests.harness import MODES
from tests.live import BARE, FULL, numbers, open_many, told_of_a_gap, until

each_mode = pytest.mark.parametrize("mode", MODES)

pytestmark = pytest.mark.slow


@pytest.fixture
def start(start_server):
    def start(mode, **settings):
        return start_server(mode=mode, settings=BARE | settings)

    return start


def delays(clients):
    """Return the seconds between sending and receiving, over all events of these clients, sorted."""
    return sorted(
        at - float(frame.data.partition('data-at="')[2].partition('"')[0])
        for client in clients
        for at, frame in zip(client.times, client.frames, strict=True)
        if "data-at" in getattr(frame, "data", "")
    )


# Clients that do not read


@each_mode
def test_stalled_clients_delay_no_other_and_cost_no_growing_memory(start, channel, mode):
    """A tenth does not read. They are sent about 10 MB a second, the others some small events.

    The stalled have a channel of their own beside the common one, so that their socket buffers, up to some
    megabytes each, are full soon without all the others getting as much.
    """
    server = start(mode)
    count, stalled_count, seconds = (900, 100, 30) if FULL else (90, 10, 3)
    heavy = f"{channel}-heavy"
    clients = open_many(count, lambda number: server.connect(channel, wait=False))
    stalled = open_many(stalled_count, lambda number: server.connect(heavy, channel, wait=False, receive_buffer=4096))
    for client in stalled:
        client.stall()
    memory = []
    end = threading.Event()

    def weigh_down():
        while not end.is_set() or len(memory) < 15:
            server.burst(heavy, 10, size=100_000)
            memory.append(server.facts()["memory"])
            end.wait(0.05)

    weight = threading.Thread(target=weigh_down)
    weight.start()
    sent = 20 * seconds  # The clients share the machine with the server.
    try:
        server.get(f"/paced/{channel}/?start=0&count={sent}&seconds={seconds}", timeout=seconds * 3)
    finally:
        end.set()
        weight.join()
    for client in clients:
        client.expect(f"item-{sent - 1}")
        assert numbers(client) == list(range(sent))
    # A third of it filled the buffers on the way; the rest is megabytes that were never read.
    settled, later = memory[len(memory) // 3], max(memory[len(memory) // 3 :])
    assert later - settled < 15_000_000, memory
    waits = delays(clients)
    assert statistics.median(waits) < 2  # Of a stalled client's 30 s it is nothing, and on a busy machine enough.
    assert waits[int(len(waits) * 0.99)] < 5
    assert not any(client.end for client in stalled)
    for client in stalled:
        client.close()
    until(lambda: heavy not in server.call("get_channels"))


@each_mode
def test_a_client_that_reads_again_is_served_on_from_where_it_was(start, channel, mode):
    server = start(mode, DS_BROADCASTER_HISTORY={"max_events": 1000, "max_bytes": 50_000_000})
    with server.connect(channel, receive_buffer=4096) as stalled:
        stalled.stall()
        for first in range(0, 100, 10):
            server.burst(channel, 10, start=first, size=100_000)
        assert stalled.bytes_read < 1_000_000
        stalled.resume()
        stalled.expect("item-99", timeout=20)
        server.burst(channel, 1, start=100)
        stalled.expect("item-100")
        assert numbers(stalled) == list(range(101))


def test_a_client_that_reads_again_too_late_returns_to_a_gap(start, channel):
    servers = [start(mode) for mode in MODES]
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(channel, receive_buffer=4096)) for server in servers]
        for server, client in zip(servers, clients, strict=True):
            client.stall()
            for first in range(0, 150, 10):
                server.burst(channel, 10, start=first, size=100_000)
        # For two seconds its place is kept, because it might be about to read on.
        time.sleep(2.5)
        for server, client in zip(servers, clients, strict=True):
            server.burst(channel, 10, start=150, size=100_000)
            client.resume()
            assert client.wait_end(20) in ("cut", "reset")
    for server, client in zip(servers, clients, strict=True):
        seen = numbers(client)
        assert seen == list(range(len(seen)))
        assert len(seen) < 150
        back = server.connect(channel, last_event_id=client.last_event_id, snapshot="state")
        assert "state" in back.expect("snapshot").elements
        assert told_of_a_gap(back)
        server.burst(channel, 1, start=160)
        back.expect("item-160")
        assert numbers(back) == [160]


@pytest.mark.skipif(not FULL, reason="takes half a minute: FULL_LOAD=1 runs it")
def test_a_client_that_takes_nothing_for_half_a_minute_is_cut_off(start, channel):
    servers = [start(mode) for mode in MODES]
    with ExitStack() as stack:
        for server in servers:
            client = stack.enter_context(server.connect(channel, receive_buffer=4096))
            client.stall()
            for first in range(0, 100, 10):
                server.burst(channel, 10, start=first, size=100_000)
        for server in servers:
            until(lambda server=server: channel not in server.call("get_channels"), timeout=50)


# Coming and going


@each_mode
def test_thousands_who_come_and_go_leave_nothing_behind(start, channel, mode):
    server = start(mode, DS_BROADCASTER_PRESENCE_GRACE=0.2, DS_BROADCASTER_PRESENCE_INTERVAL=0.02)
    count = 5000 if FULL else 600 if mode == "handoff" else 400
    dice = random.Random(mode)

    def connect(number):
        names = (
            f"{channel}-{number % 7},{channel}-{number % 3}" if number % 7 != number % 3 else f"{channel}-{number % 7}"
        )
        return server.connect(path=f"/as/{number % 50}/{names}/?presence=signals&snapshot=s", wait=False)

    def come_and_go(rounds):
        for _ in range(rounds):
            clients = [connect(dice.randrange(1000)) for _ in range(40)]
            server.burst(f"{channel}-1", 3)
            for client in clients:
                if dice.random() < 0.7:  # The others go before they have an answer.
                    client.opened()
                client.reset() if dice.random() < 0.5 else client.close()

    def gone():
        return not server.call("get_channels") and not [
            user for number in range(7) for user in server.call("get_users", f"{channel}-{number}")
        ]

    def calm():
        """Return the facts when nothing more goes away."""
        until(gone, timeout=10)
        facts = server.facts()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            now = server.facts()
            if all(now[name] <= facts[name] for name in ("tasks", "files", "threads")):
                break
            facts = now
        return now

    come_and_go(3)
    before = calm()
    come_and_go(count // 40)
    until(gone, timeout=10)
    until(lambda: server.facts()["tasks"] <= before["tasks"])
    until(lambda: server.facts()["files"] <= before["files"])
    until(lambda: server.facts()["threads"] <= before["threads"] + 2)
    assert server.facts()["memory"] < before["memory"] + 12_000_000
    until(lambda: server.get("/held/").json()["requests"] == 0)
    assert "Traceback" not in server.log()
    # And it works.
    client = server.connect(f"{channel}-1")
    server.burst(f"{channel}-1", 1, start=9)
    client.expect("item-9")


# A crowd


@pytest.mark.parametrize("mode", MODES if FULL else ["handoff"])
def test_a_crowd_that_joins_costs_few_patches_and_all_are_listed(start, channel, mode):
    server = start(mode)
    count = 1000 if FULL else 200
    clients = open_many(count, lambda number: server.connect(path=f"/presence/{number + 1}/{channel}/x/", wait=False))
    everyone = set(range(1, count + 1))
    for client in clients:
        client.expect(lambda event: set(json.loads(event.signals)["online"]) == everyone, timeout=20)
        assert len(client.events) <= 40
    assert len(server.call("get_users", channel)) == count
    assert server.get("/held/").json()["databases"] == 0
    for client in clients[1:]:
        client.close()
    clients[0].expect('"online":[1],', timeout=10)
    assert server.call("get_users", channel) == [1]
    assert len(clients[0].events) <= 60
