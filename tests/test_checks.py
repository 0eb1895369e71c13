"""The system checks of settings, asgi.py and workers."""

import sys

import pytest
from django.core.checks import ERROR, INFO, WARNING, run_checks
from django.test import override_settings

from ds_broadcaster.brokers.memory import MemoryBroker


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
