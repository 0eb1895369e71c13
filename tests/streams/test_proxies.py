"""Streams through the proxies of the guide, with the settings that it shows."""

import re
import subprocess
import tempfile
import time
from pathlib import Path
from string import Template

import pytest

from tests.harness import SSEClient, require_proxy
from tests.harness.server import ROOT, free_port
from tests.live import live_server, until

GUIDE = ROOT / "cookbook" / "guide" / "proxies.md"
NGINX = """
daemon off; pid $folder/pid; error_log $folder/log; user root;
events {}
http { access_log off; $block }
"""
CADDY = """
{
    admin off
    auto_https off
}
$block
"""

# By the language of the guide's block: the program, what stands around the block in its file, and the arguments.
PROXIES = {
    "nginx": ("nginx", NGINX, "-c $config"),
    "caddyfile": ("caddy", CADDY, "run --adapter=caddyfile --config=$config"),
    "haproxy": ("haproxy", "$block", "-f $config"),
    "vcl": ("varnishd", "$block", "-F -a 127.0.0.1:$port -f $config -n $folder/varnish"),
}


@pytest.fixture(scope="module")
def server(django_db_setup):
    settings = {"DS_BROADCASTER_PRESENCE_GRACE": 0, "DS_BROADCASTER_HEARTBEAT_INTERVAL": 60}
    with live_server("handoff", settings=settings) as server:
        yield server


@pytest.fixture
def folder():
    """A folder that the users of the proxies may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(params=PROXIES)
def proxy(request, server, folder):
    """The port of a proxy in front of the server."""
    name, around, arguments = PROXIES[request.param]
    program = require_proxy(name)
    [block] = re.findall(rf"```{request.param}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    port = free_port()
    for shown, here in (("8000", f"{server.port}"), ("8080", f"{port}"), ("example.com", f"http://127.0.0.1:{port}")):
        block = block.replace(shown, here)
    config = folder / "config"
    config.write_text(Template(around).substitute(folder=folder, block=block))
    command = Template(arguments).substitute(config=config, port=port, folder=folder).split()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *command], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def connect(port, channel):
    """Open a stream as soon as the proxy answers."""

    def try_to():
        try:
            client = SSEClient(f"http://127.0.0.1:{port}/as/1/{channel}/", {"Accept-Encoding": "gzip"})
            client.opened()
        except (AssertionError, OSError):
            return None
        return client if client.status == 200 else None

    return until(try_to, 20)


def test_proxy_of_the_guide_passes_events_on_at_once_and_tells_that_a_page_has_left(server, proxy, channel):
    client = connect(proxy, channel)
    assert client.response_headers["content-encoding"] == "gzip"
    begin = time.monotonic()
    for number in range(20):
        server.call("elements", channel, f'<p id="event-{number}">')
        client.expect(f"event-{number}")
    # 0.2 s each, and so 4 in all, where a proxy has the kernel wait for more.
    assert time.monotonic() - begin < 3
    assert server.call("get_users", channel) == [1]
    client.close()
    # No heartbeat comes that would find the connection closed.
    until(lambda: server.call("get_users", channel) == [], 20)
