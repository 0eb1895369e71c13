"""A listener reconnects: at once after a steady connection, ever more slowly to a server that drops it."""

import asyncio

import pytest

from ds_broadcaster.brokers.network import Listener, NetworkBroker
from ds_broadcaster.conf import History
from ds_broadcaster.testing.brokers.receiver import RESET, RecordingReceiver
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

    def begin_anew(self, receiver, epoch):
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


class Resettable:
    """A listener that has its hub start over at once, and remembers whether it was told to stop."""

    is_closed = False

    def begin_anew(self, receiver, epoch):
        receiver.reset(epoch)

    def close(self):
        self.is_closed = True


class Carrying(NetworkBroker):
    server = "The server"

    def create_listener(self, receiver):
        return Resettable()

    def publish(self, channel, payload, facts=None):
        raise NotImplementedError

    def command(self, channel, command):
        raise NotImplementedError

    def locate(self, channels, event_id):
        raise NotImplementedError

    async def read(self, channel, cursor):
        raise NotImplementedError

    async def commands(self, channels, seconds):
        raise NotImplementedError


def test_new_epoch_has_every_hub_and_its_listener_start_over(caplog):
    broker, receivers = Carrying("", {}, History()), [RecordingReceiver(), RecordingReceiver()]
    for receiver in receivers:
        broker.attach(receiver)
    assert not broker.on_epoch("first")  # Before it, nothing was known.
    assert not broker.on_epoch("first")
    assert [receiver.heard for receiver in receivers] == [[], []]
    assert "lost" not in caplog.text
    assert broker.on_epoch("second")
    assert broker.epoch == "second"
    assert [receiver.sequences("") for receiver in receivers] == [[RESET], [RESET]]
    assert "The server has begun a new epoch" in caplog.text


def test_closed_broker_stops_every_listener():
    broker, receivers = Carrying("", {}, History()), [RecordingReceiver(), RecordingReceiver()]
    for receiver in receivers:
        broker.attach(receiver)
    listeners = [broker._listeners[receiver] for receiver in receivers]
    assert list(broker.receivers()) == receivers
    broker.detach(receivers[0])
    assert [listener.is_closed for listener in listeners] == [True, False]
    assert list(broker.receivers()) == receivers[1:]
    broker.close()
    assert all(listener.is_closed for listener in listeners)
    assert not broker.receivers()
