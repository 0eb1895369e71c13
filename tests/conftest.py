"""Fixtures: servers, streams, browsers. Everything a test opens is closed after it."""

import itertools

import pytest

from tests.harness.browser import Chromium
from tests.harness.requirements import require_client_bundle
from tests.harness.server import Server, running_servers
from tests.harness.sse import close_all_clients

_numbers = itertools.count(1)


@pytest.fixture
def channel(request):
    """A channel name that no other test uses."""
    return f"channel-{next(_numbers)}"


@pytest.fixture(autouse=True)
def _close_streams():
    yield
    close_all_clients()


# Servers


def _refuse_a_wrapping_transaction(request):
    marker = request.node.get_closest_marker("django_db")
    wrapped = marker and not marker.kwargs.get("transaction") and "transactional_db" not in request.fixturenames
    if wrapped or ({"db", "transactional_db"} & set(request.fixturenames) == {"db"} and not marker):
        pytest.fail(
            "A test's own transaction locks the database that it shares with the server: "
            "mark the test with django_db(transaction=True).",
            pytrace=False,
        )


@pytest.fixture
def start_server(request, django_db_setup):
    """Start servers of this test's own: `start_server(kind, mode, settings={...}, args=[...])`."""
    _refuse_a_wrapping_transaction(request)
    servers = []

    def start(*args, **kwargs):
        server = Server(*args, **kwargs)
        servers.append(server)
        return server.start()

    try:
        yield start
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="session")
def _shared_servers(django_db_setup):
    servers = {}
    try:
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture
def server(request, _shared_servers):
    """A server that tests share, one for each "kind/mode"; see `each_server` and `each_mode` in the harness.

    A test that changes more than its own channel, or ends the server, starts its own with `start_server`.
    """
    _refuse_a_wrapping_transaction(request)
    name = getattr(request, "param", "uvicorn-httptools/handoff")
    found = _shared_servers.get(name)
    if found is None or not found.alive:
        kind, _, mode = name.partition("/")
        _shared_servers[name] = found = Server(kind, mode).start()
    return found


# Browsers


@pytest.fixture(scope="session")
def _chromium():
    chromium = Chromium()
    try:
        yield chromium
    finally:
        chromium.quit()


@pytest.fixture
def chromium(_chromium):
    """The browser: `chromium.tab(visitor)` opens a window, `chromium.second_tab(tab)` a tab beside it."""
    require_client_bundle()
    yield _chromium
    _chromium.close_tabs()


# The files whose tests start Redis or PostgreSQL.
BROKERS = {
    "tests.brokers.test_chaos",
    "tests.brokers.test_cluster",
    "tests.brokers.test_contract",
    "tests.brokers.test_postgres",
    "tests.brokers.test_redis",
    "tests.harness.test_brokers",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__ in BROKERS:
            item.add_marker("brokers")
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


# Failures show what the servers printed meanwhile


def pytest_runtest_setup(item):
    item.stash[_log_sizes] = {id(server): server.log_size() for server in running_servers}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        sizes = item.stash.get(_log_sizes, {})
        for server in running_servers:
            if log := server.log(sizes.get(id(server), 0)).strip():
                report.sections.append((f"{server.kind}/{server.mode} printed", log[-8000:]))
    return report


_log_sizes = pytest.StashKey[dict[int, int]]()
