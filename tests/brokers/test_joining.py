"""Publishers that come while a step is on its way are joined into the next one."""

import asyncio
import threading

import pytest

from ds_broadcaster.brokers.joining import MOST_BYTES, MOST_ITEMS, Joining, LoopJoining
from ds_broadcaster.exceptions import BrokerUnavailable
from tests.harness.programs import wait_until


class Steps:
    """A broker's steps, each of which waits for its turn while `is_held`."""

    def __init__(self):
        self.taken = []
        self.is_held = False
        self.error = None
        self.before = lambda: None
        self._turn = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, items):
        with self._lock:
            self.taken.append(items)
            newest = sum(map(len, self.taken))
        if self.is_held:
            assert self._turn.acquire(timeout=20)
        self.before()
        if self.error is not None:
            raise self.error
        return range(newest - len(items) + 1, newest + 1)

    def go_on(self, count=1):
        self._turn.release(count)


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def joining(steps):
    return Joining(steps, len)


class Caller(threading.Thread):
    """A thread that publishes some items, one after another."""

    def __init__(self, joining, *items):
        super().__init__()
        self._joining = joining
        self._items = items
        self.sequences = []
        self.errors = []
        self.start()

    def run(self):
        for item in self._items:
            try:
                self.sequences.append(self._joining.publish([item]))
            except BaseException as error:
                self.errors.append(error)


def waiting(joining, count):
    wait_until(lambda: len(joining._waiting) == count, f"{count} who wait")


def test_one_who_is_alone_is_published_at_once(joining, steps):
    assert [joining.publish(["a"]), joining.publish(["b", "c"]), joining.publish(["d"])] == [1, 3, 4]
    assert steps.taken == [["a"], ["b", "c"], ["d"]]


def test_those_who_come_during_a_step_share_the_next(joining, steps):
    steps.is_held = True
    first = Caller(joining, "a")
    wait_until(lambda: steps.taken, "the first step")
    others = []
    for number, item in enumerate("bcd"):
        others.append(Caller(joining, item))
        waiting(joining, number + 1)
    steps.go_on(2)
    for each in (first, *others):
        each.join(20)
    assert steps.taken == [["a"], ["b", "c", "d"]]
    assert [each.sequences for each in (first, *others)] == [[1], [2], [3], [4]]


def test_order_within_a_thread_stays(joining, steps):
    callers = [Caller(joining, *[(name, number) for number in range(200)]) for name in range(8)]
    for each in callers:
        each.join(30)
    items = [item for step in steps.taken for item in step]
    assert len(items) == 1600
    for name in range(8):
        assert [number for thread, number in items if thread == name] == list(range(200))
        assert [items[sequence - 1] for sequence in callers[name].sequences] == [(name, n) for n in range(200)]


@pytest.mark.parametrize("error", [BrokerUnavailable("It is away."), KeyboardInterrupt()])
def test_step_that_fails_tells_all_its_callers_and_no_others(joining, steps, error):
    steps.is_held = True
    first = Caller(joining, "a")
    wait_until(lambda: steps.taken, "the first step")
    failing = [Caller(joining, "b"), Caller(joining, "c")]
    waiting(joining, 2)
    steps.go_on()
    wait_until(lambda: len(steps.taken) == 2, "the second step")
    last = Caller(joining, "d")
    waiting(joining, 1)
    steps.error = error
    steps.before = lambda: setattr(steps, "before", lambda: setattr(steps, "error", None))
    steps.go_on(2)
    for each in (first, *failing, last):
        each.join(20)
    assert first.sequences == [1]
    assert last.sequences == [4]
    told = [failed for each in failing for failed in each.errors]
    assert len({*map(id, told)}) == 2
    assert [each for each in told if isinstance(each, BrokerUnavailable) or each is error] == told
    steps.is_held = False
    assert joining.publish(["e"]) == 5


def test_steps_are_bounded(joining, steps):
    steps.is_held = True
    first = Caller(joining, "a")
    wait_until(lambda: steps.taken, "the first step")
    sizes = [MOST_BYTES - 10, 10, 1, 2 * MOST_BYTES, 1]
    callers = []
    for number, size in enumerate(sizes):
        callers.append(Caller(joining, "x" * size))
        waiting(joining, number + 1)
    steps.go_on(10)
    for each in (first, *callers):
        each.join(20)
    assert [list(map(len, step)) for step in steps.taken[1:]] == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


def test_caller_who_interrupts_itself_waits_for_nobody(joining, steps):
    """A handler of a signal, or of the log, publishes within the step of its own thread."""
    steps.before = lambda: len(steps.taken) == 1 and inner.append(joining.publish(["inner"]))
    inner = []
    assert joining.publish(["outer"]) == 1
    assert inner == [2]


# Coroutines


def in_thread(steps):
    async def step(items):
        return await asyncio.to_thread(steps, items)

    return step


def test_coroutines_share_steps_and_each_gets_its_own_sequence(steps):
    async def test():
        loops = LoopJoining(in_thread(steps), len)
        found = await asyncio.gather(*[loops.publish([each]) for each in "abcd"])
        assert found == [1, 2, 3, 4]
        assert steps.taken == [["a"], ["b", "c", "d"]]
        assert await loops.publish(["e", "f"]) == 6

    asyncio.run(test())


def test_coroutines_of_a_step_that_fails_each_get_their_own_error(steps):
    async def test():
        loops = LoopJoining(in_thread(steps), len)
        steps.error = BrokerUnavailable("It is away.")
        found = await asyncio.gather(*[loops.publish([each]) for each in "abc"], return_exceptions=True)
        assert [str(each) for each in found] == ["It is away."] * 3
        assert len({*map(id, found)}) == 3
        steps.error = None
        assert await loops.publish(["d"]) == 4

    asyncio.run(test())


def test_coroutine_that_is_cancelled_publishes_nothing_unless_its_step_has_begun(steps):
    async def test():
        loops = LoopJoining(in_thread(steps), len)
        steps.is_held = True
        first, second, third = (asyncio.ensure_future(loops.publish([each])) for each in "abc")
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        steps.go_on(2)
        assert await third == 2
        assert steps.taken == [["a"], ["c"]]

    asyncio.run(test())


def test_steps_of_coroutines_are_bounded(steps):
    async def test():
        loops = LoopJoining(in_thread(steps), len)
        await asyncio.gather(*[loops.publish(["x"]) for _ in range(2 * MOST_ITEMS)])
        assert list(map(len, steps.taken)) == [1, MOST_ITEMS, MOST_ITEMS - 1]

    asyncio.run(test())
