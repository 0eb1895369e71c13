"""A broker that does not answer keeps one caller waiting, not each of them."""

import contextlib
import time
from itertools import pairwise

import pytest
from django.conf import settings
from django.test import override_settings

from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.brokers import Event
from ds_broadcaster.brokers.circuit import OPEN, SLOW, Circuit
from ds_broadcaster.brokers.postgres import PostgresBroker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import BrokerUnavailable
from tests.harness.postgres import PostgresServer
from tests.harness.programs import wait_until
from tests.harness.redis import RedisServer


class Frozen:
    """A broker behind a circuit, and the clock of both."""

    def __init__(self):
        self.now = 100.0
        self.calls = 0
        self.seconds = 2.0
        self.works = False
        self.meanwhile = None
        self.circuit = Circuit(lambda: self.now)

    def call(self):
        """Call the broker; return how many seconds that took, and whether it worked."""
        begin = self.now
        try:
            self.circuit.call(self._answer)
        except BrokerUnavailable:
            return self.now - begin, False
        return self.now - begin, True

    def _answer(self):
        self.calls += 1
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if not self.works:
            self.now += self.seconds
            raise BrokerUnavailable("It does not answer.")


@pytest.fixture
def broker():
    return Frozen()


def test_calls_after_one_that_waited_in_vain_fail_at_once(broker):
    assert broker.call() == (2, False)
    assert [broker.call() for _ in range(100)] == [(0, False)] * 100
    assert broker.calls == 1


def test_broker_is_tried_again_after_a_pause_that_grows(broker):
    tries = []
    for _ in range(600):
        before = broker.calls
        broker.call()
        if broker.calls > before:
            tries.append(broker.now)
        broker.now += 0.1
    pauses = [later - earlier - broker.seconds for earlier, later in pairwise(tries)]
    assert pauses[:4] == pytest.approx([1, 2, 4, 5], abs=0.2)
    assert max(pauses) <= OPEN[1] + 0.2


def test_one_caller_tries_and_the_others_do_not_wait_for_the_result(broker):
    broker.call()
    broker.now += OPEN[0]
    broker.meanwhile = lambda: others.extend(broker.call() for _ in range(10))
    others = []
    assert broker.call() == (2, False)
    assert others == [(0, False)] * 10


def test_success_closes_it(broker):
    broker.call()
    broker.now += OPEN[0]
    broker.works = True
    assert [broker.call() for _ in range(3)] == [(0, True)] * 3
    broker.works = False
    assert broker.call() == (2, False)
    broker.now += OPEN[0]
    assert broker.call() == (2, False)


def test_failure_that_keeps_nobody_waiting_opens_nothing(broker):
    """A server that refuses connections may be back at any moment."""
    broker.seconds = SLOW / 2
    assert [broker.call() for _ in range(3)] == [(SLOW / 2, False)] * 3


def test_other_errors_are_none_of_the_brokers(broker):
    def fail():
        broker.now += 10
        raise LookupError

    with pytest.raises(LookupError):
        broker.circuit.call(fail)
    broker.works = True
    assert broker.call() == (0, True)


@contextlib.contextmanager
def redis_broker(unblock):
    with RedisServer() as server:
        yield server, RedisBroker(server.url, {}, History())


@contextlib.contextmanager
def postgres_broker(unblock):
    apps = [*settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
    with PostgresServer() as server:
        database = server.database().migrate(INSTALLED_APPS=apps)
        with override_settings(INSTALLED_APPS=apps), unblock(), database.used_as("events"):
            yield server, PostgresBroker("events", {}, History())


@pytest.mark.brokers
@pytest.mark.parametrize("running", [redis_broker, postgres_broker])
def test_frozen_server_keeps_one_save_waiting(running, django_db_blocker):
    """Each would take a second or two: nearly a minute in all."""
    with running(django_db_blocker.unblock) as (server, broker):
        broadcaster = Broadcaster(create_broker=lambda settings: broker)
        saved = [Event("a", b"x\n\n")]
        broadcaster.send_all(saved)
        server.freeze()
        try:
            begin = time.monotonic()
            for _ in range(15):
                with pytest.raises(BrokerUnavailable):
                    broadcaster.send_all(saved)
                with pytest.raises(BrokerUnavailable):
                    broadcaster("a", "<p id=a></p>")
            assert time.monotonic() - begin < 10
        finally:
            server.thaw()

        def works():
            with contextlib.suppress(BrokerUnavailable):
                broadcaster.send_all(saved)
                return True

        wait_until(works, "a save that is broadcast", 20)
        broadcaster("a", "<p id=a></p>")
        broker.close()
