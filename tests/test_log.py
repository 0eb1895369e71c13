"""The log against a list that never forgets."""

import math
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ds_broadcaster.compaction import CONTAINER, NOTHING, REFRESH, SIGNALS
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import Gap
from ds_broadcaster.log import _NONE, FACTS_OVERHEAD, FRAME_OVERHEAD, HELD, READ_BYTES, TRANSIENT_AGE, Log, drop_oldest
from ds_broadcaster.sse import PLAIN, Facts, Frame
from tests.fakes import FACTOR

positions = st.integers(0, 60)
TABS = ("tab-number-1", "tab-number-2")


class Kept(NamedTuple):
    """An event of the model."""

    sequence: int
    frame: Frame
    at: float

    @property
    def is_transient(self):
        return self.frame.facts.is_transient

    @property
    def size(self):
        facts = self.frame.facts
        return (
            len(self.frame.data) + FRAME_OVERHEAD + (FACTS_OVERHEAD if facts not in (PLAIN, Facts(replaces="")) else 0)
        )


def is_superfluous(earlier, later, between):
    """Tell by the definition whether one event makes another superfluous, given those between them."""
    one, other = earlier.frame.facts, later.frame.facts
    if not other.replaces or one.replaces != other.replaces or other.exclude not in (None, one.exclude):
        return False
    names = [each.frame.facts.replaces for each in between]
    if other.replaces.startswith(REFRESH):
        return True
    if other.replaces.startswith(CONTAINER):
        return all(name == other.replaces or (name and name.startswith((SIGNALS, REFRESH))) for name in names)
    return None not in names


class LogMachine(RuleBasedStateMachine):
    """`appended` holds the whole history, `kept` all that the log should have, `superfluous` what it drops next."""

    def __init__(self):
        super().__init__()
        self.begin = self.floor = 5
        self.log = Log(self.begin)
        self.appended = []
        self.kept = []
        self.superfluous = []
        self.now = 100.0

    def after(self, cursor):
        return [each for each in self.kept if each.sequence > cursor]

    def append(self, step, size, pause, facts):
        self.now += pause
        sequence = self.log.last + step
        new = Kept(sequence, Frame(b"%d:" % sequence + b"x" * size, facts), self.now)
        assert self.log.append(sequence, new.frame, self.now) is True
        if facts.is_transient:
            self.superfluous += [
                each for each in self.kept if facts.key is not None and each.frame.facts.key == facts.key
            ]
        else:
            for number, earlier in enumerate(self.appended):
                if earlier in self.kept and is_superfluous(earlier, new, self.appended[number + 1 :]):
                    self.superfluous.append(earlier)
            self.appended.append(new)
        self.kept.append(new)

    @rule(
        step=st.integers(1, 5),
        size=st.integers(0, 40),
        pause=st.sampled_from([0.0, 0.5, 2.0]),
        exclude=st.sampled_from([None, None, *TABS]),
        replaces=st.sampled_from([None, NOTHING, "e:1", "e:2", "c:1", "c:2", "s:1"]),
    )
    def append_to_the_history(self, step, size, pause, exclude, replaces):
        facts = Facts(exclude, replaces=replaces)
        self.append(step, size, pause, PLAIN if facts == PLAIN else facts)

    @rule(step=st.integers(1, 5), exclude=st.sampled_from([None, *TABS]))
    def refresh(self, step, exclude):
        self.append(step, 0, 0.0, Facts(exclude, replaces=REFRESH, is_refresh=True))

    @rule(
        step=st.integers(1, 5),
        size=st.integers(0, 40),
        pause=st.sampled_from([0.0, 0.5]),
        exclude=st.sampled_from([None, *TABS]),
        key=st.sampled_from([None, "a", "b"]),
    )
    def append_what_is_transient(self, step, size, pause, exclude, key):
        self.append(step, size, pause, Facts(exclude, is_transient=True, key=key))

    @rule(back=st.integers(0, 20))
    def append_what_is_here_already(self, back):
        assert self.log.append(self.log.last - back, Frame(b"again", Facts(TABS[0])), self.now) is False

    @rule(
        max_events=st.integers(1, 8),
        max_age=st.sampled_from([0.5, 2.0, 3.0, 100.0]),
        max_bytes=st.integers(1, 3000),
        held=st.just(math.inf) | positions,
        floor=st.just(0) | positions,
        is_waited_for=st.booleans(),
    )
    def trim(self, max_events, max_age, max_bytes, held, floor, is_waited_for):
        self.now += 0.5
        limits = History(max_events=max_events, max_age=max_age, max_bytes=max_bytes)
        before = self.log.size
        freed = self.log.trim(limits, self.now, held, floor, is_waited_for=is_waited_for)
        self.kept = [each for each in self.kept if each not in self.superfluous]
        self.superfluous = []
        while transient := [each for each in self.kept if each.is_transient]:
            too_much = len(transient) > max_events or sum(each.size for each in transient) > max_bytes
            if not too_much and (is_waited_for or self.now - transient[0].at < TRANSIENT_AGE):
                break
            self.kept.remove(transient[0])
        while lasting := [each for each in self.kept if not each.is_transient]:
            sequence, _, appended_at = lasting[0]
            size = sum(each.size for each in lasting)
            too_much = len(lasting) > max_events or size > max_bytes or self.now - appended_at >= max_age
            if not (too_much or sequence <= floor) or (sequence > held and size <= HELD * max_bytes):
                break
            self.forget(sequence)
        assert freed == before - self.log.size

    def forget(self, until):
        gone = [each for each in self.kept if each.sequence <= until]
        self.kept = self.kept[len(gone) :]
        self.floor = max([self.floor, *(each.sequence for each in gone if not each.is_transient)])

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop(self, data):
        count = data.draw(st.integers(0, len(self.kept)))
        before = self.log.size
        freed = self.log.drop(count)
        if count:
            self.forget(self.kept[count - 1].sequence)
        assert freed == before - sum(each.size for each in self.kept)

    @rule()
    def drop_transients(self):
        self.log.drop_transients()
        self.kept = [each for each in self.kept if not each.is_transient]

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
        assert [(sequence, frame.data) for sequence, frame in self.log.after(cursor)] == [
            (each.sequence, each.frame.data) for each in expected
        ]
        body, reached = self.log.read(cursor, limit)
        taken = [each for each in expected if each.sequence <= reached]
        assert body == b"".join(each.frame.data for each in taken)
        if not expected:
            assert (body, reached) == (b"", max(cursor, self.log.last))
        else:
            assert reached == taken[-1].sequence
            assert len(taken) == 1 or len(body) <= limit
            rest = expected[len(taken) :]
            assert not rest or len(body) + len(rest[0].frame.data) > limit, "more would have fitted"

    @rule(cursor=positions)
    def read_in_steps_to_the_end(self, cursor):
        if cursor >= self.floor:
            expected = b"".join(each.frame.data for each in self.after(cursor))
            read = b""
            for _ in range(len(self.kept) + 1):
                body, cursor = self.log.read(cursor, 30)
                read += body
                if not body:
                    break
            assert read == expected
            assert not body

    @rule(cursor=positions, tab=st.sampled_from(TABS))
    def ask_for_what_a_tab_does_not_get(self, cursor, tab):
        expected = any(each.frame.facts.exclude == tab for each in self.after(cursor))
        if expected:  # More than need be does no harm.
            assert self.log.excludes(tab, cursor)
        assert not self.log.excludes(None, cursor)
        assert self.log.has_transients(cursor) == any(each.is_transient for each in self.after(cursor))

    @rule(cursor=positions)
    def look_for_the_next_refresh(self, cursor):
        refreshes = [each for each in self.after(cursor) if each.frame.facts.is_refresh]
        sequence, frame = self.log.next_stop(cursor)
        if refreshes:
            assert (sequence, frame) == (refreshes[0].sequence, refreshes[0].frame)
        else:
            assert frame is None

    @invariant()
    def it_says_what_it_holds(self):
        assert len(self.log) == len(self.kept)
        assert self.log.floor == self.floor
        appended = [each.sequence for each in self.appended if each.frame.facts.is_refresh]
        assert self.log.refreshed_at == max(appended, default=0)
        assert self.log.size == sum(each.size for each in self.kept)
        assert self.log.oldest() == (self.kept[0].sequence if self.kept else math.inf)

    def teardown(self):
        assert len(self.log._facts) <= len(self.kept)
        self.log.drop(len(self.kept))
        self.log.trim(History(), self.now)
        assert not any((self.log._facts, self.log._excluding, self.log._keys, self.log._transients, self.log.size))
        assert not any((self.log._refreshes, self.log._transient_size, _NONE))
        assert self.log._wholes is None or not any((self.log._wholes._newest, self.log._wholes._excluding))


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


def frame_of(sequence, facts):
    own = facts._replace(replaces=f"e:{sequence}") if facts.replaces else facts._replace() if facts != PLAIN else PLAIN
    return Frame(b"%08d" % sequence + b"x" * 200, own)


@pytest.mark.parametrize(
    "facts", [PLAIN, Facts(is_transient=True), Facts(replaces="e:")], ids=["none", "transient", "name"]
)
def test_size_is_about_what_the_memory_is(facts):
    log = Log()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for sequence in range(1, 2001):
            log.append(sequence + 10_000, frame_of(sequence, facts), 1000.0 + sequence)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.size == pytest.approx(after - before, rel=0.25)
