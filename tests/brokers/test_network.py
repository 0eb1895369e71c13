"""A listener reconnects: at once after a steady connection, ever more slowly to a server that drops it."""

import asyncio

import pytest

from ds_broadcaster.brokers.network import Listener
from tests.fakes import VirtualLoop


class Listening(Listener):
    """Counts its connections, which last so many seconds each."""

    def __init__(self, lasting):
        super().__init__("The server", (LookupError,))
        self.lasting = lasting
        self.connections = 0
        self.is_cleaned_up = False

    async def subscribe(self, channel):
        raise NotImplementedError

    async def unsubscribe(self, channel):
        raise NotImplementedError

    def reset(self):
        raise NotImplementedError

    async def listen(self):
        self.connections += 1
        await asyncio.sleep(self.lasting)
        raise LookupError

    async def cleanup(self):
        self.is_cleaned_up = True


@pytest.mark.parametrize("lasting, at_least, at_most", [(0, 12, 25), (0.05, 12, 25), (2, 27, 30)])
def test_connection_is_tried_less_often_where_it_does_not_last(lasting, at_least, at_most, caplog):
    loop = VirtualLoop()
    made = []
    try:
        loop.call_soon(lambda: made.append(Listening(lasting)))
        loop.advance(60, step=0.01)
        (listener,) = made
        assert at_least <= listener.connections <= at_most
        listener.close()
        loop.settle()
        assert listener.is_cleaned_up
    finally:
        loop.close_down()
    assert "Lost the connection to The server" in caplog.text
