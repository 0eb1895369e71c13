"""What listens to a server connects again: soon, and less and less often to one that does not keep it."""

import asyncio

import pytest

from ds_broadcaster.brokers.network import Listener
from tests.fakes import VirtualLoop


class Listening(Listener):
    """Its connections last so many seconds; it counts them."""

    def __init__(self, lasting):
        super().__init__("The server", (LookupError,))
        self.lasting = lasting
        self.connections = 0
        self.is_let_go = False

    async def subscribe(self, channel):
        raise NotImplementedError

    async def unsubscribe(self, channel):
        raise NotImplementedError

    def forget(self):
        raise NotImplementedError

    async def hear(self):
        self.connections += 1
        await asyncio.sleep(self.lasting)
        raise LookupError

    async def let_go(self):
        self.is_let_go = True


@pytest.mark.parametrize("lasting, at_least, at_most", [(0, 12, 25), (0.05, 12, 25), (2, 27, 30)])
def test_connection_is_tried_again_less_often_where_it_does_not_last(lasting, at_least, at_most, caplog):
    loop = VirtualLoop()
    made = []
    try:
        loop.call_soon(lambda: made.append(Listening(lasting)))
        loop.advance(60, step=0.01)
        (listener,) = made
        assert at_least <= listener.connections <= at_most
        listener.close()
        loop.settle()
        assert listener.is_let_go
    finally:
        loop.close_down()
    assert "The connection to The server is lost" in caplog.text
