"""Touches: a save of an object is news for those that show it."""

import logging

import pytest
from django.db import models, transaction
from django.db.models.signals import post_save
from django.test.utils import isolate_apps

from ds_broadcaster import BroadcastOnSave, broadcast_saved, suppress_broadcasts
from ds_broadcaster.models import touches
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.models.checks import check_model
from tests.chat.models import Label, LongNote, Note, Room

pytestmark = pytest.mark.django_db(transaction=True)


def shown(note):
    return f"<p>{note.text} in {note.room.name}</p>"


@pytest.fixture
def touched(bind):
    """Note, which shows the name of its room."""
    bind(Note, channel="notes", updated=shown, created=shown, select_related=["room"], touches={"room": "note_set"})


@pytest.fixture
def notes(touched, sent):
    room = Room.objects.create(name="lobby")
    found = Note.objects.bulk_create([Note(room=room, text=text) for text in "abc"])
    Note.objects.bulk_create([Note(text="elsewhere", room=Room.objects.create(name="cellar"))])
    return found


def test_renamed_object_broadcasts_those_that_show_it(sent, notes, django_assert_num_queries):
    room = notes[0].room
    room.name = "hall"
    with django_assert_num_queries(2):  # The save, and all notes with their room.
        room.save()
    assert sent.shapes() == [("outer", f"{text} in hall") for text in "abc"]


def test_new_objects_and_fixtures_touch_nothing(sent, bind):
    bind(Note, channel="notes", touches={"room": "note_set"})
    room = Room.objects.create(name="new")
    room.save_base(raw=True)
    room.save(update_fields=[])
    assert sent.take() == []


def test_login_is_no_news(sent, bind, monkeypatch):
    bind(Note, channel="notes", touches={"room": "note_set"})
    room = Room.objects.create(name="a")
    Note.objects.bulk_create([Note(room=room)])
    post_save.send(Room, instance=room, created=False, raw=False, using="default", update_fields={"last_login"})
    assert sent.take() == []
    post_save.send(Room, instance=room, created=False, raw=False, using="default", update_fields={"last_login", "name"})
    assert len(sent.take()) == 1


def test_saves_of_a_transaction_touch_once_after_the_commit(sent, notes, django_assert_num_queries):
    with transaction.atomic():
        for room in Room.objects.all():
            for name in ("x", "hall"):
                room.name = name
                room.save()
        notes[0].text = "changed"
        notes[0].save()
        assert sent.take() == []
    assert sorted(sent.texts()) == ["b in hall", "c in hall", "changed in hall", "elsewhere in hall"]
    with transaction.atomic():
        room.save()
        transaction.set_rollback(True)
    assert sent.take() == []


def test_created_object_that_is_touched_is_created(sent, notes):
    with transaction.atomic():
        note = Note.objects.create(room=notes[0].room, text="new")
        note.room.save()
    assert [event.text for event in sent.take() if "new" in event.text] == ["new in lobby"]


def test_deleted_object_is_not_touched(sent, notes):
    with transaction.atomic():
        notes[0].room.save()
        Note.objects.all().delete()
    assert {event.mode for event in sent.take()} == {"remove"}


def test_many_objects_are_refreshed_instead(sent, bind, monkeypatch):
    bind(Note, channel=lambda note: f"notes-{note.text}", updated=pytest.fail, touches={"room": "note_set"})
    room = Room.objects.create(name="lobby")
    Note.objects.bulk_create([Note(room=room, text=text) for text in "ab" * 101])
    room.save()
    assert [(event.type, event.channel) for event in sent.take()] == [("refresh", "notes-a"), ("refresh", "notes-b")]


def test_very_many_objects_are_not_all_asked_for_their_channels(sent, bind, monkeypatch, caplog):
    monkeypatch.setattr(touches, "MAX_TOUCHED", 1)
    monkeypatch.setattr(touches, "MAX_ASKED", 2)
    bind(Note, channel=lambda note: f"notes-{note.text}", touches={"room": "note_set"})
    room = Room.objects.create(name="lobby")
    Note.objects.bulk_create([Note(room=room, text=text) for text in "abc"])
    room.save()
    assert [event.channel for event in sent.take()] == ["notes-a", "notes-b"]
    (entry,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert entry.getMessage() == "More than 2 chat.Note changed at once: some pages are not refreshed."


def test_model_that_refreshes_is_refreshed(sent, bind, django_assert_num_queries):
    bind(Note, channel="notes", refreshes=True, touches={"room": "note_set"})
    room = Room.objects.create(name="lobby")
    with django_assert_num_queries(1):
        room.save()
    assert [event.type for event in sent.take()] == ["refresh"]


def test_many_to_many_relation_touches_each_object_once(sent, bind):
    bind(Note, channel="notes", touches={"labels": "note_set"})
    labels = [Label.objects.create(name=name) for name in "xy"]
    note = Note.objects.create(text="a")
    note.labels.set(labels)
    sent.take()
    with transaction.atomic():
        for label in labels:
            label.save()
    assert sent.texts() == ["a"]


def test_suppressed_saves_touch_nothing(sent, notes):
    for model in (Room, Note):
        with suppress_broadcasts(model):
            notes[0].room.save()
    assert sent.take() == []


def test_bulk_changes_touch_also_where_their_model_is_not_broadcast(sent, notes):
    Room.objects.update(name="hall")
    broadcast_saved(Room.objects.all())
    assert sorted(sent.texts()) == ["a in hall", "b in hall", "c in hall", "elsewhere in hall"]


def test_children_and_later_proxies_of_what_is_shown_touch(sent, bind):
    @isolate_apps("tests.chat")
    def define():
        class Late(LongNote):
            class Meta:
                app_label = "chat"
                proxy = True

        return Late

    bind(Note, channel="notes", touches={"friends": "friends"})
    late = define()
    long = LongNote.objects.create(text="friend")
    Note.objects.create(text="a").friends.add(long)
    sent.take()
    long.save()
    assert sent.texts() == ["a"]
    late.objects.get().save()
    assert sent.texts() == ["a"]
    unbind_broadcasts(Note)
    assert not any(post_save.has_listeners(each) for each in (Note, LongNote))


def test_error_while_fetching_is_logged(sent, bind, errors, monkeypatch):
    bind(Note, channel="notes", touches={"room": "note_set"})
    room = Room.objects.create(name="lobby")
    monkeypatch.setattr(touches, "_touched", lambda touches: 1 / 0)
    room.save()
    ((text, error),) = errors()
    assert isinstance(error, ZeroDivisionError)
    assert text.startswith(f"chat.Room {room.pk} was saved, which others show, but not broadcast")


@isolate_apps("tests.chat")
def test_attribute_of_a_subclass_touches():
    class Comment(BroadcastOnSave):
        author = models.ForeignKey("Author", models.CASCADE)
        broadcast_touches = {"author": "comment_set"}  # noqa: RUF012
        broadcast_template_name = "chat/_note.html"

        class Meta:
            app_label = "chat"

        def broadcast_channel(self):
            return "comments"

    class Author(models.Model):
        class Meta:
            app_label = "chat"

    assert post_save.has_listeners(Author)
    assert check_model(Comment) == []


@pytest.mark.parametrize(
    "wrong, text",
    [
        ("room", "Odd.broadcast_touches must name relations and their accessors, not 'room'."),
        ({"text": "x"}, "Odd.broadcast_touches: chat.Odd has no relation 'text'."),
        ({"nothing": "x"}, "Odd.broadcast_touches: chat.Odd has no relation 'nothing'."),
        ({7: "x"}, "Odd.broadcast_touches: chat.Odd has no relation 7."),
        ({"room": "odds"}, "Odd.broadcast_touches: the accessor of 'room' is 'odd_set', not 'odds'."),
    ],
)
@isolate_apps("tests.chat")
def test_wrong_value_is_reported(wrong, text):
    class Odd(BroadcastOnSave):
        text = models.TextField()
        room = models.ForeignKey(Room, models.CASCADE)
        broadcast_touches = wrong
        broadcast_template_name = "chat/_note.html"

        class Meta:
            app_label = "chat"

        def broadcast_channel(self):
            return "odds"

    assert [(each.id, each.msg) for each in check_model(Odd)] == [("ds_broadcaster.E018", text)]
