"""bind_broadcasts: broadcasts of models of other apps."""

import logging

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.db.models.signals import post_init, post_save
from django.test.utils import isolate_apps

from ds_broadcaster import (
    BroadcastOnSave,
    bind_broadcasts,
    broadcast_saved,
    dom_id,
    dom_selector,
    render_broadcast,
)
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.models.checks import check_model, check_models
from ds_broadcaster.models.registry import declared, registered
from ds_broadcaster.streams.tabs import serving
from tests.chat.models import LongNote, LoudMessage, Message, Note, Room, StickyNote, UrgentNote

pytestmark = pytest.mark.django_db(transaction=True)


def test_bound_model_is_broadcast_like_a_subclass(sent, bind):
    bind(Note, channel="notes", target="#notes", mode="prepend")
    note = Note.objects.create(text="a")
    note.text = "b"
    note.save()
    key = note.pk
    note.delete()
    events = sent.take()
    assert [(event.channel, event.mode, event.text) for event in events] == [
        ("notes", "prepend", "a"),
        ("notes", None, "b"),
        ("notes", "remove", ""),
    ]
    assert events[0].selector == f"#notes:not(:has(#chat-note-{key}))"
    assert events[2].selector == f"#chat-note-{key}"


def test_arguments_may_be_functions_of_the_instance(sent, bind):
    bind(
        Note,
        channel=lambda note: [f"notes-{note.text}", "all"],
        template_name=lambda note: "chat/_note.html",
        target=lambda note: f"#{note.text}",
        mode=lambda note: "before" if note.extra else "inner",
    )
    Note.objects.create(text="a")
    Note.objects.create(text="b", extra="x")
    events = sent.take()
    assert [event.channel for event in events] == ["notes-a", "all", "notes-b", "all"]
    assert [event.mode for event in events[::2]] == ["inner", "before"]
    assert events[0].selector == "#a"


def test_hooks_say_what_is_sent(sent, bind):
    bind(
        Note,
        channel="notes",
        created=lambda note: f"<p>created {note.text}</p>",
        updated=lambda note: ("<p>updated</p>", {"text": note.text}),
        deleted=lambda note: {"gone": note.pk},
    )
    note = Note.objects.create(text="a")
    note.save()
    key = note.pk
    note.delete()
    assert [event.text or event.signals for event in sent.take()] == [
        "created a",
        "updated",
        '{"text":"a"}',
        f'{{"gone":{key}}}',
    ]


def test_only_changes_of_named_fields_are_sent(sent, bind):
    bind(Note, channel="notes", fields={"text"})
    Note.objects.create(text="a")
    note = Note.objects.get()
    sent.take()
    note.extra = "x"
    note.save()
    note.save(update_fields=["extra"])
    assert sent.take() == []
    note.text = "b"
    note.save()
    assert sent.texts() == ["b"]


def test_select_related_is_fetched(sent, bind, django_assert_num_queries):
    bind(Note, channel="notes", select_related=["room"], created=lambda note: f"<p>{note.room.name}</p>")
    room = Room.objects.create(name="lobby")
    with django_assert_num_queries(2):
        Note.objects.create(room_id=room.pk)
    assert sent.texts() == ["lobby"]


def test_tab_that_made_the_change_is_left_out(sent, bind, rf):
    bind(Note, channel="notes", exclude_sender=True)
    request = rf.get("/", {"datastar": '{"broadcastTab": "tab-12345678"}'})
    with transaction.atomic(), serving(request):
        Note.objects.create()
    assert [event.tab for event in sent.take()] == ["tab-12345678"]


def test_proxies_are_covered_and_children_are_not(sent, bind):
    bind(Note, channel="notes")
    sticky = StickyNote.objects.create(text="s")
    LongNote.objects.create(text="l")
    (event,) = sent.take()
    assert f'id="chat-note-{sticky.pk}"' in event.html
    sticky.delete()
    assert [event.mode for event in sent.take()] == ["remove"]


@isolate_apps("tests.chat")
def test_proxy_that_is_defined_later_is_covered(bind):
    bind(Note, channel="notes")

    class Later(StickyNote):
        class Meta:
            app_label = "chat"
            proxy = True

    class Child(Note):
        class Meta:
            app_label = "chat"

    class ChildsProxy(Child):
        class Meta:
            app_label = "chat"
            proxy = True

    try:
        assert registered[Later] == registered[Note]
        assert not {Child, ChildsProxy} & registered.keys()
    finally:
        unbind_broadcasts(Note)
    assert Later not in registered


def test_proxy_of_a_proxy_is_covered(sent, bind):
    bind(Note, channel="notes")
    urgent = UrgentNote.objects.create(text="u")
    urgent.delete()
    assert [(event.channel, event.mode) for event in sent.take()] == [("notes", None), ("notes", "remove")]
    unbind_broadcasts(Note)
    UrgentNote.objects.create(text="u").delete()
    assert sent.take() == []


def test_proxy_with_a_binding_of_its_own_keeps_it(sent, bind):
    bind(StickyNote, channel="sticky")
    bind(Note, channel="notes")
    StickyNote.objects.create()
    assert [event.channel for event in sent.take()] == ["sticky"]


def test_proxy_may_be_bound_after_its_model(sent, bind):
    bind(Note, channel="notes")
    bind(StickyNote, channel="sticky")
    StickyNote.objects.create()
    Note.objects.create()
    assert [event.channel for event in sent.take()] == ["sticky", "notes"]


@isolate_apps("tests.chat")
def test_proxy_that_inherits_the_mixin_keeps_its_own_options(bind):
    class Plain(models.Model):
        class Meta:
            app_label = "chat"

    class Before(BroadcastOnSave, Plain):
        class Meta:
            app_label = "chat"
            proxy = True

    bind(Plain, channel="notes")

    class Later(BroadcastOnSave, Plain):
        class Meta:
            app_label = "chat"
            proxy = True

    assert [registered[each].of_saves[0].model for each in (Before, Later)] == [Before, Later]


@isolate_apps("tests.chat")
def test_proxies_of_another_registry_are_not_covered(bind):
    class Historical(Note):
        class Meta:
            app_label = "chat"
            proxy = True

    bind(Note, channel="notes")
    assert Historical not in registered


def test_djangos_user_can_be_bound(sent, bind):
    bind(User, channel="staff", created=lambda user: f"<p>{user.username}</p>", deleted=lambda user: None)
    user = User.objects.create(username="ann")
    user.delete()
    assert sent.texts() == ["ann"]


def test_objects_of_unknown_origin_are_updated_and_created(sent, bind):
    bind(Note, channel="notes", target="#notes")
    Note.objects.bulk_create([Note(text="a")])
    broadcast_saved(list(Note.objects.all()))
    assert sent.shapes() == [("outer", "a"), ("append", "a")]
    broadcast_saved(Note.objects.all())
    assert sent.shapes() == [("outer", "a")]
    note = Note.objects.create(text="b")
    sent.take()
    broadcast_saved([note])
    assert sent.shapes() == [("outer", "b")]


def test_error_in_a_function_is_logged(sent, bind, caplog):
    bind(Note, channel=lambda note: 1 / 0, template_name=lambda note: 1 / 0)
    note = Note.objects.create()
    (entry,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert entry.getMessage() == f"chat.Note {note.pk} was created, but not broadcast (template: unknown)."


def test_unbound_model_is_silent_and_costs_nothing(sent):
    bind_broadcasts(Note, channel="notes", fields=["text"])
    assert post_init.has_listeners(Note)
    unbind_broadcasts(Note)
    assert not any(signal.has_listeners(model) for signal in (post_init, post_save) for model in (Note, StickyNote))
    Note.objects.create()
    assert sent.take() == []


# Mistakes


@pytest.mark.parametrize("name, what", [(None, ""), ("row", " as 'row'")])
def test_model_is_bound_once_under_a_name(name, what):
    bind_broadcasts(Note, channel="a", name=name)
    try:
        first = declared[Note][0].place
        with pytest.raises(ImproperlyConfigured) as caught:
            bind_broadcasts(Note, channel="b", name=name)
    finally:
        unbind_broadcasts(Note)
    text = str(caught.value)
    assert text.startswith(f"chat.Note is bound twice{what}, at {first} and at {__file__}:")
    assert text.endswith(': give one of them another name, such as name="row".')
    assert first.startswith(f"{__file__}:")


@pytest.mark.parametrize("name", [7, "", ["row"]])
def test_name_is_a_string(name):
    with pytest.raises(TypeError, match="name must be a string that tells this binding from others"):
        bind_broadcasts(Note, channel="a", name=name)


@pytest.mark.parametrize("model", [Message, LoudMessage])
def test_model_that_inherits_the_mixin_is_not_bound(model):
    with pytest.raises(ImproperlyConfigured, match=f"{model.__name__} inherits BroadcastOnSave.*{__file__}"):
        bind_broadcasts(model, channel="a")


class Abstract(models.Model):
    class Meta:
        abstract = True


async def wait(note):
    return "a"


@pytest.mark.parametrize("model", ["chat.Note", None, Note(), dict])
def test_other_values_than_models_are_refused(model):
    with pytest.raises(TypeError, match=r"takes a model class, as in bind_broadcasts\(User, "):
        bind_broadcasts(model, channel="a")


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"channel": 7}, TypeError, "channel must be a string or a saved"),
        ({"channel": ""}, ValueError, "channel must not be empty"),
        ({"channel": ["a", 7]}, TypeError, "channel must be a string"),
        ({"channel": Room}, TypeError, "channel must be a value or a function of the instance, not <class .*Room"),
        ({"channel": Room()}, ValueError, "save it before it names a channel"),
        ({"channel": wait}, TypeError, "channel must be a plain function"),
        ({"template_name": 7}, TypeError, "template_name must be a name or several"),
        ({"template_name": [7]}, TypeError, "template_name must be a name or several"),
        ({"template_name": wait}, TypeError, "template_name must be a plain function"),
        ({"target": 7}, TypeError, "target must be a string"),
        ({"target": " "}, ValueError, "target must not be empty"),
        ({"target": "#a\n"}, ValueError, "target must not hold a line break"),
        ({"target": wait}, TypeError, "target must be a plain function"),
        ({"mode": "apend"}, ValueError, "mode must be one of \"append\", .*not 'apend'"),
        ({"mode": "remove"}, ValueError, "mode must be one of"),
        ({"mode": None}, ValueError, "mode must be one of"),
        ({"mode": wait}, TypeError, "mode must be a plain function"),
        (
            {"fields": {"txt"}},
            ValueError,
            "fields: chat.Note saves no field 'txt'. The fields are extra, id, room, text.",
        ),
        (
            {"fields": "text"},
            TypeError,
            r"fields must be several names, not 'text'. Write for example fields=\[\"text\"\]",
        ),
        ({"fields": [7]}, TypeError, "fields must be several names"),
        ({"select_related": "room"}, TypeError, "select_related must be several names"),
        ({"select_related": ""}, TypeError, "select_related must be several names"),
        ({"select_related": [7]}, TypeError, "select_related must be several names"),
        ({"template_name": []}, TypeError, "template_name must be a name or several"),
        ({"template_name": dict}, TypeError, "template_name must be a value or a function of the instance"),
        ({"target": dict}, TypeError, "target must be a value or a function of the instance"),
        ({"mode": dict}, TypeError, "mode must be a value or a function of the instance"),
        ({"created": "<p>"}, TypeError, "created must be a function of the instance, not '<p>'"),
        (
            {"deleted": ""},
            TypeError,
            r"deleted must be a function of the instance, not ''. Write .*deleted=lambda note: ...",
        ),
        ({"updated": dict}, TypeError, "updated must be a function of the instance"),
        ({"deleted": wait}, TypeError, "deleted must be a plain function"),
        ({"shown": True}, TypeError, "shown must be a function of the instance, not True"),
        ({"shown": wait}, TypeError, "shown must be a plain function"),
        (
            {"moves": "room"},
            TypeError,
            r"moves must be several names, not 'room'. .* moves=\[\"room\"\]",
        ),
        ({"moves": ["labels"]}, ValueError, "moves: chat.Note saves no field 'labels'"),
        (
            {"limit": 2.5, "target": "#a"},
            TypeError,
            "limit must be a whole number, not 2.5. .* limit=200",
        ),
        ({"limit": 0, "target": "#a"}, ValueError, "limit must be at least 1, not 0"),
        ({"limit": 9}, ValueError, 'limit=200 beside a target and the mode "append" or "prepend"'),
        ({"touches": ["room"]}, TypeError, "touches must name relations and their accessors"),
        ({"touches": {"text": "note_set"}}, ValueError, "touches: chat.Note has no relation 'text'"),
    ],
)
def test_wrong_argument_says_what_to_write(options, error, text):
    with pytest.raises(error, match=text):
        bind_broadcasts(Note, **{"channel": "a", **options})
    assert Note not in registered


@pytest.mark.parametrize("name", ["groups", "logentry"])
def test_relation_that_a_save_does_not_write_is_refused_as_a_field(name):
    with pytest.raises(ValueError, match=f"fields: auth.User saves no field '{name}'. The fields are date_joined, "):
        bind_broadcasts(User, channel="a", fields=[name])


def test_abstract_model_is_refused():
    with pytest.raises(TypeError, match="Abstract is abstract: bind the models that inherit it"):
        bind_broadcasts(Abstract, channel="a")


def test_channel_may_be_an_instance_several_names_or_none(sent, bind):
    room = Room.objects.create(name="lobby")
    bind(Note, channel=room)
    Note.objects.create()
    assert [event.channel for event in sent.take()] == [f"chat.room-{room.pk}"]
    unbind_broadcasts(Note)
    bind(Note, channel=("a", "b"))
    Note.objects.create()
    assert [event.channel for event in sent.take()] == ["a", "b"]
    unbind_broadcasts(Note)
    bind(Note, channel=None)
    Note.objects.create()
    assert sent.take() == []


def test_checks_report_mistakes_that_only_a_loaded_project_shows(bind):
    bind(Group, channel="a", select_related=["user"], exclude_sender=True)
    found = check_model(Group)
    assert [each.id.removeprefix("ds_broadcaster.") for each in found] == ["E011", "E015", "W010"]
    assert check_models() == found
    assert found[0].hint == (
        "Create auth/_group.html in a `templates` folder of your own, or give bind_broadcasts() a template_name."
    )


def test_checks_report_a_binding_once_and_not_for_each_proxy(bind):
    bind(Note, channel="a", exclude_sender=True, subclasses=True)
    assert [(each.obj, each.id) for each in check_models()] == [(Note, "ds_broadcaster.W010")]


@pytest.mark.parametrize("hook", ["created", "updated"])
def test_checks_report_the_template_that_one_hook_alone_renders(bind, hook):
    bind(Group, channel="a", **{hook: lambda group: ""})
    assert [each.id for each in check_models()] == ["ds_broadcaster.E011"]


def test_checks_skip_templates_that_are_not_rendered_or_not_known(bind):
    bind(Group, channel="a", created=lambda group: "", updated=lambda group: "")
    assert check_models() == []
    unbind_broadcasts(Group)
    bind(Group, channel="a", template_name=lambda group: "none.html")
    assert check_models() == []


# In Python


def test_fragments_of_bound_and_own_models_are_rendered_in_python(bind, room):
    bind(Note, channel="notes", subclasses=True)
    bind(Note, channel="page", name="page", template_name="chat/_article.html")
    message = Message.objects.create(room=room, text="m")
    note, long = Note.objects.create(text="n"), LongNote.objects.create(text="l")
    assert render_broadcast(message) == message.render_broadcast()
    assert dom_id(message) in render_broadcast(message)
    assert f'id="{dom_id(note)}">n' in render_broadcast(note)
    assert f'id="chat-note-{long.pk}">l' in render_broadcast(long)
    assert render_broadcast(note, name="page") != render_broadcast(note)
    assert dom_selector(note) == f"#{dom_id(note)}"


def test_object_that_cannot_be_rendered_says_what_to_write(bind):
    with pytest.raises(TypeError, match="Note is not broadcast: write `class Note"):
        render_broadcast(Note())
    with pytest.raises(TypeError, match="render_broadcast takes model instances, not str"):
        render_broadcast("note")
    bind(Note, channel="notes")
    with pytest.raises(ValueError, match="Note is not bound as 'row'"):
        render_broadcast(Note(), name="row")
