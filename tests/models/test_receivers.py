"""broadcast_saved: saves without signals."""

import pytest
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import F

from ds_broadcaster import BrokerUnavailable, broadcast_saved
from ds_broadcaster.models import receivers
from tests.chat.models import Article, Message, Note, Reply, Room, Seat

pytestmark = pytest.mark.django_db(transaction=True)


def test_bulk_created_objects_are_sent_as_created(sent, room):
    objects = Message.objects.bulk_create([Message(room=room, text=text) for text in "ab"])
    assert sent.take() == []
    broadcast_saved(objects)
    assert sent.shapes() == [("append", "a 0 Yes"), ("append", "b 0 Yes")]
    broadcast_saved(objects)
    assert sent.shapes() == [("outer", "a 0 Yes"), ("outer", "b 0 Yes")]


def test_loaded_objects_are_sent_as_updated(sent, room):
    Message.objects.bulk_create([Message(room=room, text=text) for text in "ab"])
    objects = list(Message.objects.all())
    for each in objects:
        each.likes = 1
    Message.objects.bulk_update(objects, ["likes"])
    broadcast_saved(objects)
    assert sent.shapes() == [("outer", "a 1 Yes"), ("outer", "b 1 Yes")]


def test_queryset_is_sent_as_updated(sent, room):
    Message.objects.bulk_create([Message(room=room, text="a")])
    Message.objects.update(likes=2)
    broadcast_saved(Message.objects.all())
    assert sent.shapes() == [("outer", "a 2 Yes")]


def test_saved_object_is_sent_as_updated(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    broadcast_saved(message)
    assert sent.shapes() == [("outer", "a 0 Yes")]


def test_loaded_object_with_a_new_key_is_sent_as_created(sent, room):
    message = Message.objects.create(room=room, text="a")
    message = Message.objects.get()
    sent.take()
    message.pk = None
    broadcast_saved(Message.objects.bulk_create([message]))
    assert sent.shapes() == [("append", "a 0 Yes")]


@pytest.mark.parametrize("created, mode", [(True, "append"), (False, "outer")])
def test_created_argument_decides(sent, room, created, mode):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    broadcast_saved(message, created=created)
    broadcast_saved(Message.objects.all(), created=created)
    assert sent.shapes() == [(mode, "a 0 Yes")] * 2


def test_generator_is_read_once(sent, room):
    objects = Message.objects.bulk_create([Message(room=room, text=text) for text in "ab"])
    broadcast_saved(each for each in objects)
    assert len(sent.take()) == 2
    broadcast_saved([])
    assert sent.take() == []


def test_changes_wait_for_the_commit_and_are_merged(sent, room):
    with transaction.atomic():
        (message,) = Message.objects.bulk_create([Message(room=room, text="a")])
        broadcast_saved(message)
        message.text = "b"
        message.save()
        assert sent.take() == []
    assert sent.shapes() == [("append", "b 0 Yes")]
    with transaction.atomic():
        broadcast_saved(message)
        transaction.set_rollback(True)
    assert sent.take() == []


def test_objects_outside_of_transactions_are_sent_in_one_go(sent, room, monkeypatch, django_assert_num_queries):
    message = Message.objects.create(room=room, text="m")
    replies = Reply.objects.bulk_create([Reply(message=message, text=str(number)) for number in range(10)])
    sent.take()
    flushes = []
    flush = receivers.flush
    monkeypatch.setattr(receivers, "flush", lambda due: flushes.append(len(due)) or flush(due))
    with django_assert_num_queries(1):
        broadcast_saved([*replies, message])
    assert flushes == [11]
    assert sent.texts()[-1] == "m 0 Yes"
    sent.fails = BrokerUnavailable("down")
    sent.attempts = 0
    broadcast_saved(replies)
    assert sent.attempts == 1


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_objects_with_one_key_in_two_databases_are_not_merged(sent):
    messages = []
    for alias in ("default", "archive"):
        room = Room.objects.using(alias).create(pk=70, name=alias)
        messages.append(Message.objects.using(alias).create(pk=7, room=room, text=alias))
    sent.take()
    broadcast_saved(messages)
    assert sent.texts() == ["default 0 Yes", "archive 0 Yes"]


@pytest.mark.parametrize("wrong", [5, None, "text", object()])
def test_single_value_of_another_type_is_refused(wrong):
    with pytest.raises(TypeError, match="broadcast_saved takes model instances"):
        broadcast_saved(wrong)


def test_incomplete_composite_key_is_refused(room):
    with pytest.raises(ValueError, match="has no primary key"):
        broadcast_saved(Seat(room=room))


def test_update_reported_as_created_later_is_sent_as_both(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    with transaction.atomic():
        message.save()
        broadcast_saved(message, created=True)
    assert sent.shapes() == [("outer", "a 0 Yes"), ("append", "a 0 Yes")]


def test_deletion_wins_over_a_later_update(sent, room):
    message = Message.objects.create(room=room, text="a")
    other = Message.objects.get()
    sent.take()
    with transaction.atomic():
        message.delete()
        broadcast_saved(other)
    assert [event.mode for event in sent.take()] == ["remove"]


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_objects_of_another_database_wait_for_its_commit(sent):
    room = Room.objects.using("archive").create(name="vault")
    with transaction.atomic(using="archive"):
        (message,) = Message.objects.using("archive").bulk_create([Message(room=room, text="a")])
        broadcast_saved(message)
        assert sent.take() == []
    assert len(sent.take()) == 1


def test_objects_are_sent_whatever_changed_and_are_clean_afterwards(sent):
    (article,) = Article.objects.bulk_create([Article(title="a")])
    broadcast_saved(article)
    assert sent.texts() == ["a"]
    article.save()
    assert sent.take() == []


def test_expressions_are_fetched_before_rendering(sent, room):
    message = Message.objects.create(room=room, text="a", likes=1)
    sent.take()
    message.likes = F("likes") + 1
    Message.objects.bulk_update([message], ["likes"])
    broadcast_saved(message)
    assert sent.texts() == ["a 2 Yes"]


def test_unsaved_object_says_what_to_do(room):
    with pytest.raises(ValueError, match=r"has no primary key: save it first.*created=True"):
        broadcast_saved([Message(room=room, text="a")])


def test_model_that_is_not_broadcast_says_what_to_write():
    with pytest.raises(TypeError, match=r"write `class Group\(BroadcastOnSave\)`, or bind_broadcasts\(Group, "):
        broadcast_saved(Group.objects.create(name="g"))
    with pytest.raises(TypeError, match="Note is not broadcast"):
        broadcast_saved(Note.objects.create())


@pytest.mark.parametrize("objects", [["a"], "a", [Message], [{"pk": 1}]])
def test_iterable_of_other_types_is_refused(objects):
    with pytest.raises(TypeError, match="broadcast_saved takes model instances, not "):
        broadcast_saved(objects)


def test_nothing_is_sent_when_one_is_refused(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    with pytest.raises(ValueError, match="no primary key"):
        broadcast_saved([message, Message(room=room)])
    assert sent.take() == []
