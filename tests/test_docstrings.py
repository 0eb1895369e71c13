"""The examples in docstrings run. Their names are those of a chat: a room, a message with the key 7, a user."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.test import TestCase
from django.test.utils import isolate_apps

import ds_broadcaster
from ds_broadcaster import testing
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.testing import capture_broadcasts
from ds_broadcaster.views import routes
from tests.chat.models import Message, Room

PACKAGE = Path(ds_broadcaster.__file__).parent


def examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            module = import_module(".".join(part for part in parts if part != "__init__"))
            yield from (each for each in doctest.DocTestFinder().find(module) if each.examples)


EXAMPLES = {each.name.removeprefix("ds_broadcaster."): each for each in examples()}


@pytest.fixture
def names(db, monkeypatch):
    """What the examples know: the public names, and what a project has."""
    # Other tests have views of the same names.
    monkeypatch.setattr(routes, "routes", type(routes.routes)())
    public = {name: getattr(module, name) for module in (ds_broadcaster, testing) for name in module.__all__}
    room = Room.objects.create(name="hall")
    message = Message(pk=7, room=room, text="hi")
    yield {
        # Of models and views that are defined in an example.
        "__name__": "tests.chat.examples",
        "models": import_module("django.db.models"),
        **public,
        "Message": Message,
        "Room": Room,
        "TestCase": TestCase,
        "User": get_user_model(),
        "room": room,
        "message": message,
    }
    unbind_broadcasts(get_user_model())


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, names):
    told = []
    with isolate_apps("tests.chat"), capture_broadcasts():
        example = EXAMPLES[name]
        example.globs = names
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append)
    assert found.failed == 0, "".join(told)


def test_public_names_have_examples():
    assert len(EXAMPLES) >= 10
