"""BroadcastOnSave: creations, updates and deletions, their channels, and errors."""

import asyncio
import importlib
import io
import warnings

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import transaction
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import F
from django.db.models.signals import post_init, post_save
from django.template import TemplateDoesNotExist
from django.test import override_settings
from django.test.utils import isolate_apps
from django.utils.translation import gettext_lazy

from ds_broadcaster import BroadcastOnSave, BrokerUnavailable, EventTooLarge, broadcast_saved
from ds_broadcaster.models import outbox
from ds_broadcaster.models.receivers import unwatch, watch
from ds_broadcaster.models.registry import declared
from ds_broadcaster.streams.tabs import serving
from tests.chat import models as module
from tests.chat.models import Article, Job, Letter, LoudMessage, Message, Reply, Room, Seat, Silent

pytestmark = pytest.mark.django_db(transaction=True)


# Created, updated, deleted


def test_created_object_goes_to_the_target(sent, room):
    message = Message.objects.create(room=room, text="hello")
    (event,) = sent.take()
    assert event.channel == f"room-{room.pk}"
    assert event.html.startswith(f'<li id="chat-message-{message.pk}">hello 0')
    assert event.mode == "append"
    assert event.selector == f"#messages:not(:has(#chat-message-{message.pk}))"
    assert event.tab is None


def test_updated_object_replaces_the_element_with_its_id(sent, room):
    message = Message.objects.create(room=room, text="hello")
    sent.take()
    message.text = "bye"
    message.save()
    (event,) = sent.take()
    assert (event.selector, event.mode, event.text) == (None, None, "bye 0 Yes")


def test_deleted_object_is_removed_without_rendering(sent, room, template):
    template["chat/_message.html"] = "<p>"
    message = Message.objects.create(room=room, text="hello")
    sent.take()
    del template["chat/_message.html"]
    pk = message.pk
    message.delete()
    (event,) = sent.take()
    assert (event.channel, event.selector, event.mode) == (f"room-{room.pk}", f"#chat-message-{pk}", "remove")


def test_queryset_delete_and_cascade_remove_elements_from_their_former_channels(sent, room):
    first, second = [Message.objects.create(room=room, text="") for _ in "ab"]
    reply = Reply.objects.create(message=first, text="")
    sent.take()
    Message.objects.all().delete()
    removed = {(event.channel, event.selector) for event in sent.take()}
    assert removed == {
        (f"room-{room.pk}", f"#chat-message-{first.pk}"),
        (f"room-{room.pk}", f"#chat-message-{second.pk}"),
        (f"room-{room.pk}", f"#chat-reply-{reply.pk}"),
        (f"chat.message-{first.pk}", f"#chat-reply-{reply.pk}"),
    }


def test_cascade_from_a_silent_model_removes_elements(sent, room):
    message = Message.objects.create(room=room, text="")
    sent.take()
    room.delete()
    assert [event.selector for event in sent.take()] == [f"#chat-message-{message.pk}"]


def test_text_is_escaped(sent, room):
    Message.objects.create(room=room, text="<script>alert(1)</script>")
    (event,) = sent.take()
    assert "&lt;script&gt;" in event.html
    assert "<script" not in event.html


def test_fixture_is_silent(sent, room):
    message = Message.objects.create(room=room, text="a")
    text = serializers.serialize("json", [message, Message(pk=99, room=room, text="new")])
    sent.take()
    for each in serializers.deserialize("json", text):
        each.save()
    assert Message.objects.count() == 2
    assert sent.take() == []


def test_instance_saved_without_its_key_is_created_again(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    message.pk = None
    message.save()
    (event,) = sent.take()
    assert event.mode == "append"
    assert event.selector.endswith(f"(#chat-message-{message.pk}))")


async def test_async_saves_and_deletions_are_broadcast(sent):
    room = await Room.objects.acreate(name="lobby")
    message = await Message.objects.acreate(room=room, text="a")
    message.text = "b"
    await message.asave()
    await message.adelete()
    assert [event.mode for event in sent.take()] == ["append", None, "remove"]


def test_saves_of_concurrent_tasks_are_all_sent(sent, room):
    async def create():
        await asyncio.gather(*[Message.objects.acreate(room_id=room.pk, text=str(number)) for number in range(5)])

    asyncio.run(create())
    assert sorted(sent.texts()) == [f"{number} 0 Yes" for number in range(5)]


# Channels


@pytest.mark.parametrize("answer", [["a", "b"], ("a", "b", "a"), {"a", "b"}, frozenset({"a", "b"})])
def test_object_is_sent_to_several_channels(sent, hooks, answer):
    hooks["channel"] = answer
    job = Job.objects.create()
    job.save()
    job.delete()
    events = sent.take()
    assert sorted(event.channel for event in events) == ["a", "a", "a", "b", "b", "b"]


def test_lazy_string_is_not_split_into_channels(sent, hooks, errors):
    hooks["channel"] = gettext_lazy("room")
    Job.objects.create()
    assert sent.attempts == 0
    ((_, error),) = errors()
    assert str(error).startswith("channel must be a string")


def test_channel_may_be_an_instance(sent, hooks, room):
    hooks["channel"] = room
    Job.objects.create()
    assert [event.channel for event in sent.take()] == [f"chat.room-{room.pk}"]


@pytest.mark.parametrize("answer", [None, [], ()])
def test_object_without_a_channel_is_silent_and_not_rendered(sent, hooks, answer):
    hooks.update(channel=answer, render=pytest.fail)
    job = Job.objects.create()
    job.save()
    job.delete()
    assert sent.attempts == 0


# Errors


def test_template_error_is_logged_and_does_not_break_the_save(sent, room, template, errors):
    message = Message.objects.create(room=room, text="")
    ((text, error),) = errors()
    assert text == f"chat.Message {message.pk} was created, but not broadcast (template: chat/_message.html)."
    assert isinstance(error, TemplateDoesNotExist)
    assert Message.objects.count() == 1


@pytest.mark.parametrize("hook", ["channel", "created", "updated", "deleted"])
def test_hook_error_is_logged_and_does_not_break_the_save(sent, hooks, errors, hook):
    hooks[hook] = lambda job: 1 / 0
    job = Job.objects.create()
    job.state = "done"
    job.save()
    assert Job.objects.get().state == "done"
    job.delete()
    assert Job.objects.count() == 0
    found = errors()
    assert len(found) == (3 if hook == "channel" else 1)
    assert all(text.startswith("chat.Job ") and isinstance(error, ZeroDivisionError) for text, error in found)


def test_wrong_channel_is_logged(sent, hooks, errors):
    hooks["channel"] = 7
    Job.objects.create()
    ((_, error),) = errors()
    assert isinstance(error, TypeError)


@pytest.mark.parametrize("error", [EventTooLarge(2, 1), BrokerUnavailable("down")])
def test_broker_error_is_logged_and_does_not_break_the_save(sent, room, errors, error):
    sent.fails = error
    Message.objects.create(room=room, text="")
    assert [logged for _, logged in errors()] == [error]
    assert Message.objects.count() == 1


@override_settings(DS_BROADCASTER_MAX_EVENT_BYTES=100)
def test_event_that_is_too_large_is_logged(sent, room, errors):
    Message.objects.create(room=room, text="x" * 100)
    ((_, error),) = errors()
    assert isinstance(error, EventTooLarge)


def test_unknown_mode_is_logged(sent, room, errors, monkeypatch):
    monkeypatch.setattr(Message, "broadcast_mode", "remove")
    Message.objects.create(room=room, text="")
    ((_, error),) = errors()
    assert str(error).startswith('broadcast_mode must be one of "append", "prepend", ')
    assert sent.take() == []


def test_missing_channel_method_says_what_to_write(sent, monkeypatch, errors):
    monkeypatch.delattr(Silent, "broadcast_channel")
    Silent.objects.create()
    ((_, error),) = errors()
    assert isinstance(error, ImproperlyConfigured)
    assert str(error) == "Silent must define broadcast_channel()."


# Objects that are fetched again


def test_expressions_are_fetched_before_rendering(sent, room, django_assert_num_queries):
    message = Message.objects.create(room=room, text="a", likes=1)
    sent.take()
    message.likes = F("likes") + 1
    message.save()
    assert sent.texts() == ["a 2 Yes"]


def test_database_default_is_rendered(sent):
    Job.objects.create()
    assert sent.texts() == ["new ABC"]


def test_select_related_costs_one_query_a_transaction(sent, room, django_assert_num_queries):
    message = Message.objects.create(room=room, text="")
    with transaction.atomic():
        for number in range(20):
            Reply.objects.create(message_id=message.pk, text=str(number))
        sent.take()
        # Rendering twenty replies needs no further query.
    assert [event.text for event in sent.take() if event.channel == f"room-{room.pk}"] == [
        f"lobby: {number}" for number in range(20)
    ]
    with django_assert_num_queries(2):
        Reply.objects.create(message_id=message.pk, text="")


@pytest.mark.parametrize("size", [1, 2, 100])
def test_objects_are_fetched_in_portions_that_all_databases_take(
    sent, room, monkeypatch, django_assert_num_queries, size
):
    message = Message.objects.create(room=room, text="m")
    replies = Reply.objects.bulk_create([Reply(message=message, text=str(number)) for number in range(5)])
    sent.take()
    monkeypatch.setattr(outbox, "FETCH_SIZE", size)
    with django_assert_num_queries(-(-5 // size)):
        broadcast_saved(replies)
    assert sent.texts() == [f"lobby: {number}" for number in range(5) for _ in range(2)]


def test_object_with_a_composite_key_is_broadcast(sent, room):
    element = f"chat-seat-_28_{room.pk}_2c__20_3_29_"
    Seat.objects.create(room=room, number="3")
    (created,) = sent.take()
    assert (created.channel, created.html) == (f"chat.room-{room.pk}", f'<p id="{element}">lobby: 3 </p>')
    assert created.selector == f"#seats:not(:has(#{element}))"
    with transaction.atomic():
        for name in ("ann", "bob"):
            seat = Seat.objects.get(room=room, number=3)
            seat.taken_by = name
            seat.save()
    assert sent.texts() == ["lobby: 3 bob"]
    Seat.objects.all().delete()
    assert [event.selector for event in sent.take()] == [f"#{element}"]


def test_object_deleted_before_it_is_fetched_is_skipped(sent, room, errors):
    message = Message.objects.create(room=room, text="")
    sent.take()

    def take_away(instance, **kwargs):
        Reply.objects.filter(pk=instance.pk)._raw_delete("default")

    post_save.connect(take_away, sender=Reply)
    # Receivers are called in order: the one that takes the object away must come first.
    faces = declared[Reply]
    try:
        unwatch(Reply)
        watch(*faces)
        Reply.objects.create(message=message, text="")
    finally:
        post_save.disconnect(take_away, sender=Reply)
    assert sent.take() == []
    assert errors() == []


# Several databases


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_object_of_another_database_is_fetched_there_after_its_commit(sent):
    room = Room.objects.using("archive").create(pk=77, name="vault")
    message = Message.objects.using("archive").create(room=room, text="")
    sent.take()
    with transaction.atomic(using="archive"):
        with transaction.atomic():
            Reply(message=message, text="old").save(using="archive")
        assert sent.take() == []
    assert {event.text for event in sent.take()} == {"vault: old"}
    message.delete()
    assert "remove" in {event.mode for event in sent.take()}


# Inheritance


def test_save_through_a_proxy_changes_the_same_element(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    proxy = LoudMessage.objects.get()
    proxy.save()
    proxy.delete()
    first, last = sent.take()
    assert f'id="chat-message-{message.pk}"' in first.html
    assert last.selector == f"#chat-message-{message.pk}"


def test_save_of_a_child_is_one_broadcast_and_its_deletion_one_for_each_table(sent, room):
    letter = Letter.objects.create(room=room, text="a")
    (event,) = sent.take()
    assert event.selector.endswith(f"(#chat-letter-{letter.pk}))")
    key = letter.pk
    letter.delete()
    assert {event.selector for event in sent.take()} == {f"#chat-letter-{key}", f"#chat-message-{key}"}


# The tab that made the change


def test_tab_that_made_the_change_is_left_out(sent, monkeypatch, rf):
    monkeypatch.setattr(declared[Job][0], "exclude_sender", True)
    with serving(rf.get("/", {"datastar": '{"broadcastTab": "tab-12345678"}'})):
        job = Job.objects.create()
    job.save()
    assert [event.tab for event in sent.take()] == ["tab-12345678", None]


def test_tab_is_left_out_only_where_the_model_excludes_it(sent, room, rf):
    with serving(rf.get("/", {"datastar": '{"broadcastTab": "tab-12345678"}'})):
        Message.objects.create(room=room, text="")
    assert [event.tab for event in sent.take()] == [None]


@isolate_apps("tests.chat")
def test_attribute_excludes_the_tab():
    class Shy(BroadcastOnSave):
        broadcast_exclude_sender = True

        class Meta:
            app_label = "chat"

    assert declared[Shy][0].exclude_sender


# Other models, migrations, reloading


def test_other_models_have_no_receivers():
    assert not post_save.has_listeners(Room)
    assert not post_save.has_listeners(Group)
    assert not post_init.has_listeners(Message)
    assert post_init.has_listeners(Article)


def test_migrations_do_not_contain_the_mixin():
    out = io.StringIO()
    call_command("makemigrations", "chat", dry_run=True, verbosity=3, stdout=out)
    assert 'name="Message"' in out.getvalue().replace("'", '"')
    assert "roadcast" not in out.getvalue()


def test_historical_models_of_migrations_are_silent(sent, room):
    state = ProjectState()
    for model in (Room, Message):
        state.add_model(ModelState.from_model(model))
    historical = state.apps.get_model("chat", "Message")
    assert not issubclass(historical, BroadcastOnSave)
    historical.objects.create(room_id=room.pk, text="old").delete()
    assert sent.take() == []


def test_reloaded_module_does_not_broadcast_twice(sent, room):
    before = dict(vars(module))
    known = {model: model for model in apps.get_models()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            importlib.reload(module)
        module.Message.objects.create(room_id=room.pk, text="new")
        assert sent.texts() == ["new 0 Yes"]
    finally:
        vars(module).update(before)
        for model in known:
            apps.all_models[model._meta.app_label][model._meta.model_name] = model
        apps.clear_cache()
