"""The system checks of settings, asgi.py and workers."""

import sys

import pytest
from django.core.checks import ERROR, INFO, WARNING, run_checks
from django.test import override_settings

from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.checks import check_client


class OtherBroker(MemoryBroker):
    pass


def messages():
    """Return the messages of our checks, run with all the others, without the one about the tests' own asgi.py."""
    return [each for each in run_checks() if each.id.startswith("ds_broadcaster.")]


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a package `a_project` with an asgi.py of this text, and a settings override that points to it."""
    package = tmp_path / "a_project"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def make(text):
        (package / "asgi.py").write_text(text)
        return override_settings(ASGI_APPLICATION="a_project.asgi.application")

    yield make
    for name in ("a_project.asgi", "a_project"):
        sys.modules.pop(name, None)


def test_project_without_mistakes_has_no_messages():
    assert messages() == []


def test_wrong_setting_is_an_error_that_says_what_to_write():
    with override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL="15"):
        (message,) = messages()
    assert (message.id, message.level) == ("ds_broadcaster.E001", ERROR)
    assert message.msg.startswith("DS_BROADCASTER_HEARTBEAT_INTERVAL = '15' is wrong: ")
    assert message.hint == "Write for example DS_BROADCASTER_HEARTBEAT_INTERVAL = 15 (seconds, more than 0)."


def test_each_mistake_is_a_message_of_its_own():
    with override_settings(DS_BROADCASTER_PRESENCE_GRACE=-1, DS_BROADCASTER_HISTORY={"max_events": 0, "max_age": 0}):
        found = messages()
    assert [each.id for each in found] == ["ds_broadcaster.E001"] * 3
    assert len({each.msg for each in found}) == 3


def test_unknown_setting_is_a_warning():
    with override_settings(DS_BROADCASTER_HEARTBEAT=15):
        (message,) = messages()
    assert (message.id, message.level) == ("ds_broadcaster.W001", WARNING)
    assert message.msg == "DS_BROADCASTER_HEARTBEAT is not a setting of ds_broadcaster."
    assert message.hint == "Did you mean DS_BROADCASTER_HEARTBEAT_INTERVAL?"


def test_wrong_value_is_an_error_even_with_the_text_of_a_warning():
    with override_settings(DS_BROADCASTER_HEARTBEAT_INTERVAL="this is not a setting"):
        (message,) = messages()
    assert message.id == "ds_broadcaster.E001"


@pytest.mark.parametrize("backend", ["nowhere.Broker", "tests.test_checks.messages"])
def test_wrong_broker_is_an_error(backend):
    with override_settings(DS_BROADCASTER_BROKER={"BACKEND": backend}):
        (message,) = messages()
    assert (message.id, message.level) == ("ds_broadcaster.E002", ERROR)
    assert backend in message.msg
    assert "DS_BROADCASTER_BROKER = {" in message.hint


# The handoff


def test_plain_asgi_application_is_recommended_the_handoff(project):
    with project("from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"):
        (message,) = messages()
    assert (message.id, message.level) == ("ds_broadcaster.I001", INFO)
    assert message.msg.startswith("a_project.asgi uses Django's own ASGI application")
    assert "from ds_broadcaster.asgi import get_asgi_application" in message.hint


def test_project_with_the_handoff_has_no_messages(project):
    text = "from ds_broadcaster.asgi import get_asgi_application\napplication = get_asgi_application()\n"
    with project(text):
        assert messages() == []


def test_asgi_module_is_found_beside_the_urls(project):
    with project("application = None\n"), override_settings(ASGI_APPLICATION=None, ROOT_URLCONF="a_project.urls"):
        from ds_broadcaster.checks import check_asgi

        (message,) = check_asgi()
    assert message.id == "ds_broadcaster.I001"


def test_check_does_not_run_the_projects_asgi_module(project):
    with project("raise SystemExit\n"):
        (message,) = messages()
    assert message.id == "ds_broadcaster.I001"


@pytest.mark.parametrize("path", ["nowhere.asgi.application", "application", "tests.test_checks.nothing.application"])
def test_asgi_module_that_cannot_be_found_is_no_error(path):
    with override_settings(ASGI_APPLICATION=path):
        assert messages() == []


# Several processes


@pytest.mark.parametrize("workers", ["2", "16"])
def test_several_workers_and_the_memory_broker_are_warned(monkeypatch, workers):
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    (message,) = messages()
    assert (message.id, message.level) == ("ds_broadcaster.W002", WARNING)
    assert f"{workers} worker processes" in message.msg
    assert "redis" in message.hint
    assert "Or run one worker" in message.hint


@pytest.mark.parametrize("workers", ["", "1", "0", "auto", "-2"])
def test_one_worker_is_not_warned(monkeypatch, workers):
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    assert messages() == []


def test_other_broker_is_not_warned(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with override_settings(DS_BROADCASTER_BROKER={"BACKEND": "tests.test_checks.OtherBroker"}):
        assert messages() == []


def test_wrong_settings_are_reported_once_with_several_workers(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with override_settings(DS_BROADCASTER_BROKER=3):
        assert [each.id for each in messages()] == ["ds_broadcaster.E001"]


# The client


DJANGO_CSP = "django.middleware.csp.ContentSecurityPolicyMiddleware"
OTHER_CSP = "csp.middleware.CSPMiddleware"
CDN = "https://cdn.jsdelivr.net"
STRICT = {"script-src": ["'self'", "<CSP_NONCE_SENTINEL>"]}


def client_messages(**given):
    """Return the messages about the client alone: the middleware of a policy need not be installed."""
    with override_settings(**given):
        return check_client()


@pytest.mark.parametrize("url", ["datastar.js", "static/datastar.js", "../datastar.js", "datastar.js?v=1"])
def test_client_that_is_no_static_file_is_a_warning(url):
    (message,) = client_messages(DS_BROADCASTER_DATASTAR_URL=url)
    assert (message.id, message.level) == ("ds_broadcaster.W030", WARNING)
    assert message.msg.startswith(
        f"DS_BROADCASTER_DATASTAR_URL = {url!r} is the path of a static file, and there is none"
    )
    assert '"/static/datastar.js"' in message.hint
    with override_settings(INSTALLED_APPS=["ds_broadcaster"]):
        assert [each.id for each in client_messages(DS_BROADCASTER_DATASTAR_URL=url)] == ["ds_broadcaster.W030"]


@pytest.mark.parametrize("url", ["/datastar.js", "//cdn.example/datastar.js", "https://cdn.example/datastar.js"])
def test_client_of_another_place_is_not_looked_for(url):
    assert client_messages(DS_BROADCASTER_DATASTAR_URL=url) == []


@pytest.mark.parametrize("where", ["STATICFILES_DIRS", "STATIC_ROOT"])
def test_client_that_is_a_static_file_is_found(tmp_path, where):
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "datastar.js").touch()
    found = [tmp_path] if where == "STATICFILES_DIRS" else tmp_path
    assert client_messages(DS_BROADCASTER_DATASTAR_URL="js/datastar.js", **{where: found}) == []


def test_static_client_that_is_missing_is_a_warning_that_names_the_command(tmp_path):
    given = {"DS_BROADCASTER_DATASTAR_STATIC": "js/datastar.js", "STATICFILES_DIRS": [tmp_path]}
    (message,) = client_messages(**given)
    assert (message.id, message.level) == ("ds_broadcaster.W030", WARNING)
    assert message.msg.startswith("DS_BROADCASTER_DATASTAR_STATIC = 'js/datastar.js' is no static file")
    assert "manage.py broadcaster_client" in message.hint
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "datastar.js").touch()
    assert client_messages(**given) == []


@pytest.mark.parametrize(
    "given",
    [
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": STRICT},
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": {"default-src": ["'self'"]}},
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": {"default-src": ["'unsafe-eval'"], "script-src": "'self'"}},
        {"MIDDLEWARE": [OTHER_CSP], "CONTENT_SECURITY_POLICY": {"DIRECTIVES": STRICT}},
        {"MIDDLEWARE": [OTHER_CSP], "CSP_SCRIPT_SRC": ("'self'",)},
        {"MIDDLEWARE": [OTHER_CSP], "CSP_DEFAULT_SRC": ["'self'"]},
    ],
)
def test_policy_that_stops_the_client_is_a_warning(given):
    message, *others = client_messages(**given)
    assert (message.id, message.level) == ("ds_broadcaster.W031", WARNING)
    assert {each.id for each in others} <= {"ds_broadcaster.W032", "ds_broadcaster.W033"}
    assert "EvalError" in message.msg
    assert "'unsafe-eval'" in message.hint
    assert "<html {% datastar_nonce %}>" in message.hint


@pytest.mark.parametrize(
    "given",
    [
        {"MIDDLEWARE": [], "SECURE_CSP": STRICT, "CONTENT_SECURITY_POLICY": {"DIRECTIVES": STRICT}},
        {"MIDDLEWARE": [DJANGO_CSP]},
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": {}},
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": {"img-src": ["'self'"]}},
        {
            "MIDDLEWARE": [DJANGO_CSP],
            "SECURE_CSP": {"default-src": ["'self'"], "script-src": {"'self'", "'unsafe-eval'"}},
        },
        {"MIDDLEWARE": [OTHER_CSP]},
        {"MIDDLEWARE": [OTHER_CSP], "CONTENT_SECURITY_POLICY": {"DIRECTIVES": {"script-src": ["*", "'unsafe-eval'"]}}},
        {"MIDDLEWARE": [OTHER_CSP], "CSP_SCRIPT_SRC": "'self' 'unsafe-eval'"},
    ],
)
def test_other_policies_are_fine(given):
    assert client_messages(DS_BROADCASTER_DATASTAR_URL="/datastar.js", **given) == []


@pytest.mark.parametrize("policy, expected", [("'self'", ["W032"]), ("'none'", ["W032", "W033"]), (CDN, ["W033"])])
def test_policy_needs_the_place_of_the_client_and_of_the_streams(policy, expected):
    given = {"script-src": [policy, "'unsafe-eval'"], "default-src": [policy if policy != CDN else "'none'"]}
    found = client_messages(MIDDLEWARE=[DJANGO_CSP], SECURE_CSP=given)
    assert [each.id.removeprefix("ds_broadcaster.") for each in found] == expected
    assert {each.level for each in found} == {WARNING}


@pytest.mark.parametrize("text", ["<html {% datastar_nonce %}>", '<html data-nonce="{{ csp_nonce }}">'])
def test_nonce_in_the_policy_and_in_a_template_is_fine(settings, tmp_path, text):
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "base.html").write_text(text)
    for given in (
        {"MIDDLEWARE": [DJANGO_CSP], "SECURE_CSP": STRICT},
        {"MIDDLEWARE": [OTHER_CSP], "CONTENT_SECURITY_POLICY": {"DIRECTIVES": STRICT}},
    ):
        assert client_messages(**given) == []
    message, _ = client_messages(MIDDLEWARE=[DJANGO_CSP], SECURE_CSP={"script-src": ["'self'"]})
    assert message.id == "ds_broadcaster.W031"


def test_client_is_not_checked_where_the_settings_are_wrong():
    assert client_messages(DS_BROADCASTER_DATASTAR_URL=7) == []
