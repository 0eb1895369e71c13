"""The log against a list that never forgets."""

import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import Gap
from ds_broadcaster.log import FRAME_OVERHEAD, HELD, READ_BYTES, Log, drop_oldest
from ds_broadcaster.sse import PLAIN, Facts, Frame
from tests.fakes import FACTOR

positions = st.integers(0, 60)
TABS = ("tab-number-1", "tab-number-2")


class LogMachine(RuleBasedStateMachine):
    """`model` holds (sequence, frame, time) of all that was appended, and `dropped` how many of them are gone."""

    def __init__(self):
        super().__init__()
        self.begin = 5
        self.log = Log(self.begin)
        self.model = []
        self.dropped = 0
        self.now = 100.0

    @property
    def kept(self):
        return self.model[self.dropped :]

    @property
    def floor(self):
        return self.model[self.dropped - 1][0] if self.dropped else self.begin

    def after(self, cursor):
        return [(sequence, frame) for sequence, frame, _ in self.kept if sequence > cursor]

    @rule(
        step=st.integers(1, 5),
        size=st.integers(0, 40),
        pause=st.sampled_from([0.0, 0.5, 2.0]),
        exclude=st.sampled_from([None, None, *TABS]),
    )
    def append(self, step, size, pause, exclude):
        self.now += pause
        sequence = self.log.last + step
        frame = Frame(b"%d:" % sequence + b"x" * size, PLAIN if exclude is None else Facts(exclude))
        assert self.log.append(sequence, frame, self.now) is True
        self.model.append((sequence, frame, self.now))

    @rule(back=st.integers(0, 20))
    def append_what_is_here_already(self, back):
        assert self.log.append(self.log.last - back, Frame(b"again", Facts(TABS[0])), self.now) is False

    @rule(
        max_events=st.integers(1, 8),
        max_age=st.sampled_from([0.5, 2.0, 3.0, 100.0]),
        max_bytes=st.integers(1, 1500),
        held=st.just(math.inf) | positions,
        floor=st.just(0) | positions,
    )
    def trim(self, max_events, max_age, max_bytes, held, floor):
        self.now += 0.5
        limits = History(max_events=max_events, max_age=max_age, max_bytes=max_bytes)
        before = self.log.size
        freed = self.log.trim(limits, self.now, held, floor)
        while self.kept:
            sequence, _, appended_at = self.kept[0]
            size = sum(len(frame.data) + FRAME_OVERHEAD for _, frame, _ in self.kept)
            too_much = len(self.kept) > max_events or size > max_bytes or self.now - appended_at >= max_age
            if not (too_much or sequence <= floor) or (sequence > held and size <= HELD * max_bytes):
                break
            self.dropped += 1
        assert freed == before - self.log.size

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop(self, data):
        count = data.draw(st.integers(0, len(self.kept)))
        before = self.log.size
        assert self.log.drop(count) == before - sum(
            len(frame.data) + FRAME_OVERHEAD for _, frame, _ in self.kept[count:]
        )
        self.dropped += count

    @rule(cursor=positions, limit=st.integers(0, 120))
    def read(self, cursor, limit):
        if cursor < self.floor:
            assert not self.log.covers(cursor)
            for look in (self.log.after, self.log.read):
                with pytest.raises(Gap):
                    look(cursor)
            return
        assert self.log.covers(cursor)
        expected = self.after(cursor)
        assert self.log.after(cursor) == expected
        body, reached = self.log.read(cursor, limit)
        taken = [(sequence, frame) for sequence, frame in expected if sequence <= reached]
        assert body == b"".join(frame.data for _, frame in taken)
        if not expected:
            assert (body, reached) == (b"", cursor)
        else:
            assert reached == taken[-1][0]
            assert len(taken) == 1 or len(body) <= limit
            rest = expected[len(taken) :]
            assert not rest or len(body) + len(rest[0][1].data) > limit, "more would have fitted"

    @rule(cursor=positions)
    def read_in_steps_to_the_end(self, cursor):
        if cursor >= self.floor:
            expected = b"".join(frame.data for _, frame in self.after(cursor))
            read = b""
            for _ in range(len(self.model) + 1):
                body, cursor = self.log.read(cursor, 30)
                read += body
                if not body:
                    break
            assert read == expected
            assert not body

    @rule(cursor=positions, tab=st.sampled_from(TABS))
    def ask_for_what_a_tab_does_not_get(self, cursor, tab):
        expected = any(frame.facts.exclude == tab for sequence, frame in self.after(cursor))
        assert self.log.excludes(tab, cursor) == expected
        assert not self.log.excludes(None, cursor)

    @invariant()
    def it_says_what_it_holds(self):
        assert len(self.log) == len(self.kept)
        assert self.log.floor == self.floor
        assert self.log.last == (self.model[-1][0] if self.model else self.begin)
        assert self.log.size == sum(len(frame.data) + FRAME_OVERHEAD for _, frame, _ in self.kept)
        assert self.log.oldest() == (self.kept[0][0] if self.kept else math.inf)


def test_log_is_a_list_that_forgets_its_beginning():
    run_state_machine_as_test(
        LogMachine,
        settings=settings(max_examples=150 * FACTOR, stateful_step_count=40, deadline=None, print_blob=True),
    )


@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    excess=st.integers(-10, 4000),
    data=st.data(),
)
def test_oldest_of_all_logs_are_dropped_and_no_more_than_need_be(counts, excess, data):
    logs = [Log() for _ in counts]
    owners = data.draw(st.permutations([number for number, count in enumerate(counts) for _ in range(count)]))
    for sequence, number in enumerate(owners, 1):
        logs[number].append(sequence, Frame(b"x" * data.draw(st.integers(0, 300))), 0)
    before = sum(log.size for log in logs)
    freed = drop_oldest(logs, excess)
    assert before - sum(log.size for log in logs) == freed
    assert freed >= min(excess, before)
    kept = sorted(sequence for log in logs for sequence, _ in log.after(log.floor))
    assert kept == list(range(len(owners) - len(kept) + 1, len(owners) + 1))
    assert freed == 0 or freed - excess < 300 + FRAME_OVERHEAD


def test_one_read_is_what_a_transport_holds():
    log = Log()
    for sequence in range(1, 200):
        log.append(sequence, Frame(b"x" * 1000), 0)
    body, reached = log.read(0)
    assert READ_BYTES - 1000 < len(body) <= READ_BYTES
    assert reached == len(body) // 1000


def test_frame_that_is_larger_than_one_read_is_read_whole():
    log = Log()
    log.append(1, Frame(b"x" * (READ_BYTES * 2)), 0)
    log.append(2, Frame(b"y"), 0)
    assert log.read(0) == (b"x" * (READ_BYTES * 2), 1)
    assert log.read(1) == (b"y", 2)


def test_limits_hold_at_their_very_value():
    log = Log()
    for sequence in range(1, 4):
        log.append(sequence, Frame(b"x" * 80), float(sequence))
    assert log.trim(History(max_events=3, max_bytes=600, max_age=4), 4.5) == 0
    assert len(log) == 3
    log.trim(History(max_events=3, max_bytes=599), 4.5)
    assert len(log) == 2
    log.trim(History(max_events=3, max_age=2.5), 4.5)
    assert log.oldest() == 3


def test_size_is_about_what_the_memory_is():
    log = Log()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for sequence in range(1, 2001):
            log.append(sequence + 10_000, Frame(b"%08d" % sequence + b"x" * 200), 1000.0 + sequence)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.size == pytest.approx(after - before, rel=0.25)
