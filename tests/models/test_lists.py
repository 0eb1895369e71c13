"""Lists: objects that are shown or not, that move to another channel, that are too many, and that one hook renders."""

import pytest
from django.db import transaction
from django.test.utils import isolate_apps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_broadcaster import BroadcastOnSave, bind_broadcasts, broadcast_saved
from ds_broadcaster.models import Face
from ds_broadcaster.models.bind import unbind_broadcasts
from ds_broadcaster.models.rendering import over_limit
from tests.chat.models import Note, Room
from tests.chat.recording import Page

pytestmark = pytest.mark.django_db(transaction=True)


def moves(sent):
    """Return (channel, mode or "outer", text or selector) of each event."""
    return [(event.channel, event.mode or "outer", event.text or event.selector) for event in sent.take()]


# Shown or not


@pytest.fixture
def filtered(bind):
    """Note, shown in "#notes" unless its extra is "hidden"."""
    bind(Note, channel="notes", target="#notes", shown=lambda note: note.extra != "hidden")


def test_object_that_is_not_shown_is_removed(sent, filtered):
    note = Note.objects.create(text="a")
    assert sent.shapes() == [("append", "a")]
    note.extra = "hidden"
    note.save()
    assert sent.shapes() == [("remove", f"#chat-note-{note.pk}")]
    Note.objects.create(text="b", extra="hidden")
    assert [event.mode for event in sent.take()] == ["remove"]


def test_object_that_is_shown_again_is_replaced_or_added(sent, filtered):
    note = Note.objects.create(text="a", extra="hidden")
    sent.take()
    note.extra = ""
    note.save()
    replaced, added = sent.take()
    assert (replaced.mode, replaced.selector, replaced.text) == (None, None, "a")
    assert (added.mode, added.selector) == ("append", f"#notes:not(:has(#chat-note-{note.pk}))")
    assert added.html == replaced.html


def test_object_without_a_target_is_replaced_or_removed(sent, bind):
    bind(Note, channel="notes", shown=lambda note: not note.extra)
    note = Note.objects.create(text="a")
    note.save()
    assert sent.shapes() == [("outer", "a"), ("outer", "a")]


def test_object_that_is_not_shown_is_not_rendered(sent, bind, template):
    bind(Note, channel="notes", shown=lambda note: False)
    note = Note.objects.create(text="a")
    note.save()
    broadcast_saved(Note.objects.all()[:1], created=True)
    assert [event.mode for event in sent.take()] == ["remove"] * 3


def test_hook_may_send_signals_about_an_object_that_is_not_shown(sent, bind):
    bind(Note, channel="notes", shown=lambda note: False, updated=lambda note: ("<p>secret</p>", {"count": 0}))
    note = Note.objects.create(text="a")
    sent.take()
    note.save()
    assert [(event.mode, event.html, event.signals) for event in sent.take()] == [
        ("remove", "", ""),
        (None, "", '{"count":0}'),
    ]


def test_deletion_does_not_ask_whether_an_object_is_shown(sent, bind):
    bind(Note, channel="notes", shown=pytest.fail, created=lambda note: None, deleted=lambda note: "<p>gone</p>")
    note = Note(text="a")
    Note.objects.bulk_create([note])
    note.delete()
    assert sent.texts() == ["gone"]


@isolate_apps("tests.chat")
def test_method_of_a_subclass_says_what_is_shown(sent):
    class Task(BroadcastOnSave):
        done = False
        broadcast_target = "#tasks"

        class Meta:
            app_label = "chat"

        def broadcast_channel(self):
            return "tasks"

        def broadcast_shown(self):
            return not self.done

        def render_broadcast(self):
            return f"<p>{self.pk}</p>"

    task = Task(pk=1)
    broadcast_saved(task, created=False)
    assert sent.shapes() == [("outer", "1"), ("append", "1")]
    task.done = True
    broadcast_saved(task)
    assert sent.shapes() == [("remove", "#chat-task-1")]


# Moves


@pytest.fixture
def lobby():
    return Room.objects.create(name="lobby")


@pytest.fixture
def cellar():
    return Room.objects.create(name="cellar")


@pytest.fixture
def moving(bind):
    """Note, whose channel is its room's name."""
    bind(Note, channel=lambda note: note.room and note.room.name, target="#notes", moves={"room"})


def test_moved_object_is_removed_there_and_appended_here(sent, moving, lobby, cellar):
    note = Note.objects.create(text="a", room=lobby)
    sent.take()
    note.room = cellar
    note.save()
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{note.pk}"), ("cellar", "append", "a")]
    note.save()
    assert moves(sent) == [("cellar", "outer", "a")]


def test_moved_object_is_updated_on_the_channels_that_it_keeps(sent, bind, lobby, cellar):
    bind(Note, channel=lambda note: ["all", note.room.name], target="#notes", moves=["room_id"])
    Note.objects.create(text="a", room=lobby)
    note = Note.objects.get()
    sent.take()
    note.room_id = cellar.pk
    note.save(update_fields=["room"])
    assert moves(sent) == [
        ("lobby", "remove", f"#chat-note-{note.pk}"),
        ("all", "outer", "a"),
        ("cellar", "append", "a"),
    ]


def test_object_that_gets_or_loses_its_channel_comes_or_goes(sent, moving, lobby):
    note = Note.objects.create(text="a")
    assert moves(sent) == []
    note.room = lobby
    note.save()
    # It had no channel: no page shows it, and an update does nothing there.
    assert moves(sent) == [("lobby", "append", "a")]
    note.room = None
    note.save()
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{note.pk}")]


def test_moves_of_a_transaction_end_in_the_last_channel(sent, moving, lobby, cellar):
    note = Note.objects.create(text="a", room=lobby)
    attic = Room.objects.create(name="attic")
    sent.take()
    with transaction.atomic():
        for room in (cellar, attic):
            note.room = room
            note.save()
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{note.pk}"), ("attic", "append", "a")]
    with transaction.atomic():
        for room in (cellar, attic):
            note.room = room
            note.save()
    assert moves(sent) == [("attic", "outer", "a")]


def test_move_that_was_rolled_back_is_made_by_the_next_save(sent, moving, lobby, cellar):
    note = Note.objects.create(text="a", room=lobby)
    sent.take()
    note.room = cellar
    with transaction.atomic():
        note.save()
        transaction.set_rollback(True)
    assert moves(sent) == []
    note.save()
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{note.pk}"), ("cellar", "append", "a")]


def test_object_that_moved_and_was_deleted_is_removed_from_both(sent, moving, lobby, cellar):
    note = Note.objects.create(text="a", room=lobby)
    key = note.pk
    sent.take()
    with transaction.atomic():
        note.room = cellar
        note.save()
        note.delete()
    assert sorted(moves(sent)) == [(name, "remove", f"#chat-note-{key}") for name in ("cellar", "lobby")]


def test_save_that_leaves_out_the_field_moves_nothing(sent, moving, lobby, cellar):
    note = Note.objects.create(text="a", room=lobby)
    sent.take()
    note.room = cellar
    note.save(update_fields=["text"])
    assert [event.mode for event in sent.take()] == [None]


def test_bulk_update_moves_the_objects_that_it_was_given(sent, moving, lobby, cellar):
    Note.objects.create(text="a", room=lobby)
    notes = list(Note.objects.all())
    sent.take()
    for note in notes:
        note.room = cellar
    Note.objects.bulk_update(notes, ["room"])
    broadcast_saved(notes, created=False)
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{notes[0].pk}"), ("cellar", "append", "a")]


def test_moves_are_news_also_where_other_fields_are_named(sent, bind, lobby, cellar):
    bind(Note, channel=lambda note: note.room.name, fields=["text"], moves=["room"])
    note = Note.objects.create(text="a", room=lobby)
    sent.take()
    note.extra = "x"
    note.save()
    assert moves(sent) == []
    note.room = cellar
    note.save()
    assert moves(sent) == [("lobby", "remove", f"#chat-note-{note.pk}"), ("cellar", "outer", "a")]


def test_former_channel_gets_what_the_deleted_hook_says_of_the_former_object(sent, bind, lobby, cellar):
    bind(
        Note,
        channel=lambda note: note.room.name,
        moves=["room"],
        created=lambda note: (None, {"came": note.room.name}),
        deleted=lambda note: ("", {"left": note.room.name}),
    )
    note = Note.objects.create(room=lobby)
    sent.take()
    note.room = cellar
    note.save()
    assert [(event.channel, event.mode or event.signals) for event in sent.take()] == [
        ("lobby", "remove"),
        ("lobby", '{"left":"lobby"}'),
        ("cellar", '{"came":"cellar"}'),
    ]


def test_error_in_the_former_channel_is_logged(sent, bind, errors, lobby, cellar):
    bind(Note, channel=lambda note: 1 / 0 if note.room == lobby else "notes", moves=["room"])
    note = Note.objects.create(room=lobby)
    note.room = cellar
    note.save()
    assert [type(error) for _, error in errors()] == [ZeroDivisionError] * 2
    assert Note.objects.get().room == cellar


# Limits


@pytest.mark.parametrize(
    "target, mode, expected",
    [
        ("#list", "append", "#list > :nth-last-child(n+3)"),
        ("#list", "prepend", "#list > :nth-child(n+3)"),
        (" #a, #b ", "append", ":is(#a, #b) > :nth-last-child(n+3)"),
    ],
)
def test_elements_over_the_limit_are_those_at_the_other_end(target, mode, expected):
    assert over_limit(target, mode, 2) == expected


def test_append_removes_what_is_over_the_limit_in_the_same_event(sent, bind):
    bind(Note, channel="notes", target="#notes", limit=2)
    note = Note.objects.create(text="a")
    assert sent.attempts == 1
    assert sent.shapes() == [("append", "a"), ("remove", "#notes > :nth-last-child(n+3)")]
    note.save()
    assert sent.shapes() == [("outer", "a")]


def test_limit_has_no_effect_in_other_modes(sent, bind):
    bind(Note, channel="notes", target="#notes", mode=lambda note: note.extra, limit=2)
    for mode in ("before", "inner"):
        Note.objects.create(extra=mode)
    assert [event.mode for event in sent.take()] == ["before", "inner"]


# Hooks that render more than one object


@pytest.fixture
def renders(bind):
    """The renders of a hook that returns the list of all notes with an even text."""
    found = []

    def listed(note):
        found.append(note)
        rows = "".join(f'<li id="chat-note-{each.pk}">{each.text}</li>' for each in Note.objects.filter(extra=""))
        return f'<ul id="notes">{rows}</ul>'

    bind(Note, channel=lambda note: ["notes", "more"], created=listed, updated=listed)
    return found


def test_list_that_shows_all_objects_is_rendered_once_a_transaction(sent, renders):
    with transaction.atomic():
        for number in range(50):
            Note.objects.create(text=str(number % 2))
        Note.objects.first().save()
    assert len(renders) == 1
    first, second = sent.take()
    assert (first.channel, second.channel) == ("notes", "more")
    assert first.html.count("<li") == 50
    Note.objects.create()
    assert len(renders) == 2


def test_object_that_the_list_does_not_show_is_asked_about(sent, renders):
    with transaction.atomic():
        for extra in ("", "hidden", ""):
            Note.objects.create(extra=extra)
    assert [note.extra for note in renders] == ["", "hidden"]


def test_list_that_is_the_target_stands_for_all_its_objects(sent, bind):
    renders = []

    def listed(note):
        renders.append(note)
        return f"<ul class='x' id='notes'>{Note.objects.count()}</ul>"

    bind(Note, channel="notes", target="#notes", created=listed, updated=listed, deleted=listed)
    with transaction.atomic():
        notes = [Note.objects.create() for _ in range(50)]
    with transaction.atomic():
        for note in notes[10:]:
            note.delete()
        notes[0].save()
    assert len(renders) == 2
    # It replaces the list, and is not put into it.
    assert [(event.mode, event.selector, event.text) for event in sent.take()] == [
        (None, None, "50"),
        (None, None, "10"),
    ]


def test_list_of_one_channel_does_not_stand_for_that_of_another(sent, bind):
    bind(
        Note,
        channel=lambda note: note.text,
        target="#notes",
        created=lambda note: f'<ul id="notes">{Note.objects.filter(text=note.text).count()}</ul>',
    )
    with transaction.atomic():
        for text in "abab":
            Note.objects.create(text=text)
    assert [(event.channel, event.text) for event in sent.take()] == [("a", "2"), ("b", "2")]


def test_sections_are_rendered_once_each(sent, bind):
    renders = []

    def section(note):
        renders.append(note.text)
        rows = [f'<li id="chat-note-{each.pk}"></li>' for each in Note.objects.filter(text=note.text)]
        return f'<ul id="{note.text}">{"".join(rows)}</ul>'

    bind(Note, channel="notes", created=section)
    with transaction.atomic():
        for text in ("todo", "done", "todo", "done"):
            Note.objects.create(text=text)
    assert renders == ["todo", "done"]


def test_element_within_that_of_another_object_is_sent_too(sent, bind):
    def nested(note):
        return f'<li id="chat-note-{note.pk}"><i id="chat-note-{note.pk + 1}"></i></li>'

    bind(Note, channel="notes", created=nested)
    with transaction.atomic():
        first = Note.objects.create()
        Note.objects.create(pk=first.pk + 1)
    assert len(sent.take()) == 2


def test_text_that_looks_like_an_element_does_not_hide_another_object(sent, bind):
    bind(Note, channel="notes")
    with transaction.atomic():
        first, second = [Note.objects.create() for _ in "ab"]
        first.text = f'id="chat-note-{second.pk}" id=chat-note-{second.pk}'
        first.save()
    assert len(sent.take()) == 2


# Faces


@isolate_apps("tests.chat")
def test_faces_are_sent_each_in_its_way(sent):
    class Task(BroadcastOnSave):
        broadcast_faces = [  # noqa: RUF012
            Face(
                channel="tasks", target="#tasks", created=lambda task: "<p>row</p>", updated=lambda task: "<p>row</p>"
            ),
            Face(channel=lambda task: task, created=lambda task: None, updated=lambda task: "<p>page</p>"),
        ]

        class Meta:
            app_label = "chat"

    task = Task(pk=1)
    broadcast_saved(task, created=True)
    assert moves(sent) == [("tasks", "append", "row")]
    broadcast_saved(task)
    assert moves(sent) == [("tasks", "outer", "row"), ("chat.task-1", "outer", "page")]
    with transaction.atomic():
        for _ in range(2):
            broadcast_saved(task)
    assert moves(sent) == [("tasks", "outer", "row"), ("chat.task-1", "outer", "page")]


def test_model_may_be_bound_under_several_names(sent, bind):
    bind(Note, channel="rows", target="#notes", fields=["text"])
    bind(Note, channel=lambda note: note, name="page", fields=["extra"], updated=lambda note: "<p>page</p>")
    note = Note.objects.create(text="a")
    sent.take()
    note.text = "b"
    note.save()
    assert moves(sent) == [("rows", "outer", "b")]
    note.extra = "x"
    note.save()
    assert moves(sent) == [(f"chat.note-{note.pk}", "outer", "page")]
    note.text, note.extra = "c", "y"
    note.save()
    note.save()
    assert moves(sent) == [("rows", "outer", "c"), (f"chat.note-{note.pk}", "outer", "page")]
    key = note.pk
    note.delete()
    assert [(channel, mode) for channel, mode, _ in moves(sent)] == [("rows", "remove"), (f"chat.note-{key}", "remove")]


def test_faces_of_one_save_share_its_rollback(sent, bind):
    bind(Note, channel="a", fields=["text"])
    bind(Note, channel="b", fields=["text"], name="b")
    note = Note.objects.create(text="a")
    sent.take()
    note.text = "b"
    with transaction.atomic():
        note.save()
        transaction.set_rollback(True)
    note.save()
    assert [event.channel for event in sent.take()] == ["a", "b"]
    note.save()
    assert sent.take() == []


def test_error_of_one_face_does_not_stop_the_others(sent, bind, errors):
    bind(Note, channel=lambda note: 1 / 0)
    bind(Note, channel="b", name="b", created=lambda note: 1 / 0)
    bind(Note, channel="c", name="c")
    Note.objects.create(text="a").delete()
    assert [(event.channel, event.mode) for event in sent.take()] == [("c", None), ("b", "remove"), ("c", "remove")]
    assert len(errors()) == 3


# Everything together

KEYS, ROOMS, EXTRAS = (1, 2, 3), ("lobby", "cellar"), ("", "hidden")
STEP = st.tuples(
    st.sampled_from(["save", "save", "reload", "delete", "bulk"]),
    st.sampled_from(KEYS),
    st.sampled_from(ROOMS),
    st.sampled_from(EXTRAS),
)


def blocks(children):
    return st.tuples(st.sampled_from(["commit", "roll back"]), st.lists(children, max_size=6))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.recursive(STEP, blocks, max_leaves=12), max_size=10))
def test_pages_show_the_objects_of_their_channel_that_are_shown(sent, steps):
    Note.objects.all()._raw_delete("default")
    bind_broadcasts(
        Note,
        channel=lambda note: note.text,
        target="#notes",
        moves=["text"],
        shown=lambda note: not note.extra,
        created=lambda note: f'<b id="chat-note-{note.pk}">{note.extra}</b>',
        updated=lambda note: f'<b id="chat-note-{note.pk}">{note.extra}</b>',
    )
    sent.take()
    pages = {room: Page("#notes") for room in ROOMS}
    # The newest instance of each object, as far as it was not loaded in a transaction that was rolled back.
    held = {}

    def run(step):
        if step[0] in ("commit", "roll back"):
            before = dict(held)
            with transaction.atomic():
                for each in step[1]:
                    run(each)
                transaction.set_rollback(step[0] == "roll back")
            if step[0] == "roll back":
                held.clear()
                held.update(before)
            return
        act, key, room, extra = step
        found = Note.objects.filter(pk=key).first()
        if found is None or act == "reload" or key not in held:
            held[key] = found or Note(pk=key)
        note = held[key]
        if act == "delete" and found:
            found.delete()
        elif act in ("save", "bulk"):
            note.text, note.extra = room, extra
            if act == "save" or not found:
                note.save()
            else:
                Note.objects.bulk_update([note], ["text", "extra"])
                broadcast_saved(note, created=False)

    try:
        for step in steps:
            run(step)
            for event in sent.take():
                pages[event.channel].apply([event])
            for room, page in pages.items():
                shown = Note.objects.filter(text=room, extra="")
                assert page.elements.keys() == {f"chat-note-{note.pk}" for note in shown}
    finally:
        unbind_broadcasts(Note)
