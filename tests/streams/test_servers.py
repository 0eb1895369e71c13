"""The same streams on every server, in both modes, over real sockets."""

import pytest

from tests.harness import GUNICORN, MODES, SERVERS, each_server
from tests.live import begun, live_server


@each_server
def test_elements_reach_a_connected_client(server, channel):
    client = server.connect(channel)
    assert client.response_headers["content-type"].startswith("text/event-stream")
    server.call("elements", channel, '<div id="target">hello</div>')
    event = client.expect("hello")
    assert event.type == "datastar-patch-elements"
    assert event.elements == '<div id="target">hello</div>'


@each_server
def test_async_view_and_async_verb(server, channel):
    client = server.connect(channel, view="aconnect")
    server.acall("signals", channel, {"count": 3})
    event = client.expect("count")
    assert event.type == "datastar-patch-signals"
    assert event.signals.replace(" ", "") == '{"count":3}'


@each_server
def test_burst_arrives_complete_and_in_order(server, channel):
    client = server.connect(channel)
    server.burst(channel, 100)
    client.expect(">99<")
    numbers = [event.elements for event in client.events]
    assert numbers == [f'<li id="item-{n}" title="">{n}</li>' for n in range(100)]


@each_server
def test_kill_ends_the_stream_cleanly(server, channel):
    client = server.connect(channel)
    server.call("kill", channel)
    assert client.wait_end() == "clean"


# gunicorn runs uvicorn in a worker of its own, or serves ASGI by itself; that worker does not bear the handoff.


@pytest.fixture(scope="module", params=[f"{kind}/{mode}" for kind in GUNICORN for mode in MODES])
def gunicorn(request, django_db_setup):
    kind, _, mode = request.param.partition("/")
    with live_server(mode, kind, settings={"DS_BROADCASTER_HEARTBEAT_INTERVAL": 0.5}) as server:
        yield server


def test_streams_stay_open_under_gunicorn_and_get_what_is_sent(gunicorn, channel):
    client, leaving = gunicorn.connect(channel), gunicorn.connect(f"{channel}-b")
    begun(client, leaving)
    gunicorn.burst(channel, 100)
    client.expect(">99<")
    count = len(client.frames)
    client.wait_for(lambda: len(client.frames) >= count + 2, 5, "two heartbeats")
    assert client.end is None
    gunicorn.call("kill", channel)
    assert client.wait_end() == "clean"


@pytest.mark.parametrize("mode", MODES)
def test_gunicorn_with_uvicorn_ends_at_once_though_streams_are_open(start_server, channel, mode):
    server = start_server("gunicorn-uvicorn", mode)
    client = server.connect(channel)
    begun(client)
    # Without the streams' end it would wait for its 30 s of grace.
    assert server.sigterm(timeout=40) < 15
    assert client.wait_end() == "cut"
    assert "Traceback" not in server.log()


def test_server_that_is_not_known_to_bear_the_handoff_is_named_once(start_server, channel):
    server = start_server("gunicorn-asgi", "handoff")
    begun(server.connect(channel), server.connect(channel))
    assert server.log().count("Streams are served in plain mode: requests come from gunicorn.asgi.protocol") == 1


@pytest.mark.parametrize("kind", [*SERVERS, "gunicorn-uvicorn"])
def test_known_server_is_recognised_though_middleware_wraps_its_send(start_server, channel, kind):
    server = start_server(kind, "handoff", app="tests.project.asgi_wrapped:application")
    client = server.connect(channel)
    server.call("elements", channel, '<div id="target">hello</div>')
    client.expect("hello")
    assert "plain mode" not in server.log()
