"""Fixtures of the model layer: what is sent, what is logged, and models with hooks set by the test."""

import logging

import pytest

from ds_broadcaster import bind_broadcasts
from ds_broadcaster.models.bind import unbind_broadcasts
from tests.chat.models import Job, Room
from tests.chat.recording import record


@pytest.fixture
def sent(monkeypatch):
    """The events that the test sends."""
    return record(monkeypatch)


@pytest.fixture
def room():
    return Room.objects.create(name="lobby")


@pytest.fixture
def hooks(monkeypatch):
    """The results of Job's hooks in this test: `hooks["created"] = "<p>"`, or a function of the instance."""
    results = {}
    monkeypatch.setattr(Job, "hooks", results)
    return results


@pytest.fixture
def errors(caplog):
    """The errors that were logged, as (message, exception)."""
    caplog.set_level(logging.ERROR, "ds_broadcaster")
    return lambda: [(each.getMessage(), each.exc_info and each.exc_info[1]) for each in caplog.records]


@pytest.fixture
def template(settings):
    """Replace the project's templates by these: `template["chat/_message.html"] = "..."`."""
    sources = {}
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", sources)]},
        }
    ]
    return sources


@pytest.fixture
def bind():
    """bind_broadcasts(), undone after the test."""
    bound = []

    def bind(model, **options):
        bound.append(model)
        bind_broadcasts(model, **options)

    yield bind
    for model in bound:
        unbind_broadcasts(model)
