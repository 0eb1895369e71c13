"""What `make test-fast` leaves out, and how a parallel run is spread."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from tests.harness import selection
from tests.harness.redis import RedisServer
from tests.harness.server import ROOT, Server


@pytest.mark.parametrize("start, name", [(Server, "servers"), (RedisServer, "brokers")])
def test_unmarked_test_starts_nothing(start, name):
    with pytest.raises(pytest.fail.Exception, match=f"@pytest.mark.{name}"):
        start()


def test_files_that_are_named_exist():
    assert [path for path in selection.LONGEST if not (ROOT / path).exists()] == []
    assert [name for name in selection.BROKERS if find_spec(name) is None] == []


def test_longest_files_come_first_and_the_others_keep_their_order():
    names = ["tests/test_a.py::b", "tests/test_a.py::a", f"{selection.LONGEST[1]}::x", f"{selection.LONGEST[0]}::x"]
    items = [SimpleNamespace(nodeid=name) for name in names]
    selection.longest_first(items)
    assert [item.nodeid for item in items] == [names[3], names[2], names[0], names[1]]


@pytest.mark.parametrize(
    "args, capture, is_parallel",
    [
        (["tests"], "fd", True),
        (["tests/hub", "tests/views"], "fd", True),
        (["tests"], "no", False),
        (["tests/test_ids.py"], "fd", False),
        (["tests/test_ids.py::test_x[1]"], "fd", False),
    ],
)
def test_single_file_and_visible_output_stay_in_one_process(args, capture, is_parallel):
    config = SimpleNamespace(args=args, option=SimpleNamespace(capture=capture))
    assert (selection.workers(config) > 1) is is_parallel
