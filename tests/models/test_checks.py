"""System checks of models that are broadcast."""

import pytest
from django.apps import apps
from django.core.checks import Error, Warning
from django.db import models
from django.test.utils import isolate_apps

from ds_broadcaster import BroadcastOnSave
from ds_broadcaster.models import Face
from ds_broadcaster.models.checks import check_model, check_models
from ds_broadcaster.models.registry import declared
from tests.chat.models import Letter, LoudMessage, Message, Room

pytestmark = pytest.mark.django_db(transaction=True)


def checked(**attributes):
    """Return (id, message, hint) of each mistake in a model with these attributes."""
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
        assert not declared[model][0].is_bound
        found = check_model(model)
        assert {each.obj for each in found} <= {model}
        assert all(isinstance(each, Warning if ".W" in each.id else Error) for each in found)
        return [(each.id.removeprefix("ds_broadcaster."), each.msg, each.hint) for each in found]


def test_models_without_mistakes_have_no_messages():
    assert checked() == []
    assert check_models() == []


def test_missing_template_is_an_error_that_says_where_to_create_it():
    ((number, text, hint),) = checked(broadcast_template_name=None)
    assert (number, text) == ("E011", "The template of Odd's broadcasts does not exist: chat/_odd.html.")
    assert hint == "Create tests/chat/templates/chat/_odd.html, or set broadcast_template_name."


@pytest.mark.parametrize("hooks", [{"broadcast_created", "broadcast_updated"}, {"render_broadcast"}])
def test_template_that_is_never_rendered_may_be_missing(hooks):
    assert checked(broadcast_template_name=None, **dict.fromkeys(hooks, lambda self: "")) == []
    assert checked(broadcast_template_name=None, broadcast_created=lambda self: "")[0][0] == "E011"


@pytest.mark.parametrize("wrong", [7, [7], [], lambda self: "chat/_message.html"])
def test_template_name_of_another_type_is_an_error(wrong):
    ((number, text, hint),) = checked(broadcast_template_name=wrong)
    assert (number, text) == ("E011", f"Odd.broadcast_template_name must be a name or several, not {wrong!r}.")
    assert hint == 'Write for example broadcast_template_name = ["chat/_message.html"].'


def test_template_that_cannot_be_loaded_is_an_error(template):
    template["chat/_odd.html"] = "{% nothing %}"
    ((number, text, hint),) = checked(broadcast_template_name="chat/_odd.html")
    assert number == "E011"
    assert text.startswith("The template of Odd's broadcasts cannot be loaded: ")
    assert "Invalid block tag on line 1: 'nothing'" in text
    assert hint == "broadcast_template_name is 'chat/_odd.html'."


def test_missing_channel_is_an_error():
    ((number, text, _),) = checked(broadcast_channel=...)
    assert (number, text) == ("E010", "Odd must define broadcast_channel().")


@pytest.mark.parametrize(
    "method, number",
    [
        ("broadcast_channel", "E010"),
        ("broadcast_shown", "E016"),
        ("render_broadcast", "E016"),
        ("broadcast_created", "E016"),
        ("broadcast_updated", "E016"),
        ("broadcast_deleted", "E016"),
    ],
)
def test_value_instead_of_a_method_is_an_error(method, number):
    expected = (number, f"Odd.{method} must be a method.", f"Write `def {method}(self): return 'room'`.")
    assert checked(**{method: "room"}) == [expected]
    assert checked(**{method: property(lambda self: lambda: "room")}) == []


@pytest.mark.parametrize(
    "hook",
    [
        "broadcast_channel",
        "broadcast_shown",
        "render_broadcast",
        "broadcast_created",
        "broadcast_updated",
        "broadcast_deleted",
    ],
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
        ({"broadcast_fields": "title"}, "E012", "must be several names, not 'title'"),
        ({"broadcast_fields": 7}, "E012", "must be several names, not 7"),
        ({"broadcast_fields": [7]}, "E012", "must be several names, not [7]"),
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
        ({"broadcast_select_related": None}, "E015", "must be several names"),
        ({"broadcast_exclude_sender": True}, "W010", "BroadcasterMiddleware"),
        ({"broadcast_moves": {"titel"}}, "E012", "broadcast_moves: chat.Odd saves no field 'titel'"),
        ({"broadcast_moves": "room"}, "E012", "broadcast_moves must be several names, not 'room'"),
        ({"broadcast_limit": "many", "broadcast_target": "#a"}, "E017", "must be a whole number, not 'many'"),
        ({"broadcast_limit": True, "broadcast_target": "#a"}, "E017", "must be a whole number, not True"),
        ({"broadcast_limit": 0, "broadcast_target": "#a"}, "E017", "must be at least 1, not 0"),
        ({"broadcast_limit": 9}, "E017", "has no effect without a target that grows"),
        (
            {"broadcast_limit": 9, "broadcast_target": "#a", "broadcast_mode": "before"},
            "E017",
            "has no effect without a target that grows",
        ),
        ({"broadcast_faces": Face(channel="a")}, "E019", "Odd.broadcast_faces must be a list of faces, not Face("),
        ({"broadcast_faces": ["a"]}, "E019", "must be a list of faces, not ['a']"),
    ],
)
def test_wrong_attribute_is_reported(attributes, number, text):
    ((found_number, found_text, hint),) = checked(**attributes)
    assert found_number == number
    assert text in found_text
    assert hint


@isolate_apps("tests.chat")
def test_lone_strings_do_not_break_saves():
    class Odd(BroadcastOnSave):
        room = models.ForeignKey(Room, models.CASCADE)
        broadcast_fields = "room"
        broadcast_select_related = "room"

        class Meta:
            app_label = "chat"

    # All changes are broadcast, and the relation is fetched.
    assert declared[Odd][0].fields is None
    assert declared[Odd][0].select_related == ("room",)


def test_right_attributes_are_not_reported(settings):
    settings.MIDDLEWARE = ["ds_broadcaster.middleware.BroadcasterMiddleware"]
    assert checked(broadcast_fields=["title", "room_id"], broadcast_select_related=["room"]) == []
    assert checked(broadcast_exclude_sender=True) == []
    assert checked(broadcast_moves=["room", "title"], broadcast_limit=9, broadcast_target="#a") == []
    assert checked(broadcast_faces=(Face(channel=lambda self: self, template_name="chat/_message.html"),)) == []
    assert checked(broadcast_mode=property(lambda self: "inner"), broadcast_target=property(lambda self: "#x")) == []


def test_faces_may_stand_alone_and_are_checked_like_bindings():
    right = {"broadcast_channel": ..., "broadcast_template_name": None}
    assert checked(**right, broadcast_faces=[Face(channel="a", refreshes=True)]) == []
    wrong = Face(channel=7, template_name="none.html", mode="apend", limit=-1, created="<p>", fields=["titel"])
    found = checked(**right, broadcast_faces=[wrong])
    assert [number for number, _, _ in found] == ["E016", "E010", "E011", "E012", "E013", "E017"]
    prefix = "Odd.broadcast_faces[0]."
    assert [text for _, text, _ in found if not text.startswith("The template")] == [
        f"{prefix}created must be a function of the instance, not '<p>'.",
        f"{prefix}channel: channel must be a string or a saved model instance, not int (7).",
        f"{prefix}fields: chat.Odd saves no field 'titel'.",
        f'{prefix}mode must be one of "append", "prepend", "before", "after", "inner", "outer", "replace", '
        "not 'apend'.",
        f"{prefix}limit must be at least 1, not -1.",
    ]


def test_model_that_refreshes_needs_no_template():
    assert checked(broadcast_template_name=None, broadcast_refreshes=True) == []


def test_checks_can_be_limited_to_some_apps(monkeypatch):
    monkeypatch.setattr(Message, "broadcast_mode", "x")
    names = {each.obj for each in check_models([apps.get_app_config("chat")])}
    assert names == {Message, LoudMessage, Letter}
    assert check_models([apps.get_app_config("auth")]) == []
