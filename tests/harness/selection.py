"""What each test needs, as marks; and which files a parallel run begins with.

`make test-fast` leaves out what is marked. The marks follow from a test's fixtures. A test that starts a server or a
broker in another way is marked by hand, and fails with a word about it while it is not.
"""

import itertools
import os
from collections.abc import Iterable

import pytest

# What `make test-fast` leaves out.
MARKS = ("servers", "browser", "brokers", "slow")

# Files whose tests drive Redis or PostgreSQL, nearly all of them.
BROKERS = {
    "tests.brokers.test_chaos",
    "tests.brokers.test_cluster",
    "tests.brokers.test_postgres",
    "tests.brokers.test_redis",
    "tests.brokers.test_redis_messages",
    "tests.brokers.test_redis_runs",
    "tests.harness.test_brokers",
    "tests.benchmarks.test_herd",
}

# The files that take longest, so that no worker is left alone with one at the end. Those that wait and those that
# compute take turns, and share the machine well.
LONGEST = [
    "tests/templatetags/test_browser.py",
    "tests/brokers/test_postgres.py",
    "tests/cookbook/test_room.py",
    "tests/brokers/test_contract.py",
    "tests/test_receivers.py",
    "tests/test_browser.py",
    "tests/brokers/test_cluster.py",
    "tests/streams/test_endings.py",
    "tests/streams/test_away.py",
    "tests/brokers/test_chaos.py",
    "tests/inspector/test_views.py",
    "tests/harness/test_brokers.py",
    "tests/streams/test_load.py",
    "tests/brokers/test_redis.py",
    "tests/streams/test_streams.py",
    "tests/cookbook/test_recipes.py",
    "tests/streams/test_servers.py",
    "tests/views/test_channel_view.py",
    "tests/brokers/test_redis_runs.py",
    "tests/hub/test_tabs.py",
    "tests/attack/test_races.py",
    "tests/streams/test_presence.py",
    "tests/test_scripts.py",
    "tests/harness/test_harness.py",
    "tests/models/test_live.py",
    "tests/templatetags/test_page_refresh.py",
    "tests/testing/test_broker_contract.py",
    "tests/trial/test_projects.py",
    "tests/testing/test_live_server.py",
    "tests/cookbook/test_own_tests.py",
    "tests/streams/test_dead_peers.py",
    "tests/streams/test_replay.py",
    "tests/streams/test_refusals.py",
    "tests/hub/test_rechecks.py",
    "tests/attack/test_floods.py",
    "tests/models/test_lists.py",
    "tests/streams/test_taken_over.py",
    "tests/views/test_routes.py",
    "tests/contrib/test_runserver.py",
    "tests/cookbook/test_file_broker.py",
    "tests/hub/test_hub.py",
    "tests/streams/test_development.py",
    "tests/test_sse.py",
    "tests/attack/test_forged_events.py",
]

_running: list[pytest.Item] = []


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test with what its fixtures and its file say that it needs."""
    for item in items:
        if item.module.__name__ in BROKERS:
            item.add_marker("brokers")
        if "chromium" in item.fixturenames:
            item.add_marker("browser")
        # The server of the harness' own tests has no database.
        if "bare" in item.fixturenames or _asks_for_the_database(item):
            item.add_marker("servers")


def _asks_for_the_database(item: pytest.Item) -> bool:
    """Tell whether a test, or a fixture of ours that it uses, wants the database to be there: for a server."""
    found = item._fixtureinfo
    fixtures = itertools.chain.from_iterable(found.name2fixturedefs.values())
    ours = (fixture.argnames for fixture in fixtures if fixture.func.__module__.startswith("tests."))
    return any("django_db_setup" in names for names in (found.argnames, *ours))


def longest_first(items: list[pytest.Item]) -> None:
    """Put the files in the order in which a parallel run hands them out."""
    places = {path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


def workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: two for each core, for half of their time they wait.

    None but pytest's own for a single file, which is never divided, and where the output is to be seen at once (`-s`).
    """
    alone = len(config.args) == 1 and ".py" in config.args[0]
    if alone or config.option.capture == "no":
        return 0
    return min(8, 2 * _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def running(item: pytest.Item) -> None:
    """Take note of the test that is about to run."""
    _running[:] = [item]


def needs(name: str) -> None:
    """Refuse to start something for a test that `make test-fast` would run: this is the mark that it lacks."""
    for item in _running:
        if not any(map(item.get_closest_marker, MARKS)):
            pytest.fail(f"Mark this test with @pytest.mark.{name}: `make test-fast` leaves out such tests.")
