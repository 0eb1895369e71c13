"""The contract on the brokers that ship."""

import asyncio
from typing import ClassVar

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

from cookbook.brokers.files import FileBroker
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.brokers.postgres import PostgresBroker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract
from tests.harness.postgres import any_postgres
from tests.harness.redis import RedisCluster, RedisSentinel, any_redis


class TestMemoryBroker(BrokerContract):
    """One process: every "process" of the contract is the same broker."""

    def setup_method(self):
        self.broker = None

    def make_broker(self, **history):
        if self.broker is None:
            self.broker = MemoryBroker("", {}, History(**history))
        return self.broker


class TestFileBroker(BrokerContract):
    """The example of the guide "Writing a broker"."""

    @pytest.fixture(autouse=True)
    def _brokers(self, tmp_path):
        self.folder, self.brokers = tmp_path / "broker", []
        yield
        for broker in self.brokers:
            broker.close()

    def make_broker(self, **history):
        broker = FileBroker(str(self.folder), {}, History(**history))
        self.brokers.append(broker)
        return broker

    def forget(self):
        (self.folder / "presence").unlink()


@pytest.fixture(scope="module")
def alone():
    with any_redis() as server:
        yield server


@pytest.fixture(scope="module")
def sentinel():
    with RedisSentinel() as servers:
        yield servers


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster() as servers:
        yield servers


@pytest.mark.brokers
class OverRedis(BrokerContract):
    """Each test has its own prefix, which is as good as its own server."""

    fixture: ClassVar[str]
    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _brokers(self, request, channel):
        self.server, self.prefix, self.brokers = request.getfixturevalue(self.fixture), channel, []
        yield
        for broker in self.brokers:
            broker.close()

    def make_broker(self, **history):
        broker = RedisBroker(self.location(), {"prefix": self.prefix, **self.options}, History(**history))
        self.brokers.append(broker)
        return broker

    def location(self):
        return self.server.url

    def forget(self):
        client = self.brokers[0].session.topology.client
        # All keys are in one slot, and with it on one node.
        client.delete(*client.scan_iter(f"{self.brokers[0].session.prefix}:*"))


class TestRedisBroker(OverRedis):
    fixture = "alone"

    def interrupt(self):
        self.server.cut()


class TestRedisBrokerWithSentinel(OverRedis):
    fixture = "sentinel"
    options: ClassVar = {"sentinel": RedisSentinel.name, "replicas": 1}

    def location(self):
        return [f"redis://{host}:{port}" for host, port in self.server.addresses]

    def interrupt(self):
        self.server.primary.cut()


class TestRedisBrokerOnCluster(OverRedis):
    fixture = "cluster"
    options: ClassVar = {"cluster": True}

    def location(self):
        return self.server.urls

    def interrupt(self):
        for node in self.server.nodes:
            node.cut()


@pytest.fixture(scope="module")
def postgres():
    """A server, and a database with the tables."""
    apps = [*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
    with any_postgres() as server:
        database = server.database().migrate(INSTALLED_APPS=apps)
        try:
            yield server, database
        finally:
            server.drop(database)


@pytest.mark.brokers
class TestPostgresBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def _database(self, postgres, settings, django_db_blocker):
        self.server, self.database = postgres
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
        tables = ("event", "floor", "state", "process", "holding")
        self.database.call("TRUNCATE " + ", ".join(f"ds_broadcaster_{name}" for name in tables))
        self.brokers = []
        with django_db_blocker.unblock(), self.database.used_as("events"):
            yield
            for broker in self.brokers:
                broker.close()
            # The connections of the thread that async code blocks in.
            asyncio.run(sync_to_async(connections.close_all)())

    def make_broker(self, **history):
        broker = PostgresBroker("events", {}, History(**history))
        self.brokers.append(broker)
        return broker

    def interrupt(self):
        self.server.cut()

    def forget(self):
        self.database.call("TRUNCATE ds_broadcaster_process, ds_broadcaster_holding")
