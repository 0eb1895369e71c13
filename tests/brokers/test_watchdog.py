"""The limit on the time of calls that block."""

import os
import threading

import pytest

from ds_broadcaster.brokers.postgres.watchdog import Watchdog
from tests.harness.programs import wait_until


def test_call_that_takes_too_long_is_ended_and_no_other():
    watchdog = Watchdog(0.1)
    ended, is_ended = [], threading.Event()
    short = watchdog.watch(lambda: ended.append("short"))
    watchdog.watch(lambda: (ended.append("long"), is_ended.set()))
    watchdog.release(short)
    assert is_ended.wait(10)
    assert ended == ["long"]


def test_no_thread_and_nothing_else_stays_when_the_calls_have_returned():
    watchdog = Watchdog(0.1)
    first = watchdog.watch(pytest.fail)
    for _ in range(1000):
        watchdog.release(watchdog.watch(pytest.fail))
    watchdog.release(first)
    assert not watchdog._calls
    wait_until(lambda: not watchdog._is_watching, "the end of the thread")
    is_ended = threading.Event()
    watchdog.watch(is_ended.set)
    assert is_ended.wait(10)


def test_child_of_a_fork_has_its_own():
    watchdog = Watchdog(60)
    call = watchdog.watch(pytest.fail)
    child = os.fork()
    if not child:
        os._exit(0 if not watchdog._calls and not watchdog._is_watching else 1)
    assert os.waitpid(child, 0)[1] == 0
    watchdog.release(call)
