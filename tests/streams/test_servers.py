"""The same streams on every server, in both modes, over real sockets."""

from tests.harness import each_server


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
