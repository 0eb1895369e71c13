"""The sockets of open connections: what the kernel does about clients that go without a word."""

import asyncio
import socket

import pytest

from ds_broadcaster.asgi_servers import USER_TIMEOUT
from ds_broadcaster.hub import connections
from ds_broadcaster.hub.connections import Connection, Connections, Head


class Transport:
    def __init__(self):
        self.socket = socket.socket()

    def get_extra_info(self, name):
        return {"socket": self.socket}[name]

    def is_probed(self):
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_kernel_probes_some_of_very_many_and_waits_for_all_for_as_long(monkeypatch, loop):
    monkeypatch.setattr(connections, "PROBED", 2)
    calls = dict.fromkeys(("on_tick", "on_interval", "on_stop", "on_owing", "on_lost"), print)
    many = Connections(loop, Head("e", 0), 15, **calls)
    opened = [Connection(None, Transport()) for _ in range(4)]
    for connection in opened[:3]:
        many.add(connection)
    many.remove(opened[0])
    many.remove(opened[1])
    many.add(opened[3])
    assert [connection.transport.is_probed() for connection in opened] == [True, True, False, True]
    for connection in opened:
        with connection.transport.socket as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT * 1000
