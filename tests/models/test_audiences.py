"""Models whose template is rendered where the streams are, once for each audience."""

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from ds_broadcaster.sse import make_frame
from ds_broadcaster.streams.audiences import render_event
from tests.chat.models import LongNote, Note
from tests.harness.sse import SSEParser

pytestmark = pytest.mark.django_db(transaction=True)

TEMPLATE = """{% load ds_broadcaster %}
{% if audience or not note.extra %}<p id="{{ note|dom_id }}">{{ note.text }}</p>{% endif %}
"""


@pytest.fixture
def templates(template):
    template["chat/_note.html"] = TEMPLATE


def seen(events, audience):
    """Return (mode or "outer", selector, HTML) of what an audience gets of the events."""
    found = []
    for event in events:
        if event.type == "template":
            payload = render_event(event.html.encode(), audience)
            args = [each.args for each in SSEParser().feed(make_frame("1", payload).data)]
            found += [
                (each.get("mode", "outer"), each.get("selector"), each.get("elements", "").strip()) for each in args
            ]
        else:
            found.append((event.mode or "outer", event.selector, event.html))
    return found


def test_template_is_not_rendered_where_it_is_saved(sent, bind, template):
    template["chat/_note.html"] = "{% nothing %}"
    bind(Note, channel="notes", target="#notes", audience=True)
    note = Note.objects.create(text="a")
    note.save()
    assert [event.type for event in sent.take()] == ["template", "template"]


def test_each_audience_sees_its_own(sent, bind, templates):
    bind(Note, channel="notes", target="#notes", audience=True)
    note = Note.objects.create(text="a")
    element = f"chat-note-{note.pk}"
    guard = f"#notes:not(:has(#{element}))"
    created = sent.take()
    for audience in (True, None):
        assert seen(created, audience) == [("append", guard, f'<p id="{element}">a</p>')]
    note.extra = "secret"
    note.save()
    updated = sent.take()
    assert seen(updated, True) == [("outer", None, f'<p id="{element}">a</p>')]
    assert seen(updated, None) == [("remove", f"#{element}", "")]
    note.delete()
    assert seen(sent.take(), None) == [("remove", f"#{element}", "")]


def test_object_that_is_gone_when_it_is_rendered_sends_nothing(sent, bind, templates):
    bind(Note, channel="notes", audience=True)
    note = Note.objects.create(text="a")
    events = sent.take()
    note.delete()
    assert render_event(events[0].html.encode(), None) == b""


def test_object_is_loaded_once_for_each_audience(sent, bind, templates):
    bind(Note, channel="notes", audience=True, subclasses=True)
    LongNote.objects.create(text="long")
    (event,) = sent.take()
    with CaptureQueriesContext(connection) as queries:
        assert "long" in render_event(event.html.encode(), None).decode()
    assert len(queries) == 1


def test_limit_and_shown_hold_for_audiences(sent, bind, templates):
    bind(Note, channel="notes", target="#notes", audience=True, limit=2, shown=lambda note: note.text)
    note = Note.objects.create(text="a")
    sent.take()
    note.save()
    assert [mode for mode, _, _ in seen(sent.take(), None)] == ["outer", "append", "remove"]
    note.text = ""
    note.save()
    assert seen(sent.take(), None) == [("remove", f"#chat-note-{note.pk}", "")]


def test_hook_of_the_project_is_sent_to_all_as_it_is(sent, bind, templates):
    bind(Note, channel="notes", audience=True, updated=lambda note: ("<p>all</p>", {"count": 1}))
    note = Note.objects.create(text="a")
    sent.take()
    with transaction.atomic():
        note.save()
    assert [(event.type, event.html or event.signals) for event in sent.take()] == [
        ("elements", "<p>all</p>"),
        ("signals", '{"count":1}'),
    ]
