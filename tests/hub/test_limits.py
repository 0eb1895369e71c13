"""Limits on open connections: of a process, of a user, of a stream's channels, of what it keeps of its request."""

import pytest
from django.test import override_settings

from ds_broadcaster.hub.limits import LOG_INTERVAL
from ds_broadcaster.streams.requests import REQUEST_BYTES
from ds_broadcaster.streams.scope import RECHECK_KEY
from tests.fakes import KINDS, FakeClient, make_request, make_scope, virtual_world

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def answer(world, user_id=None, channel="room", **scope):
    return world.broadcast.connect(channel, make_request(make_scope() | scope, user_id))


def from_element(tab, element):
    return f'element={element}&datastar={{"broadcastTab":"{tab}"}}'.encode()


def test_user_has_fifty_connections_and_the_next_is_told_to_wait(world):
    clients = [world.client(user_id=1) for _ in range(50)]
    refused = answer(world, 1)
    assert (refused.status_code, refused["Retry-After"]) == (429, "10")
    assert refused["Cache-Control"] == "no-store"
    assert world.hub.limits.refused == 1
    assert answer(world, 2).status_code == 200
    assert answer(world).status_code == 200
    clients[0].vanish()
    world.settle()
    assert answer(world, 1).status_code == 200


def test_visitors_without_a_user_are_not_counted(world):
    for _ in range(60):
        world.client()
    assert answer(world).status_code == 200


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=None)
def test_no_limit_for_a_user(world):
    for _ in range(60):
        world.client(user_id=1)
    assert answer(world, 1).status_code == 200


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS=3)
def test_process_has_a_limit_for_all(world):
    for number in (None, 1, 2):
        world.client(user_id=number)
    for user in (None, 3):
        refused = answer(world, user)
        assert (refused.status_code, refused["Retry-After"]) == (503, "10")
    assert world.hub.limits.refused == 2


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=2)
def test_tab_that_returns_before_the_server_knows_that_it_left_is_none_more(world):
    for tab in ("tab-number-1", "tab-number-2"):
        world.client(user_id=1, query=from_element(tab, "stream"))
    assert answer(world, 1, query_string=from_element("tab-number-1", "stream")).status_code == 200
    assert answer(world, 1, query_string=from_element("tab-number-1", "other")).status_code == 429
    assert answer(world, 1, query_string=from_element("tab-number-3", "stream")).status_code == 429
    assert answer(world, 1, query_string=b"element=stream").status_code == 429


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=3)
@each_kind
def test_replaced_stream_of_a_client_that_does_not_read_counts_until_it_is_gone(world, kind):
    query = from_element("tab-number-1", "stream")
    clients = []
    for _ in range(10):
        client = FakeClient(world.loop, world.broadcast, "room", 1, kind=kind, query=query)
        client.stall()
        world.settle()
        if client.end != "refused":
            clients.append(client)
    assert len(clients) <= 4
    assert answer(world, 1).status_code == 429
    for client in clients:
        client.drain()
    world.settle()
    assert answer(world, 1).status_code == 200


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=2)
@each_kind
def test_streams_that_are_granted_together_open_up_to_the_limit_and_the_others_return(world, kind):
    clients = [
        FakeClient(world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: None) for _ in range(5)
    ]
    world.settle()
    assert [client.end for client in clients].count(None) == 2
    assert world.broadcast.get_users("room") == [1, 1]
    assert world.hub.limits.refused == 3


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=1)
def test_stream_is_asked_again_however_many_there_are(world):
    world.client(user_id=1)
    assert answer(world, 1, **{RECHECK_KEY: []}).status_code == 200


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS=1)
def test_flood_of_refused_streams_is_a_line_now_and_then(world, caplog):
    world.client()
    for _ in range(100):
        answer(world)
    assert [record.getMessage() for record in caplog.records] == [
        "Refused 1 stream: 1 are open (DS_BROADCASTER_MAX_CONNECTIONS)."
    ]
    world.advance(LOG_INTERVAL)
    answer(world)
    assert caplog.records[-1].getMessage().startswith("Refused 100 streams: ")


@override_settings(DS_BROADCASTER_MAX_CHANNELS_PER_STREAM=3)
def test_stream_has_a_limit_of_channels(world):
    assert answer(world, channel=["a", "b", "c"]).status_code == 200
    with pytest.raises(ValueError, match=r"at most 3 channels, got 4.*DS_BROADCASTER_MAX_CHANNELS_PER_STREAM"):
        answer(world, channel=["a", "b", "c", "d"])


@pytest.mark.parametrize(
    "scope",
    [
        {"headers": [(b"cookie", b"x" * REQUEST_BYTES)]},
        {"headers": [(b"x-%d" % number, b"x" * 100) for number in range(REQUEST_BYTES // 100)]},
        {"headers": [(b"a", b"") for _ in range(1000)]},
        {"query_string": b"x" * REQUEST_BYTES},
        {"path": "/" + "x" * REQUEST_BYTES},
    ],
)
def test_request_of_which_a_stream_would_keep_too_much_is_refused(world, scope, caplog):
    assert answer(world, **scope).status_code == 431
    assert "filterSignals" in caplog.records[-1].getMessage()
    assert answer(world, headers=[(b"cookie", b"x" * (REQUEST_BYTES - 300))]).status_code == 200
