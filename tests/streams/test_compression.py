"""Streams as gzip, from real servers to real clients."""

import subprocess

import pytest

from tests.harness import SSEClient, require_proxy
from tests.live import live_server

TEXT = "<p id=a>{} compressible {}</p>"


@pytest.fixture(params=["handoff", "plain"])
def server(request, django_db_setup):
    with live_server(request.param) as server:
        yield server


def test_client_that_takes_gzip_gets_what_the_others_get_in_fewer_bytes(server, channel):
    url = f"{server.url}/as/1/{channel}/"
    clients = [SSEClient(url, headers={"Accept-Encoding": accepted}) for accepted in ("gzip", "gzip;q=0")]
    assert [client.opened() for client in clients] == [200, 200]
    packed, plain = clients
    assert packed.response_headers["content-encoding"] == "gzip"
    assert plain.response_headers.get("content-encoding", "identity") == "identity"
    before = [client.bytes_read for client in clients]
    texts = [TEXT.format(number, "again and again " * 100) for number in range(10)]
    for text in texts:
        server.call("elements", channel, text)
        for client in clients:
            client.expect(text)
    read = [client.bytes_read - count for client, count in zip(clients, before, strict=True)]
    assert read[0] * 10 < read[1]
    server.call("kill", channel)
    assert [client.wait_end() for client in clients] == ["clean", "clean"]


def test_curl_decodes_a_stream_to_its_end(server, channel):
    """It has no checksum to go by, and takes the end of the response for that of the stream."""
    curl = require_proxy("curl")
    url = f"{server.url}/as/1/{channel}/"
    # Beside it, to know when both have opened: presence tells.
    with subprocess.Popen(
        [curl, "-sSN", "--compressed", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"retry: ")
        for number in range(3):
            server.call("elements", channel, TEXT.format(number, "x" * 40_000))
        server.call("kill", channel)
        out, said = process.communicate(timeout=10)
    assert process.returncode == 0, said
    assert out.decode().count("compressible") == 3
