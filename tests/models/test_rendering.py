"""Rendering: targets and modes, templates, language and time zone, hooks."""

from datetime import UTC, datetime

import pytest
from django.db import transaction
from django.test import override_settings
from django.utils import timezone, translation
from pydantic import BaseModel

from ds_broadcaster import broadcast_saved
from ds_broadcaster.models.rendering import guarded
from tests.chat.models import Article, Job, Letter, LoudMessage, Message, Room

pytestmark = pytest.mark.django_db(transaction=True)


# Targets and modes


@pytest.mark.parametrize(
    "target, mode, expected",
    [
        ("#list", "append", "#list:not(:has(#chat-room-7))"),
        ("#list", "prepend", "#list:not(:has(#chat-room-7))"),
        (" #a, #b ", "append", ":is(#a, #b):not(:has(#chat-room-7))"),
        ("#list > .end", "before", "#list > .end:not(#chat-room-7, #chat-room-7 ~ *, :has(~ #chat-room-7))"),
        ("#first", "after", "#first:not(#chat-room-7, #chat-room-7 ~ *, :has(~ #chat-room-7))"),
        ("#list", "inner", "#list"),
        ("#a, #b", "outer", "#a, #b"),
        ("#list", "replace", "#list"),
    ],
)
def test_element_that_a_page_shows_is_not_added_again(target, mode, expected):
    assert guarded(target, mode, Room(pk=7)) == expected


def test_without_a_target_a_created_object_replaces_its_element(sent):
    Article.objects.create(title="a")
    (event,) = sent.take()
    assert (event.selector, event.mode) == (None, None)


# Templates


def test_context_names_the_object_after_its_models(sent, room, template):
    template["chat/_message.html"] = "{{ object.text }} {{ message.text }} {{ loudmessage.text }} {{ letter.text }}."
    Message.objects.create(room=room, text="m")
    LoudMessage.objects.create(room=room, text="p")
    Letter.objects.create(room=room, text="c")
    assert sent.texts() == ["m m  .", "p p p .", "c c  c."]


def test_own_template_comes_before_the_inherited_one(sent, room, template):
    template["chat/_message.html"] = "parent"
    template["chat/_letter.html"] = "child"
    Letter.objects.create(room=room, text="")
    LoudMessage.objects.create(room=room, text="")
    assert sent.texts() == ["child", "parent"]


def test_template_name_may_be_a_list_to_choose_from(sent, room, template, monkeypatch):
    monkeypatch.setattr(Message, "broadcast_template_name", ["chat/none.html", "chat/some.html"])
    template["chat/some.html"] = "some"
    Message.objects.create(room=room, text="")
    assert sent.texts() == ["some"]


def test_template_that_renders_nothing_removes_the_element(sent, room, template):
    template["chat/_message.html"] = "{% if object.likes %}liked{% endif %}\n"
    message = Message.objects.create(room=room, text="")
    message.save()
    assert sent.shapes() == [("remove", f"#chat-message-{message.pk}")] * 2


def test_rendering_is_in_the_language_of_the_save(sent, room):
    with translation.override("de"):
        Message.objects.create(room=room, text="")
    assert sent.texts() == ["0 Ja"]


@override_settings(DS_BROADCASTER_LANGUAGE="fr")
def test_rendering_is_in_the_language_of_the_setting(sent, room):
    with translation.override("de"):
        Message.objects.create(room=room, text="")
        assert translation.get_language() == "de"
    assert sent.texts() == ["0 Oui"]


def test_hooks_run_in_the_language_of_the_save(sent, hooks):
    hooks["created"] = hooks["deleted"] = lambda job: f"<p>{translation.gettext('Yes')}</p>"
    with translation.override("de"):
        job = Job.objects.create()
        job.delete()
    assert sent.texts() == ["Ja", "Ja"]


def test_times_are_in_the_time_zone_of_the_project_not_of_the_request(sent, room, template):
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    template["chat/_message.html"] = "{{ object.at|date:'H:i' }}"
    with timezone.override("Asia/Tokyo"), override_settings(TIME_ZONE="America/New_York"):
        message = Message(room=room, text="")
        message.at = noon
        message.save()
        assert timezone.get_current_timezone_name() == "Asia/Tokyo"
    assert sent.texts() == ["07:00"]


# Hooks


class Signals(BaseModel):
    count: int


@pytest.mark.parametrize("hook", ["created", "updated", "deleted"])
@pytest.mark.parametrize(
    "answer, expected",
    [
        (None, []),
        ({"count": 1}, [("signals", '{"count":1}')]),
        (Signals(count=1), [("signals", '{"count":1}')]),
        ((None, {"count": 1}), [("signals", '{"count":1}')]),
        (("<p>x</p>", Signals(count=1)), [("elements", "<p>x</p>"), ("signals", '{"count":1}')]),
        ("<p>x</p>", [("elements", "<p>x</p>")]),
    ],
)
def test_hooks_say_what_is_sent(sent, hooks, hook, answer, expected):
    hooks.update(created=None, updated=None, deleted=None)
    hooks[hook] = answer
    job = Job.objects.create()
    job.save()
    job.delete()
    assert [(event.type, event.html or event.signals) for event in sent.take()] == expected


@pytest.mark.parametrize("hook", ["created", "updated", "deleted"])
@pytest.mark.parametrize("answer", ["", ("", {"gone": True})])
def test_empty_string_removes_the_element(sent, hooks, hook, answer):
    hooks.update(created=None, updated=None, deleted=None)
    hooks[hook] = answer
    job = Job.objects.create()
    key = job.pk
    job.save()
    job.delete()
    signals = [(None, None, '{"gone":true}')] if isinstance(answer, tuple) else []
    events = sent.take()
    assert [(event.mode, event.selector, event.signals) for event in events] == [
        ("remove", f"#chat-job-{key}", ""),
        *signals,
    ]


def test_object_that_may_be_shown_is_removed_once(sent, hooks):
    hooks.update(created="", updated="")
    job = Job.objects.create()
    sent.take()
    with transaction.atomic():
        job.save()
        broadcast_saved(job, created=True)
    assert [event.mode for event in sent.take()] == ["remove"]


def test_deleted_hook_sees_the_key_of_the_object(sent, hooks):
    hooks["deleted"] = lambda job: f"<p>{job.pk}</p>"
    job = Job.objects.create()
    key = job.pk
    sent.take()
    job.delete()
    (event,) = sent.take()
    assert (event.html, event.mode, event.selector) == (f"<p>{key}</p>", None, None)


def test_result_of_another_type_says_what_to_return(sent, hooks, errors):
    hooks["created"] = 7
    Job.objects.create()
    ((_, error),) = errors()
    assert str(error) == ("broadcast_created() must return HTML, a dict of signals, a tuple of both, or None, not int.")


@pytest.mark.parametrize("wrong, name", [(("<p>", {}, {}), "tuple (str, dict, dict)"), (["<p>"], "list")])
def test_tuple_of_three_and_list_say_what_to_return(sent, hooks, errors, wrong, name):
    hooks["created"] = wrong
    Job.objects.create()
    ((_, error),) = errors()
    assert str(error).endswith(f"or None, not {name}.")


def test_blank_html_removes_a_deleted_object(sent, hooks):
    hooks["deleted"] = " \n"
    job = Job.objects.create()
    sent.take()
    job.delete()
    assert [event.mode for event in sent.take()] == ["remove"]


def test_hook_may_return_an_object_that_renders_itself(sent, hooks):
    class Card:
        def __html__(self):
            return "<p>card</p>"

    hooks["created"] = Card()
    Job.objects.create()
    assert sent.texts() == ["card"]
