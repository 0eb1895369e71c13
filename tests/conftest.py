"""Fixtures: servers, streams, browsers. Everything a test opens is closed after it."""

import itertools

import hypothesis
import pytest
from django.core.management.color import no_style
from django.db import connection

from tests.harness import selection
from tests.harness.browser import CLIENTS, Chromium
from tests.harness.requirements import require_client_bundle
from tests.harness.server import Server, logins, running_servers
from tests.harness.sse import close_all_clients

_numbers = itertools.count(1)

# How long an example takes is the machine's business, which runs other tests meanwhile.
hypothesis.settings.register_profile("parallel", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("parallel")


@pytest.fixture
def channel(request):
    """A channel name that no other test uses."""
    return f"channel-{next(_numbers)}"


@pytest.fixture(autouse=True)
def _close_streams():
    yield
    close_all_clients()


# What views of servers write stays: none of it is in a transaction that is rolled back.
LASTING = {"django_content_type", "django_migrations", "auth_permission"}


@pytest.fixture(autouse=True)
def _forget_users(django_db_blocker):
    """Empty the database after a test that logged in to a server, so that the next one may make the same users."""
    yield
    if not logins:
        return
    logins.clear()
    with django_db_blocker.unblock():
        tables = set(connection.introspection.django_table_names(only_existing=True)) - LASTING
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), sorted(tables)))


@pytest.fixture(scope="session")
def django_db_modify_db_settings_parallel_suffix():
    """Leave the databases their names, which the servers know too: the settings give each worker its own."""


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
def chromium(request, _chromium):
    """The browser: `chromium.tab(visitor)` opens a window, `chromium.second_tab(tab)` a tab beside it.

    Its parameter is the version of the Datastar client, see `each_client` in the harness.
    """
    require_client_bundle()
    _chromium.client = getattr(request, "param", CLIENTS[0])
    older = _chromium.client != CLIENTS[0]
    _chromium.bundle = require_client_bundle(f"datastar-{_chromium.client}.js") if older else None
    yield _chromium
    _chromium.close_tabs()


# What runs, where, and in which order


def pytest_collection_modifyitems(config, items):
    selection.mark(items)
    if hasattr(config, "workerinput"):
        selection.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    return selection.workers(config)


# Failures show what the servers printed meanwhile


def pytest_runtest_setup(item):
    selection.running(item)
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
