"""Models that refresh pages: one refresh for each channel and transaction, and no fragments."""

import pytest
from django.db import connection, models, transaction
from django.db.models.signals import m2m_changed
from django.test.utils import CaptureQueriesContext, isolate_apps

from ds_broadcaster import BroadcastOnSave, broadcast_saved, suppress_broadcasts
from ds_broadcaster.models.receivers import unwatch
from ds_broadcaster.streams.tabs import serving
from tests.chat.models import Article, Label, LongNote, Message, Note, Room, StickyNote

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def refreshing(bind):
    """Note, which refreshes "notes-<text>" and "notes"."""
    bind(Note, channel=lambda note: ["notes", f"notes-{note.text}"], refreshes=True)


def refreshed(sent):
    events = sent.take()
    assert {event.type for event in events} <= {"refresh"}
    return [event.channel for event in events]


def test_saves_and_deletions_refresh_the_channels(sent, refreshing):
    note = Note.objects.create(text="a")
    assert refreshed(sent) == ["notes", "notes-a"]
    note.text = "b"
    note.save()
    assert refreshed(sent) == ["notes", "notes-b"]
    note.delete()
    assert refreshed(sent) == ["notes", "notes-b"]


def test_transaction_refreshes_each_channel_once_after_its_fragments(sent, refreshing):
    with transaction.atomic():
        for number in range(50):
            Note.objects.create(text=str(number % 2))
        Article.objects.create(title="fragment")
        Note.objects.filter(text="0").delete()
        assert sent.take() == []
    events = sent.take()
    assert [(event.type, event.channel) for event in events] == [
        ("elements", "articles"),
        ("refresh", "notes"),
        ("refresh", "notes-1"),
        ("refresh", "notes-0"),
    ]


def test_rolled_back_change_refreshes_nothing(sent, refreshing):
    with transaction.atomic():
        Note.objects.create(text="kept")
        with transaction.atomic():
            Note.objects.create(text="lost")
            transaction.set_rollback(True)
    assert refreshed(sent) == ["notes", "notes-kept"]


def test_bulk_changes_refresh_each_channel_once(sent, refreshing):
    broadcast_saved(Note.objects.bulk_create([Note(text="a"), Note(text="a"), Note(text="b")]))
    assert refreshed(sent) == ["notes", "notes-a", "notes-b"]
    Note.objects.update(extra="x")
    broadcast_saved(Note.objects.all())
    assert refreshed(sent) == ["notes", "notes-a", "notes-b"]


def test_nothing_is_rendered_and_no_template_is_needed(sent, bind):
    bind(Room, channel="rooms", refreshes=True, created=pytest.fail, updated=pytest.fail, deleted=pytest.fail)
    room = Room.objects.create(name="x")
    room.save()
    room.delete()
    assert refreshed(sent) == ["rooms"] * 3


def test_refresh_leaves_out_the_tab_only_where_all_changes_do(sent, bind, rf):
    bind(Note, channel="notes", refreshes=True, exclude_sender=True)
    bind(Room, channel=lambda room: room.name, refreshes=True)
    with serving(rf.get("/", {"datastar": '{"broadcastTab": "tab-12345678"}'})):
        Note.objects.create()
        with transaction.atomic():
            Note.objects.create()
            Room.objects.create(name="notes")
            Room.objects.create(name="rooms")
    assert [(event.channel, event.tab) for event in sent.take()] == [
        ("notes", "tab-12345678"),
        ("notes", None),
        ("rooms", None),
    ]


def test_object_that_moved_refreshes_its_former_channel(sent, bind):
    bind(Note, channel=lambda note: f"notes-{note.text}", refreshes=True, moves=["text"])
    note = Note.objects.create(text="a")
    sent.take()
    note.text = "b"
    note.save()
    assert refreshed(sent) == ["notes-b", "notes-a"]


def test_fields_decide_which_saves_refresh(sent, bind):
    bind(Note, channel="notes", refreshes=True, fields=["text"])
    note = Note.objects.create()
    assert refreshed(sent) == ["notes"]
    note.extra = "x"
    note.save()
    assert refreshed(sent) == []
    note.text = "x"
    note.save()
    assert refreshed(sent) == ["notes"]


# Many-to-many fields


@pytest.fixture
def labels():
    return [Label.objects.create(name=name) for name in "xy"]


def test_changes_of_many_to_many_fields_refresh(sent, refreshing, labels):
    x, y = labels
    note = Note.objects.create(text="a")
    sent.take()
    changes = {
        "add": lambda: note.labels.add(x, y),
        "remove": lambda: note.labels.remove(x),
        "set": lambda: note.labels.set([x]),
        "clear": lambda: note.labels.clear(),
        "create": lambda: note.labels.create(name="z"),
    }
    for name, change in changes.items():
        change()
        assert (name, refreshed(sent)) == (name, ["notes", "notes-a"])
    note.labels.set(note.labels.all())
    assert refreshed(sent) == []


def test_changes_from_the_other_side_refresh_the_channels_of_the_objects(sent, refreshing, labels):
    x, _ = labels
    a, b = [Note.objects.create(text=text) for text in "ab"]
    sent.take()
    changes = {
        "add": (lambda: x.note_set.add(a, b), ["a", "b"]),
        "remove": (lambda: x.note_set.remove(a), ["a"]),
        "set": (lambda: x.note_set.set([a]), ["b", "a"]),
        "clear": (lambda: x.note_set.clear(), ["a"]),
    }
    for name, (change, texts) in changes.items():
        change()
        assert (name, refreshed(sent)) == (name, ["notes", *[f"notes-{text}" for text in texts]])


def test_both_ends_of_a_relation_to_the_model_itself_are_refreshed(sent, bind):
    bind(Note, channel=lambda note: f"notes-{note.text}", refreshes=True)
    a, b, c = [Note.objects.create(text=text) for text in "abc"]
    sent.take()
    a.friends.add(b, c)
    assert refreshed(sent) == ["notes-a", "notes-b", "notes-c"]
    a.friends.remove(b)
    assert refreshed(sent) == ["notes-a", "notes-b"]
    a.friends.clear()
    assert refreshed(sent) == ["notes-a", "notes-c"]


def test_many_to_many_changes_of_a_transaction_are_one_refresh(sent, refreshing, labels):
    with transaction.atomic():
        note = Note.objects.create(text="a")
        for label in labels:
            note.labels.add(label)
            label.note_set.add(Note.objects.create(text="a"))
    assert refreshed(sent) == ["notes", "notes-a"]


def test_rolled_back_many_to_many_change_refreshes_nothing(sent, refreshing, labels):
    note = Note.objects.create(text="a")
    sent.take()
    with transaction.atomic():
        note.labels.add(*labels)
        labels[0].note_set.clear()
        transaction.set_rollback(True)
    assert refreshed(sent) == []


def heard_by_others(**kwargs): ...


@pytest.mark.parametrize("channel, queries", [("notes", 0), (lambda note: f"notes-{note.text}", 1)])
def test_change_from_the_other_side_costs_one_query_at_most(sent, bind, labels, channel, queries):
    notes = Note.objects.bulk_create([Note(text="a") for _ in range(20)])
    m2m_changed.connect(heard_by_others, sender=Note.labels.through)  # Django asks what is new for any receiver.
    try:
        with CaptureQueriesContext(connection) as silent:
            labels[0].note_set.set(notes)
    finally:
        m2m_changed.disconnect(heard_by_others, sender=Note.labels.through)
    bind(Note, channel=channel, refreshes=True)
    with CaptureQueriesContext(connection) as heard:
        labels[1].note_set.set(notes)
    assert len(heard) - len(silent) == queries
    assert len(sent.take()) == 1


def test_suppressed_many_to_many_change_is_silent(sent, refreshing, labels):
    note = Note.objects.create(text="a")
    sent.take()
    with suppress_broadcasts(Note):
        note.labels.add(labels[0])
        labels[1].note_set.add(note)
    assert refreshed(sent) == []


def test_many_to_many_changes_of_proxies_and_children_refresh(sent, bind, labels):
    bind(Note, channel=lambda note: type(note).__name__, refreshes=True, subclasses=True)
    sticky, long = StickyNote.objects.create(), LongNote.objects.create()
    sent.take()
    sticky.labels.add(labels[0])
    assert refreshed(sent) == ["StickyNote"]
    long.labels.add(labels[0])
    assert refreshed(sent) == ["Note"]


def test_many_to_many_changes_of_a_proxy_that_is_bound_alone_refresh(sent, bind, labels):
    bind(StickyNote, channel=lambda note: f"notes-{note.text}", refreshes=True)
    sticky, note = StickyNote.objects.create(text="sticky"), Note.objects.create(text="plain")
    sent.take()
    sticky.labels.add(labels[0])
    assert refreshed(sent) == ["notes-sticky"]
    note.labels.add(labels[0])
    assert refreshed(sent) == []


def test_error_in_the_channel_is_logged(sent, bind, labels, errors):
    note = Note.objects.create()
    bind(Note, channel=lambda note: 1 / 0, refreshes=True)
    note.labels.add(labels[0])
    labels[1].note_set.add(note)
    assert [type(error) for _, error in errors()] == [ZeroDivisionError] * 2
    assert note.labels.count() == 2


def test_models_that_send_fragments_are_silent_about_many_to_many_changes(sent, bind, labels):
    bind(Note, channel="notes")
    note = Note.objects.create()
    sent.take()
    note.labels.add(*labels)
    assert sent.take() == []
    assert not m2m_changed.has_listeners(Note.labels.through)


def test_unbound_model_has_no_receivers(bind):
    bind(Note, channel="notes", refreshes=True)
    assert m2m_changed.has_listeners(Note.labels.through)
    unwatch(Note)
    assert not m2m_changed.has_listeners(Note.labels.through)


@isolate_apps("tests.chat")
def test_attribute_of_a_subclass_refreshes(sent):
    class Poll(BroadcastOnSave):
        broadcast_refreshes = True

        class Meta:
            app_label = "chat"

        def broadcast_channel(self):
            return ["polls", self]

    broadcast_saved(Poll(pk=7))
    assert refreshed(sent) == ["polls", "chat.poll-7"]
    assert Message not in Poll.__mro__


@isolate_apps("tests.chat")
def test_field_through_a_model_that_is_defined_later_refreshes():
    class Club(BroadcastOnSave):
        members = models.ManyToManyField(Room, through="Membership")
        broadcast_refreshes = True

        class Meta:
            app_label = "chat"

        def broadcast_channel(self):
            return "clubs"

    class Membership(models.Model):
        club = models.ForeignKey(Club, models.CASCADE)
        room = models.ForeignKey(Room, models.CASCADE)

        class Meta:
            app_label = "chat"

    assert m2m_changed.has_listeners(Membership)
