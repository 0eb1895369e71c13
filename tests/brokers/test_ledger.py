"""What a process says again to a presence store that lost its memory."""

import pytest

from ds_broadcaster.brokers import GONE, PresenceChange, PresenceDiff
from ds_broadcaster.brokers.ledger import Ledger


def answer(memory="first", **options):
    return PresenceDiff([], [], memory=memory, **options)


def here(*users):
    """Return that these users are on a channel."""
    return [PresenceChange("a", None, len(users) or GONE), *(PresenceChange("a", user, 1) for user in users)]


def gone(user):
    return PresenceChange("a", user, GONE)


def told(changes):
    """Return the number of connections of each user, and whether they are known."""
    return {each.user: (each.connections, each.is_known) for each in changes if each.user is not None}


@pytest.fixture
def ledger():
    """A ledger of users 1 and 2, whose joins the cluster was told."""
    ledger = Ledger()
    ledger.note(here(1, 2), answer(is_forgotten=True))
    assert not ledger.is_behind
    return ledger


def test_lost_memory_is_told_everything_with_those_who_are_known_and_those_who_left_meanwhile(ledger):
    ledger.note([gone(2), *here(1, 3)], answer("second", is_forgotten=True, is_settled=False))
    assert ledger.is_behind
    assert told(ledger.everything(here(1, 3))) == {1: (1, True), 2: (GONE, True), 3: (1, False)}


def test_channel_that_has_ended_meanwhile_is_told_as_a_whole(ledger):
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    changes = ledger.everything([])
    assert [each for each in changes if each.user is None] == [PresenceChange("a", None, GONE)]
    assert told(changes) == {1: (GONE, True), 2: (GONE, True)}


def test_memory_that_is_lost_before_it_settled_knows_what_the_cluster_was_told_before(ledger):
    for memory in ("second", "third"):
        ledger.note(here(1, 2), answer(memory, is_forgotten=True, is_settled=False))
        assert ledger.is_behind
        ledger.note(ledger.everything(here(1, 2)), answer(memory, is_settled=False))
        ledger.note([gone(2), *here(1, 3)], answer(memory, is_settled=False))
        assert not ledger.is_behind
        assert ledger.known() == {("a", 1), ("a", 2)}
    ledger.note([], answer("third"))
    assert ledger.known() == {("a", 1), ("a", 3)}


def test_memory_that_was_lost_and_has_settled_since_the_last_call_is_told_who_is_known(ledger):
    ledger.note([], answer("second", is_forgotten=True))
    assert told(ledger.everything(here(1, 2))) == {1: (1, True), 2: (1, True)}
    ledger.note(ledger.everything(here(1, 2)), answer("second"))
    assert not ledger.is_behind


def test_everything_is_due_until_it_was_told(ledger):
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    for _ in range(2):  # The call fails, and nothing is noted.
        assert told(ledger.everything(here(1, 2))) == {1: (1, True), 2: (1, True)}
        assert ledger.is_behind


def test_process_that_was_taken_for_dead_tells_everything_as_new(ledger):
    ledger.note([], answer(is_forgotten=True))
    assert ledger.is_behind
    assert told(ledger.everything(here(1, 2))) == {1: (1, False), 2: (1, False)}


def test_process_that_was_taken_for_dead_before_the_store_settled_tells_everything_as_new(ledger):
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    ledger.note(ledger.everything(here(1, 2)), answer("second", is_settled=False))
    ledger.note([], answer("second", is_forgotten=True))
    assert told(ledger.everything(here(1, 2))) == {1: (1, False), 2: (1, False)}


def test_leave_that_waits_is_told_again_where_nothing_else_is(ledger):
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    ledger.note(ledger.everything([]), answer("second", is_settled=False))
    ledger.note([], answer("third", is_forgotten=True, is_settled=False))
    assert ledger.is_behind
    assert told(ledger.everything([])) == {1: (GONE, True), 2: (GONE, True)}


def test_joins_that_wait_are_not_known():
    ledger = Ledger()
    ledger.note(here(1), answer(is_forgotten=True, is_settled=False))
    assert ledger.known() == set()
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    assert ledger.is_behind
    assert told(ledger.everything(here(1))) == {1: (1, False)}
    ledger.note(ledger.everything(here(1)), answer("second"))
    assert ledger.known() == {("a", 1)}


def test_process_that_has_nothing_is_never_behind():
    ledger = Ledger()
    for memory in ("first", "second"):
        ledger.note([], answer(memory, is_forgotten=True))
        assert not ledger.is_behind


def test_connections_of_anonymous_users_are_told_again():
    ledger = Ledger()
    ledger.note([PresenceChange("a", None, 2)], answer(is_forgotten=True))
    ledger.note([], answer("second", is_forgotten=True, is_settled=False))
    assert ledger.is_behind
