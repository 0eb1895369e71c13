"""The load client of the run with 100,000 streams: it must notice what is lost, and what comes twice."""

import contextlib
import time

import pytest

from benchmarks.herd import Herd
from benchmarks.machine import CannotMeasure
from tests.harness.redis import RedisServer
from tests.harness.server import Server

STREAMS = 20
# Of one worker. When it is alone, two streams find no place.
MOST = 18


@pytest.fixture(scope="module")
def workers(django_db_setup):
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings = {"MIDDLEWARE": [], "DS_BROADCASTER_MAX_CONNECTIONS": MOST} | redis.settings
        yield [stack.enter_context(Server(settings=settings)) for _ in range(2)]


@pytest.fixture
def herd(workers, channel):
    """Streams of two channels at two workers, from two processes."""
    ports = [worker.port for worker in workers]
    try:
        herd = Herd(ports, f"/connect/{channel}-{{c}}/", STREAMS, channels=2, processes=2)
    except CannotMeasure as error:
        pytest.skip(str(error))
    with herd:
        herd.wait_open(10)
        yield herd


def send(worker, channel, number, size=10):
    html = f'<p data-ts="{time.time_ns()}" data-n="{number}">{"x" * size}</p>'
    for each in (0, 1):
        worker.call("elements", f"{channel}-{each}", html, "#log", "append")


def test_what_is_left_out_or_comes_again_is_counted(workers, herd, channel):
    for number in (0, 2, 2, 1, 3):
        send(workers[0], channel, number)
    herd.wait_round(3, 5)
    assert [herd.count(number) for number in range(5)] == [STREAMS, 0, STREAMS, STREAMS, 0]
    seen = herd.status()
    assert (seen["missed"], seen["repeated"]) == (STREAMS, 2 * STREAMS)


def test_streams_of_a_killed_worker_get_everything_from_others_and_from_its_replacement(workers, herd, channel):
    send(workers[0], channel, 0)
    herd.wait_round(0, 5)
    workers[1].kill()
    send(workers[0], channel, 1)
    herd.wait(lambda: herd.status()["open"] == MOST, "the other worker to be full", 10)
    send(workers[0], channel, 2, size=100_000)
    herd.wait(lambda: herd.count(2) == MOST, "the event at those who are open", 10)
    workers[1].start()
    herd.wait_open(10)
    assert herd.wait_round(2, 10).total() == herd.count(1) == STREAMS
    seen = herd.status()
    assert (seen["lost"], seen["opened"], seen["events"]) == (STREAMS // 2, STREAMS * 3 // 2, 3 * STREAMS)
    assert seen["refused"] + seen["broken_off"] > 0
    assert seen["unreachable"] > 0
    assert seen["missed"] == seen["repeated"] == 0
