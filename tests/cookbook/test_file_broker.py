"""The cookbook's broker over files: what only files suffer, and two workers that share a folder."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from cookbook.brokers.files import FileBroker, journal
from ds_broadcaster import BrokerUnavailable
from ds_broadcaster.brokers import EVERYWHERE, Command
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import Gap
from ds_broadcaster.testing.brokers.receiver import GAP, PRESENCE, RESET, RecordingReceiver
from tests.brokers.test_cluster import LEASE, all_have, ended, shows
from tests.harness.server import ROOT, Server
from tests.live import begun, until


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "broker"


@pytest.fixture
def make_broker(folder):
    brokers = []

    def make(**history):
        brokers.append(FileBroker(str(folder), {}, History(**history)))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.close()


def test_folder_that_was_removed_has_every_client_start_anew(make_broker, folder):
    async def test():
        broker, other, receiver = make_broker(), make_broker(), RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        before = await asyncio.to_thread(other.publish, "a", b"x\n\n")
        await receiver.hears("a", before)
        id_before = other.cursor()
        (folder / "journal").unlink()
        await receiver.hears(EVERYWHERE, RESET)
        assert broker.locate(["a"], id_before).gaps == {"a"}
        await receiver.hears("a", await asyncio.to_thread(other.publish, "a", b"y\n\n"))

    asyncio.run(test())


def test_machine_that_started_again_begins_anew(make_broker, monkeypatch):
    broker = make_broker()
    broker.publish("a", b"x\n\n")
    before = broker.cursor()
    monkeypatch.setattr(journal, "BOOT", "another")
    assert make_broker().locate(["a"], before).gaps == {"a"}
    make_broker().publish("a", b"y\n\n")
    assert broker.locate(["a"], before).gaps == {"a"}


def test_journal_is_cut_and_clients_that_keep_up_miss_nothing(make_broker, folder):
    broker, returning = make_broker(max_total_bytes=20_000), []
    for _ in range(300):
        sequence = broker.publish("a", b"x" * 100 + b"\n\n")
        returning.append((sequence, broker.cursor()))
        assert (folder / "journal").stat().st_size < 20_500
        # A second process, which has seen nothing yet, gives the same answer.
        assert make_broker(max_total_bytes=20_000).locate(["a"], broker.cursor()).gaps == frozenset()
    events = asyncio.run(broker.read("a", returning[-11][0]))
    assert [each for each, _ in events] == [sequence for sequence, _ in returning[-10:]]
    assert make_broker().locate(["a"], returning[0][1]).gaps == {"a"}
    assert broker.locate(["a", "b"], returning[0][1]).gaps == {"a", "b"}


def test_process_that_was_stopped_while_the_journal_was_cut_is_told_what_it_missed(make_broker):
    async def test():
        broker, receiver = make_broker(max_total_bytes=20_000), RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        fill(make_broker(max_total_bytes=20_000))  # On the loop, which reads nothing meanwhile: as if it were stopped.
        await receiver.hears("a", GAP)
        await receiver.hears("a", PRESENCE)
        await receiver.until(lambda: Command("recheck") in [item for *_, item in receiver.heard], "No recheck")
        with pytest.raises(Gap):
            await broker.read("a", 1)

    asyncio.run(test())


def fill(broker):
    for _ in range(300):
        broker.publish("a", b"x" * 100 + b"\n\n")


def test_half_a_record_of_a_dead_writer_is_never_read(make_broker, folder):
    broker = make_broker()
    first = broker.publish("a", b"x\n\n")
    with (folder / "journal").open("ab") as file:
        file.write(b'["a", "event", 17')
    assert [each for each, _ in asyncio.run(broker.read("a", 0))] == [first]
    second = make_broker().publish("a", b"y\n\n")
    assert [each for each, _ in asyncio.run(broker.read("a", 0))] == [first, second]


def test_refusal_of_the_files_is_reported_in_time(make_broker, folder):
    broker = make_broker()
    broker.publish("a", b"x\n\n")
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="does not release"):
            broker.publish("a", b"x\n\n")
        assert time.monotonic() - begin < 2
        # Readers do not wait for the writer.
        assert broker.locate(["a"], None).gaps == frozenset()
    with pytest.raises(BrokerUnavailable, match="could not be used"):
        FileBroker("/dev/null/broker", {}, History()).publish("a", b"x\n\n")


def test_quiet_channels_are_dropped(make_broker):
    broker = make_broker(max_age=0.1)
    broker.publish("a", b"x\n\n")
    before = broker.cursor()

    def is_dropped():
        broker.sweep()
        return not broker._logs

    until(is_dropped)
    assert broker.locate(["a"], before).gaps == frozenset()


# Two workers


@pytest.fixture(scope="module")
def workers(django_db_setup, tmp_path_factory):
    location = str(tmp_path_factory.mktemp("broker"))
    broker = {"BACKEND": "cookbook.brokers.files.FileBroker", "LOCATION": location, "OPTIONS": {"lease": LEASE}}
    settings = {"ROOT_URLCONF": "tests.project.cluster_site", "DS_BROADCASTER_BROKER": broker}
    with Server(settings=settings | {"DS_BROADCASTER_PRESENCE_GRACE": 0.2}, args=["--workers=2"]) as server:
        until(lambda: len({server.facts()["pid"] for _ in range(10)}) == 2, 20)
        yield server


@pytest.mark.django_db(transaction=True)
def test_clients_of_both_workers_get_everything_once_and_in_order(workers, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(20)]
    begun(*clients)
    for start in range(0, 200, 10):
        workers.burst(channel, 10, start=start)
    all_have(clients, 200)
    until(lambda: workers.call("get_users", channel) == [ann.user_id] * 20)
    workers.call("disconnect", channel, ann.user_id)
    assert {client.wait_end() for client in clients} == {"clean"}


@pytest.mark.django_db(transaction=True)
def test_process_that_serves_nothing_reaches_both_workers(workers, channel):
    ann = workers.login("ann")
    clients = [ann.connect(channel) for _ in range(6)]
    begun(*clients)
    code = f"""
import os, sys; sys.path[:0] = [{str(ROOT)!r}]
from django.conf import settings
settings.configure(DS_BROADCASTER_BROKER={workers.settings["DS_BROADCASTER_BROKER"]!r})
from ds_broadcaster import broadcast
for number in range(10):
    broadcast.elements({channel!r}, f'<li id="item-{{number}}"></li>', "#log", "append")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    all_have(clients, 10)


@pytest.mark.django_db(transaction=True)
def test_killed_worker_leaves_no_ghosts(workers, channel):
    clients = [workers.login(f"user{number}").connect(channel, presence="html") for number in range(6)]
    begun(*clients)
    shows(clients, 6)
    os.kill(workers.facts()["pid"], signal.SIGKILL)
    survivors = [client for client in clients if not ended(client)]
    shows(survivors, len(survivors), LEASE + 2)
    # Also where all of them were on the worker that is gone.
    until(lambda: len(workers.call("get_users", channel)) == len(survivors), LEASE + 2)
