"""Models that inherit a table: a save of a child is a save of its parent's object as well."""

import pytest
from django.db import models, transaction
from django.test.utils import isolate_apps

from ds_broadcaster import broadcast_saved, suppress_broadcasts
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.models.checks import check_model
from ds_broadcaster.models.registry import registered
from tests.chat.models import Letter, LongNote, Message, Note, StickyNote

pytestmark = pytest.mark.django_db(transaction=True)


def changes(sent):
    """Return (channel, mode or "outer", id of the element) of each event."""
    found = []
    for event in sent.take():
        place = event.html or event.selector
        element = place[place.index("chat-") :].split('"')[0].rstrip(")")
        found.append((event.channel, event.mode or "outer", element))
    return found


def test_saves_of_children_are_saves_of_the_bound_parent(sent, bind):
    bind(Note, channel="notes", target="#notes", subclasses=True)
    long = LongNote.objects.create(text="a", more="m")
    element = f"chat-note-{long.pk}"
    assert changes(sent) == [("notes", "append", element)]
    long.save()
    assert changes(sent) == [("notes", "outer", element)]
    broadcast_saved(LongNote.objects.all())
    assert changes(sent) == [("notes", "outer", element)]
    with suppress_broadcasts(Note):
        long.save()
    long.delete()
    assert changes(sent) == [("notes", "remove", element)]


def test_parent_is_rendered_by_functions_of_the_parent(sent, bind):
    seen = []
    bind(Note, channel="notes", subclasses=True, created=lambda note: seen.append(note) or f"<p>{note.text}</p>")
    long = LongNote.objects.create(text="a", more="m")
    assert sent.texts() == ["a"]
    (note,) = seen
    assert (type(note), note.pk, note) == (Note, long.pk, Note.objects.get())
    note.text = "changed in a hook"
    assert long.text == "a"


def test_changes_of_parent_and_child_are_one_of_the_element(sent, bind):
    bind(Note, channel="notes", subclasses=True)
    with transaction.atomic():
        long = LongNote.objects.create(text="a")
        note = Note.objects.get()
        note.text = "b"
        note.save()
    assert changes(sent) == [("notes", "outer", f"chat-note-{long.pk}")]
    with transaction.atomic():
        LongNote.objects.get().save()
        Note.objects.all().delete()
    assert changes(sent) == [("notes", "remove", f"chat-note-{long.pk}")]


def test_fields_and_moves_of_the_parent_hold_for_children(sent, bind):
    bind(Note, channel=lambda note: note.text, subclasses=True, fields=["text"], moves=["text"])
    LongNote.objects.create(text="a")
    long = LongNote.objects.get()
    sent.take()
    long.more = "m"
    long.save()
    assert changes(sent) == []
    long.text = "b"
    long.save()
    element = f"chat-note-{long.pk}"
    assert changes(sent) == [("a", "remove", element), ("b", "outer", element)]


def test_child_with_a_binding_of_its_own_reaches_both_elements(sent, bind):
    bind(Note, channel="notes", target="#notes")
    bind(LongNote, channel="long", template_name="chat/_note.html", target="#long")
    long = LongNote.objects.create(text="a")
    parent, child = f"chat-note-{long.pk}", f"chat-longnote-{long.pk}"
    assert [event.channel for event in sent.take()] == ["long", "notes"]
    long.save()
    assert [event.channel for event in sent.take()] == ["long", "notes"]
    long.delete()
    assert sorted(changes(sent)) == [("long", "remove", child), ("notes", "remove", parent)]


def test_inherited_child_updates_both_elements_and_is_added_once(sent, room, template):
    template["chat/_message.html"] = '{% load ds_broadcaster %}<li id="{{ object|dom_id }}">'
    letter = Letter.objects.create(room=room, text="a")
    parent, child, channel = f"chat-message-{letter.pk}", f"chat-letter-{letter.pk}", f"room-{room.pk}"
    assert changes(sent) == [(channel, "append", child)]
    letter.save()
    assert changes(sent) == [(channel, "outer", child), (channel, "outer", parent)]
    broadcast_saved(letter, created=True)
    assert changes(sent) == [(channel, "append", child)]
    with transaction.atomic():
        letter.save()
        broadcast_saved(letter, created=True)
    assert changes(sent) == [(channel, "outer", child), (channel, "append", child), (channel, "outer", parent)]


def test_children_are_silent_without_subclasses_and_a_check_names_them(sent, bind):
    bind(Note, channel="notes")
    LongNote.objects.create(text="a")
    assert sent.take() == []
    (found,) = check_model(Note)
    assert found.id == "ds_broadcaster.W011"
    assert found.msg == "chat.Note is broadcast, but saves of chat.LongNote are not."
    assert found.hint == "Write bind_broadcasts(Note, ..., subclasses=True), or bind them too."
    bind(LongNote, channel="long", template_name="chat/_note.html")
    assert check_model(Note) == check_model(LongNote) == check_model(Message) == []


@isolate_apps("tests.chat")
def test_children_that_are_defined_later_are_covered(bind):
    bind(Note, channel="notes", subclasses=True)

    class Child(Note):
        class Meta:
            app_label = "chat"

    class Abstract(Child):
        class Meta:
            app_label = "chat"
            abstract = True

    class Grandchild(Abstract):
        more = models.TextField()

        class Meta:
            app_label = "chat"

    class Proxy(Grandchild):
        class Meta:
            app_label = "chat"
            proxy = True

    (face,) = registered[Note].of_saves
    assert all(registered[each].of_saves == (face,) for each in (LongNote, StickyNote, Child, Grandchild, Proxy))
    unbind_broadcasts(Note)
    assert not {LongNote, StickyNote, Child, Grandchild, Proxy} & registered.keys()
