"""What `manage.py check` says about models that are broadcast."""

import pytest
from django.apps import apps
from django.db import models
from django.test.utils import isolate_apps

from ds_broadcaster import BroadcastOnSave
from ds_broadcaster.models.base import ModelRules
from ds_broadcaster.models.checks import check_model, check_models
from ds_broadcaster.models.options import registered
from tests.chat.models import Letter, LoudMessage, Message, Room

pytestmark = pytest.mark.django_db(transaction=True)


def found(model):
    """Return the ids and messages that the checks have for one model."""
    return [(each.id.removeprefix("ds_broadcaster."), each.msg, each.hint) for each in check_model(*model)]


def checked(**attributes):
    """Return the checks' messages for a model with these attributes."""
    body = {
        "__module__": "tests.chat.models",
        "title": models.TextField(default=""),
        "room": models.ForeignKey(Room, models.CASCADE),
        "broadcast_channel": lambda self: None,
        "broadcast_template_name": "chat/_message.html",
        "__str__": lambda self: "",
        **attributes,
    }
    with isolate_apps("tests.chat"):
        model = type("Odd", (BroadcastOnSave,), {key: value for key, value in body.items() if value is not ...})
        assert isinstance(registered[model], ModelRules)
        return found((model, registered[model]))


def test_models_without_mistakes_hear_nothing():
    assert checked() == []
    assert check_models() == []


def test_missing_template_is_an_error_that_says_where_to_create_it():
    ((number, text, hint),) = checked(broadcast_template_name=None)
    assert (number, text) == ("E011", "The template of Odd's broadcasts does not exist: chat/_odd.html.")
    assert hint == "Create tests/chat/templates/chat/_odd.html, or set broadcast_template_name."


@pytest.mark.parametrize("hooks", [{"broadcast_created", "broadcast_updated"}, {"render_broadcast"}])
def test_template_that_is_never_rendered_need_not_exist(hooks):
    assert checked(broadcast_template_name=None, **dict.fromkeys(hooks, lambda self: "")) == []
    assert checked(broadcast_template_name=None, broadcast_created=lambda self: "")[0][0] == "E011"


def test_template_that_cannot_be_loaded_is_an_error():
    ((number, _, hint),) = checked(broadcast_template_name=7)
    assert (number, hint) == ("E011", "broadcast_template_name is 7.")


def test_missing_channel_is_an_error():
    ((number, text, _),) = checked(broadcast_channel=...)
    assert (number, text) == ("E010", "Odd must define broadcast_channel().")


@pytest.mark.parametrize(
    "hook", ["broadcast_channel", "render_broadcast", "broadcast_created", "broadcast_updated", "broadcast_deleted"]
)
def test_async_hook_is_an_error(hook):
    async def awaited(self):
        return "x"

    ((number, text, _),) = checked(**{hook: awaited})
    assert (number, text) == ("E016", f"Odd.{hook}() must be a plain method.")


@pytest.mark.parametrize(
    "attributes, number, text",
    [
        ({"broadcast_fields": {"titel"}}, "E012", "'titel'"),
        ({"broadcast_fields": "title"}, "E012", "must be a set"),
        ({"broadcast_fields": 7}, "E012", "must be a set"),
        ({"broadcast_fields": [7]}, "E012", "names 7"),
        ({"broadcast_mode": "apend"}, "E013", "'apend'"),
        ({"broadcast_mode": "remove"}, "E013", "'remove'"),
        ({"broadcast_mode": ["append"]}, "E013", "['append']"),
        ({"broadcast_target": 7}, "E014", "7"),
        ({"broadcast_target": " "}, "E014", "' '"),
        ({"broadcast_target": "#a\n#b"}, "E014", "#a"),
        ({"broadcast_select_related": ["title"]}, "E015", "'title'"),
        ({"broadcast_select_related": ["room__nothing"]}, "E015", "'room__nothing'"),
        ({"broadcast_select_related": [7]}, "E015", "7"),
        ({"broadcast_select_related": "room"}, "E015", "must be several names"),
        ({"broadcast_select_related": 7}, "E015", "must be several names"),
        ({"broadcast_exclude_sender": True}, "W010", "BroadcasterMiddleware"),
    ],
)
def test_wrong_attribute_is_reported(attributes, number, text):
    ((found_number, found_text, hint),) = checked(**attributes)
    assert found_number == number
    assert text in found_text
    assert hint


def test_right_attributes_are_not_reported(settings):
    settings.MIDDLEWARE = ["ds_broadcaster.middleware.BroadcasterMiddleware"]
    assert checked(broadcast_fields=["title", "room_id"], broadcast_select_related=["room"]) == []
    assert checked(broadcast_exclude_sender=True) == []
    assert checked(broadcast_mode=property(lambda self: "inner"), broadcast_target=property(lambda self: "#x")) == []


def test_checks_can_be_asked_about_some_apps_alone(monkeypatch):
    monkeypatch.setattr(Message, "broadcast_mode", "x")
    names = {each.obj for each in check_models([apps.get_app_config("chat")])}
    assert names == {Message, LoudMessage, Letter}
    assert check_models([apps.get_app_config("auth")]) == []
