"""Lines in the log that would be a flood."""

from ds_broadcaster.tally import Tally


def test_line_is_due_once_in_so_many_seconds_with_the_number_since_the_last():
    now = [100.0]
    tally = Tally(10, lambda: now[0])
    assert tally.add() == 1
    assert [tally.add() for _ in range(5)] == [0] * 5
    now[0] += 9.9
    assert tally.add() == 0
    now[0] += 0.1
    assert tally.add() == 7
    now[0] += 1000
    assert tally.add() == 1
