"""The contract on the brokers that ship, and on brokers that break it, which it must notice."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.brokers.postgres import PostgresBroker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract
from tests.harness.postgres import PostgresServer
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


@pytest.fixture(scope="module")
def database():
    with PostgresServer() as server:
        yield server.database().migrate(INSTALLED_APPS=[*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"])


class TestPostgresBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def _database(self, database, settings, django_db_blocker):
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
        tables = ("event", "floor", "state", "process", "holding")
        database.call("TRUNCATE " + ", ".join(f"ds_broadcaster_{name}" for name in tables))
        self.brokers = []
        with django_db_blocker.unblock(), database.used_as("events"):
            yield
            for broker in self.brokers:
                broker.close()
            # That of the thread in which async code does what may wait.
            asyncio.run(sync_to_async(connections.close_all)())

    def make_broker(self, **history):
        broker = PostgresBroker("events", {}, History(**history))
        self.brokers.append(broker)
        return broker
