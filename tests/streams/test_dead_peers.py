"""Clients that vanish without a word: a pulled cable, a phone in a tunnel. No FIN, no RST, only silence."""

import contextlib
import ctypes
import os
import subprocess
import threading
import time

import pytest

from tests.harness import MODES, SSEClient, require_network_namespaces
from tests.live import BARE, begun

CLONE_NEWNET = 0x40000000
# Seconds from the cut until no user is listed any more.
LIMIT = 15

pytestmark = pytest.mark.slow


class Cable:
    """A network namespace at the end of a cable that can be pulled; the host stands at `host`."""

    def __init__(self):
        self._ip = require_network_namespaces()
        number = os.getpid() % 16384
        self.name = f"dsb-{os.getpid()}"
        self._ends = f"dsb{number}a", f"dsb{number}b"
        # Of the addresses that are set aside for such tests.
        net, last = f"198.18.{number // 64}", number % 64 * 4
        self.host, self._far = f"{net}.{last + 1}", f"{net}.{last + 2}"

    def _run(self, line):
        done = subprocess.run([self._ip, *line.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {line}: {done.stderr}"

    def __enter__(self):
        here, there = self._ends
        try:
            self._run(f"netns add {self.name}")
            self._run(f"link add {here} type veth peer name {there} netns {self.name}")
            self._run(f"addr add {self.host}/30 dev {here}")
            self._run(f"link set {here} up")
            self._run(f"-n {self.name} addr add {self._far}/30 dev {there}")
            self._run(f"-n {self.name} link set {there} up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def pull(self):
        """Set the far end down: what either side sends from now on is lost, and neither side is told."""
        self._run(f"-n {self.name} link set {self._ends[1]} down")

    def __exit__(self, *error):
        for line in (f"link del {self._ends[0]}", f"netns del {self.name}"):
            with contextlib.suppress(AssertionError):
                self._run(line)

    def connect(self, server, path):
        """Open a stream from the far end."""
        clients = []

        def work():
            # A namespace belongs to a thread; a socket stays in the one that it was made in.
            with open(f"/var/run/netns/{self.name}") as namespace:  # noqa: PTH123
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0
            clients.append(SSEClient(f"http://{self.host}:{server.port}{path}"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return clients[0]


@pytest.fixture
def cable():
    with Cable() as cable:
        yield cable


def test_clients_that_vanish_are_noticed_within_fifteen_seconds(cable, channel, start_server):
    """In both modes at once: with nothing to say to them, and with something on its way when they vanish."""
    settings = BARE | {"DS_BROADCASTER_PRESENCE_GRACE": 0}
    servers = [start_server(mode=mode, args=["--host=0.0.0.0"], settings=settings) for mode in MODES]
    idle, busy = f"{channel}-idle", f"{channel}-busy"
    places = [(server, name) for server in servers for name in (idle, busy)]
    lost = [cable.connect(server, f"/as/1/{name}/?presence=signals") for server, name in places]
    witnesses = [server.connect(path=f"/as/2/{name}/?presence=signals") for server, name in places]
    begun(*lost)
    for client in (*lost, *witnesses):
        client.expect('"online":2')
    cable.pull()
    cut = time.monotonic()
    for server in servers:
        server.call("elements", busy, "<p id=a>into the silence</p>")
    assert [sorted(server.call("get_users", name)) for server, name in places] == [[1, 2]] * 4
    for (server, name), witness in zip(places, witnesses, strict=True):
        witness.expect('"online":1', timeout=LIMIT - (time.monotonic() - cut))
        assert server.call("get_users", name) == [2]
        assert time.monotonic() - cut < LIMIT
    for server in servers:
        assert "Traceback" not in server.log()
