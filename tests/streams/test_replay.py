"""Clients that return, and clients whose page is older than their stream: nothing lost, nothing doubled, or a gap."""

import random
import threading

import pytest

from ds_broadcaster.ids import parse_id
from tests.harness import Comment, IdOnly, Retry
from tests.live import begun, each_mode_of, numbers, told_of_a_gap, until

live = each_mode_of(settings={"DS_BROADCASTER_HISTORY": {"max_events": 50}, "DS_BROADCASTER_PRESENCE_GRACE": 0})


def shown(client, *, timeout=5):
    """Wait for the snapshot and return its text."""
    return client.expect('id="snapshot"', timeout).elements.partition(">")[2].removesuffix("</div>")


# Returning


def test_a_client_that_returns_gets_exactly_what_it_missed(live, channel):
    client = live.connect(channel)
    live.burst(channel, 5)
    client.expect(">4<")
    client.close()
    live.burst(channel, 10, start=5)
    back = live.connect(channel, last_event_id=client.last_event_id, snapshot="not needed")
    back.expect(">14<")
    live.burst(channel, 1, start=15)
    back.expect(">15<")
    assert numbers(back) == list(range(5, 16))
    assert not told_of_a_gap(back)
    assert "snapshot" not in str(back.frames)
    ids = [parse_id(event.id) for event in back.events]
    assert ids == sorted(set(ids))
    assert ids[0] > parse_id(client.last_event_id)


def test_a_stream_opens_at_the_cursor_it_returns_with(live, channel):
    client = live.connect(channel)
    live.burst(channel, 2)
    client.expect(">1<")
    client.close()
    live.burst(channel, 2, start=2)
    back = live.connect(channel, last_event_id=client.last_event_id)
    back.expect(">3<")
    assert isinstance(back.frames[0], Retry)
    # If it is lost again before the first event is through, it is still at this place.
    assert back.frames[1] == IdOnly(client.last_event_id)


def test_a_client_that_missed_nothing_gets_nothing(live, channel):
    client = live.connect(channel)
    live.burst(channel, 3)
    client.expect(">2<")
    client.close()
    back = live.connect(channel, last_event_id=client.last_event_id)
    live.burst(channel, 1, start=3)
    back.expect(">3<")
    assert numbers(back) == [3]


def test_client_that_comes_and_goes_at_any_moment_sees_all_once_and_in_order(live, channel):
    """Fifty events are kept, so each pause of the sender lets the client come back in time."""
    total, seen, last_id = 1200, [], live.call("cursor")
    caught_up = threading.Semaphore(1)

    def send():
        for start in range(0, total, 40):
            caught_up.acquire(timeout=20)
            live.burst(channel, 40, start=start, thread=start % 80 // 40)

    sender = threading.Thread(target=send)
    sender.start()
    dice = random.Random(channel)
    goal = 40
    while len(seen) < total:
        client = live.connect(channel, last_event_id=last_id)
        wanted = min(dice.randint(0, 70), goal - len(seen))
        client.wait_for(lambda: client.end or len(numbers(client)) >= wanted, 10, f"{wanted} events")  # noqa: B023
        (client.reset if dice.random() < 0.5 else client.close)()
        assert not told_of_a_gap(client)
        seen += numbers(client)
        last_id = client.last_event_id or last_id
        if len(seen) >= goal:
            goal += 40
            caught_up.release()
    sender.join(20)
    assert seen == list(range(total))


def test_the_log_outlives_its_last_client(live, channel):
    client = live.connect(channel)
    live.burst(channel, 1)
    client.expect(">0<")
    client.close()
    until(lambda: channel not in live.call("get_channels"))
    live.burst(channel, 20, start=1)
    back = live.connect(channel, last_event_id=client.last_event_id)
    back.expect(">20<")
    assert numbers(back) == list(range(1, 21))


def test_heartbeats_keep_the_cursor_of_a_quiet_channel_young(channel, start_server):
    server = start_server(settings={"DS_BROADCASTER_HEARTBEAT_INTERVAL": 0.3})
    client = server.connect(channel)
    begun(client)
    # What killed channels held is forgotten, and with it all that is certain about older cursors.
    server.burst(f"{channel}-other", 10)
    server.call("kill", f"{channel}-other")
    now = server.call("cursor")
    client.wait_for(lambda: client.last_event_id == now, 2, "a heartbeat")
    client.close()
    back = server.connect(channel, last_event_id=client.last_event_id)
    begun(back)
    assert not told_of_a_gap(back)


# Pages that are older than their stream


@pytest.mark.parametrize("view", ["connect", "aconnect"])
def test_what_was_sent_between_render_and_connect_is_not_lost(live, channel, view):
    live.burst(channel, 3)
    cursor = live.call("cursor")
    live.burst(channel, 5, start=3)
    client = live.connect(channel, cursor=cursor, view=view)
    client.expect(">7<")
    assert numbers(client) == [3, 4, 5, 6, 7]
    assert not told_of_a_gap(client)


def test_without_a_cursor_a_stream_begins_now(live, channel):
    live.burst(channel, 3)
    client = live.connect(channel, snapshot="not asked for")
    live.burst(channel, 1, start=3)
    client.expect(">3<")
    assert numbers(client) == [3]
    assert "snapshot" not in str(client.frames)


def test_the_last_id_is_newer_than_the_cursor_in_the_page(live, channel):
    cursor = live.call("cursor")
    live.burst(channel, 4)
    client = live.connect(channel, cursor=cursor)
    client.expect(">3<")
    client.close()
    live.burst(channel, 2, start=4)
    back = live.connect(channel, cursor=cursor, last_event_id=client.last_event_id)
    back.expect(">5<")
    assert numbers(back) == [4, 5]


# Gaps


@pytest.mark.parametrize("by", ["header", "cursor"])
@pytest.mark.parametrize(
    "garbage",
    ["x", "-", "0", "-1", "1-", "null", "NaN", "'; DROP TABLE", "é-1", "a" * 3000, "{epoch}", "{epoch}-", "{epoch}--1",
     "{epoch}-1.0", "{epoch}-1x", "{epoch}-999999999", "{epoch}-" + "9" * 40, "0123456789-1", "%00"],
)  # fmt: skip
def test_an_id_that_is_none_is_a_gap_and_no_error(live, channel, garbage, by):
    epoch = parse_id(live.call("cursor"))[0]
    garbage = garbage.replace("{epoch}", epoch)
    if by == "header":
        client = live.connect(channel, last_event_id=garbage.encode().decode("latin-1"), snapshot="state")
    else:
        client = live.connect(channel, cursor=garbage, snapshot="state")
    assert client.status == 200
    assert shown(client) == "state"
    assert told_of_a_gap(client)
    assert client.last_event_id == live.call("cursor")


def test_an_id_of_an_earlier_life_of_the_server_is_a_gap(channel, start_server):
    server = start_server()
    client = server.connect(channel)
    server.burst(channel, 3)
    client.expect(">2<")
    server.restart()
    server.burst(channel, 5, start=3)
    back = server.connect(channel, last_event_id=client.last_event_id, snapshot="state")
    assert shown(back) == "state"
    assert told_of_a_gap(back)
    server.burst(channel, 1, start=8)
    back.expect(">8<")
    assert numbers(back) == [8]


@pytest.mark.parametrize("view", ["connect", "aconnect"])
def test_after_a_gap_this_client_alone_gets_the_snapshot_and_then_goes_on_live(live, channel, view):
    client = live.connect(channel, snapshot="state", view=view)
    live.burst(channel, 1)
    client.expect(">0<")
    stays = live.connect(channel, snapshot="state", view=view)
    begun(stays)
    client.close()
    live.burst(channel, 200, start=1)
    back = live.connect(channel, last_event_id=client.last_event_id, snapshot="state", view=view)
    assert shown(back) == "state"
    live.burst(channel, 3, start=201)
    back.expect(">203<")
    stays.expect(">203<")
    assert isinstance(back.frames[0], Comment)
    assert numbers(back) == [201, 202, 203]
    assert numbers(stays) == list(range(1, 204))
    assert "snapshot" not in str(stays.frames)
    # The snapshot has no id of its own, so a client that is lost after it does not miss what came meanwhile.
    snapshot = next(event for event in back.events if "snapshot" in event.data)
    assert parse_id(snapshot.id)[1] == parse_id(back.events[-1].id)[1] - 3


def test_a_gap_without_a_snapshot_is_told_and_the_stream_goes_on(live, channel):
    client = live.connect(channel, last_event_id="garbage")
    client.expect_comment("gap")
    live.burst(channel, 1)
    client.expect(">0<")


def test_a_gap_in_one_of_several_channels_brings_its_snapshot_and_the_replay_of_the_others(live, channel):
    names = [f"{channel}-a", f"{channel}-b"]
    client = live.connect(*names)
    begun(client)
    client.close()
    live.burst(names[0], 100)
    live.burst(names[1], 2)
    back = live.connect(*names, last_event_id=client.last_event_id, snapshot="state")
    live.burst(names[0], 1, start=100)
    live.burst(names[1], 1, start=2)
    back.expect(">2<")
    assert told_of_a_gap(back)
    assert f'data-channel="{names[0]}"' in back.events[0].elements
    assert [number for number in numbers(back) if number < 50] == [0, 1, 2]
    assert numbers(back).count(100) == 1
    # Lost again at any moment, the client returns to the gap or has everything it brought.
    sequences = [parse_id(event.id)[1] for event in back.events]
    assert sequences == sorted(sequences)


def test_kill_forgets_the_history(live, channel):
    client = live.connect(channel)
    live.burst(channel, 3)
    client.expect(">2<")
    live.call("kill", channel)
    client.wait_end()
    live.burst(channel, 2, start=3)
    later = live.connect(channel, last_event_id=client.frames[1].id, snapshot="state")
    assert shown(later) == "state"
    assert numbers(later) == []
    # A client that had all that is forgotten has missed only what came later.
    back = live.connect(channel, last_event_id=client.last_event_id)
    back.expect(">4<")
    assert numbers(back) == [3, 4]


# How much is kept


def after(server, channel, client_saw, *, snapshot="state"):
    """Return with the id from before everything; return the numbers replayed, None for a gap."""
    back = server.connect(channel, last_event_id=client_saw, snapshot=snapshot)
    begun(back)
    if back.end:  # What was kept when the view looked was gone a moment later.
        return after(server, channel, client_saw, snapshot=snapshot)
    server.call("elements", channel, "<p id=a>the end</p>")
    back.expect("the end")
    return None if told_of_a_gap(back) else numbers(back)


def test_history_is_kept_by_count(live, channel):
    cursor = live.call("cursor")
    live.burst(channel, 50)
    assert after(live, channel, cursor) == list(range(50))
    assert after(live, channel, cursor) is None


def test_history_is_kept_by_bytes(channel, start_server):
    server = start_server(settings={"DS_BROADCASTER_HISTORY": {"max_bytes": 20_000}})
    cursor = server.call("cursor")
    server.burst(channel, 3, size=5000)
    assert after(server, channel, cursor) == [0, 1, 2]
    server.burst(channel, 3, size=5000)
    assert after(server, channel, cursor) is None


def test_history_is_kept_by_age(channel, start_server):
    server = start_server(settings={"DS_BROADCASTER_HISTORY": {"max_age": 1.0}})
    cursor = server.call("cursor")
    server.burst(channel, 3)
    assert after(server, channel, cursor) == [0, 1, 2]
    until(lambda: after(server, channel, cursor) is None, timeout=3)


def test_history_of_all_channels_together_is_capped(channel, start_server):
    server = start_server(settings={"DS_BROADCASTER_HISTORY": {"max_total_bytes": 200_000}})
    cursor = server.call("cursor")
    for number in range(30):
        server.burst(f"{channel}-{number}", 1, size=20_000)
    assert after(server, f"{channel}-0", cursor) is None
    assert after(server, f"{channel}-29", f"{parse_id(cursor)[0]}-29") == [0]
    before = server.facts()["memory"]
    for number in range(100):
        server.burst(f"{channel}-{number}", 10, size=20_000)
    assert server.facts()["memory"] < before + 8_000_000


@pytest.mark.parametrize("thread", [0, 1], ids=["one view", "a thread"])
def test_a_burst_larger_than_the_history_reaches_all_clients_that_keep_up(live, channel, thread):
    clients = [live.connect(channel) for _ in range(5)]
    several = live.connect(channel, f"{channel}-b")
    begun(*clients, several)
    live.burst(channel, 1000, size=500, **({"thread": 1} if thread else {}))
    for client in [*clients, several]:
        client.expect(">999<", timeout=15)
        assert numbers(client) == list(range(1000))
        assert not told_of_a_gap(client)


def test_presence_and_snapshots_are_not_replayed(live, channel):
    cursor = live.call("cursor")
    first = live.visitor().connect(path=f"/as/1/{channel}/?presence=signals&snapshot=one&cursor=garbage")
    first.expect('"online":1')
    live.burst(channel, 1)
    first.expect(">0<")
    first.close()
    until(lambda: channel not in live.call("get_channels"))
    back = live.connect(channel, cursor=cursor)
    back.expect(">0<")
    live.burst(channel, 1, start=1)
    back.expect(">1<")
    assert [event.type for event in back.events] == ["datastar-patch-elements"] * 2
