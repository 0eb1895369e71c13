"""The contract on the brokers that ship, and on brokers that break it, which it must notice."""

from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract


class TestMemoryBroker(BrokerContract):
    """One process: every "process" of the contract is the same broker."""

    def setup_method(self):
        self.broker = None

    def make_broker(self, **history):
        if self.broker is None:
            self.broker = MemoryBroker("", {}, History(**history))
        return self.broker
