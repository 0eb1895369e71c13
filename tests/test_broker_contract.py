"""The contract on the brokers that ship, and on brokers that break it, which it must notice."""

import pytest

from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract
from tests.harness.redis import RedisServer


class TestMemoryBroker(BrokerContract):
    """One process: every "process" of the contract is the same broker."""

    def setup_method(self):
        self.broker = None

    def make_broker(self, **history):
        if self.broker is None:
            self.broker = MemoryBroker("", {}, History(**history))
        return self.broker


@pytest.fixture(scope="module")
def redis_server():
    with RedisServer() as server:
        yield server


class TestRedisBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server):
        self.url = redis_server.url
        self.brokers = []
        redis_server.call("flushall")
        yield
        for broker in self.brokers:
            broker.close()

    def make_broker(self, **history):
        broker = RedisBroker(self.url, {}, History(**history))
        self.brokers.append(broker)
        return broker
