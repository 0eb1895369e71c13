"""Event ids and channel names."""

import enum
import re
import uuid
from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group
from django.contrib.sessions.models import Session
from django.db import models
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from ds_broadcaster.ids import (
    RESERVED,
    channel_name,
    channel_names,
    dom_id,
    format_id,
    new_epoch,
    parse_id,
    plain,
    single_line,
)
from tests.chat.models import Seat
from tests.fakes import Hostile

epochs = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=32)
sequences = st.integers(0, 10**18 - 1)
line_breakers = st.sampled_from(["\r", "\n", "\r\n", "\0"])


@given(epochs, sequences)
def test_an_id_is_read_back(epoch, sequence):
    assert parse_id(format_id(epoch, sequence)) == (epoch, sequence)


@given(
    st.text()
    | st.from_regex(r"\A[0-9a-z]{1,40}-[0-9]{1,20}\n?\Z")
    | st.builds("{}-{}".format, epochs, st.text("0٣²-+ _\n", max_size=3))
)
def test_whatever_is_taken_for_an_id_is_one(text):
    parsed = parse_id(text)
    if parsed is not None:
        epoch, sequence = parsed
        assert epoch
        assert int(text.removeprefix(f"{epoch}-")) == sequence
        assert text.isascii()
        assert text.strip() == text


@pytest.mark.parametrize(
    "text", ["", "-", "1", "-1", "abc-", "abc-1\n", " abc-1", "ABC-1", "abc--1", "abc-+1", "abc-1_0", "abc-\u0661"]
)
def test_garbage_is_no_id(text):
    assert parse_id(text) is None


def test_long_garbage_is_no_id():
    assert parse_id("a" * 33 + "-1") is None
    assert parse_id("a-" + "1" * 5000) is None


def test_every_life_of_a_broker_has_a_name_of_its_own():
    names = {new_epoch() for _ in range(100)}
    assert len(names) == 100
    assert all(parse_id(format_id(name, 1)) == (name, 1) for name in names)


@given(st.text(), line_breakers, st.text())
def test_line_breaks_and_nul_are_refused_with_the_arguments_name(before, breaker, after):
    with pytest.raises(ValueError, match=r"^selector must not hold a line break or NUL"):
        single_line("selector", before + breaker + after)
    with pytest.raises(ValueError, match=r"^channel must not hold a line break or NUL"):
        channel_name(before + breaker + after)


@given(st.text().filter(lambda text: not set(text) & set("\r\n\0")))
def test_other_text_passes_unchanged(text):
    assert single_line("selector", text) == text
    if text and not text.startswith(RESERVED):
        assert channel_name(text) == text


@pytest.mark.parametrize("value", [None, 3, b"x", ["x"]])
def test_what_is_no_string_is_refused_with_the_arguments_name(value):
    with pytest.raises(TypeError, match=f"^mode must be a string, not {type(value).__name__}"):
        single_line("mode", value)
    with pytest.raises(TypeError, match=r"^channel must be a string or a saved model instance"):
        channel_name(value)


class Rooms(str, enum.Enum):  # noqa: UP042  (A StrEnum is its value already.)
    ONE = "room-1"
    BROKEN = "room\n1"


class Keys(models.TextChoices):
    FIRST = "first"


def test_member_of_an_enumeration_is_its_value():
    assert channel_name(Rooms.ONE) == "room-1"
    assert channel_names([Rooms.ONE, "room-1"]) == ("room-1",)
    assert single_line("mode", Rooms.ONE) == "room-1"
    assert channel_name(Session(pk=Rooms.ONE)) == "sessions.session-room-1"
    assert dom_id(Session(pk=Keys.FIRST)) == "sessions-session-first"
    assert channel_name(Seat(room_id=7, number=enum.IntEnum("Numbers", "ONE").ONE)) == "chat.seat-(7, 1)"
    with pytest.raises(ValueError, match=r"^channel must not hold"):
        channel_name(Rooms.BROKEN)


@pytest.mark.parametrize("text", [Hostile("room"), Rooms.ONE, mark_safe("room"), SimpleLazyObject(lambda: "room")])
def test_name_is_a_plain_string(text):
    for name in (plain(text), single_line("selector", text), channel_name(text), channel_names([text])[0]):
        assert type(name) is str
        assert name in ("room", "room-1")


def test_subclass_of_a_string_cannot_say_something_else_than_what_was_checked():
    with pytest.raises(ValueError, match=r"^channel must not be empty"):
        channel_name(Hostile(""))
    with pytest.raises(ValueError, match=r"^channel must not hold"):
        channel_name(Hostile("a\nb"))
    assert parse_id(Hostile("abc-7")) == ("abc", 7)


def test_saved_instance_stands_for_its_label_and_key():
    assert channel_name(Group(pk=42)) == "auth.group-42"
    assert channel_name(Group(pk=0)) == "auth.group-0"
    assert channel_name(Session(pk="key")) == "sessions.session-key"


def test_lazy_user_of_a_request_names_a_channel():
    assert channel_name(SimpleLazyObject(lambda: get_user_model()(pk=7))) == "auth.user-7"


def test_unsaved_instance_is_refused():
    with pytest.raises(ValueError, match="save it before it names a channel"):
        channel_name(Group(name="new"))


@pytest.mark.parametrize("value", [Group, AnonymousUser(), uuid.uuid4(), object()])
def test_what_is_no_instance_of_a_model_names_no_channel(value):
    with pytest.raises(TypeError, match=r"^channel must be"):
        channel_name(value)


def test_primary_key_cannot_forge_lines():
    with pytest.raises(ValueError, match=r"^channel must not hold"):
        channel_name(Session(pk="a\nb"))


def test_empty_name_is_refused():
    with pytest.raises(ValueError, match=r"^channel must not be empty"):
        channel_name("")


def test_several_channels_come_once_each_and_in_order():
    assert channel_names("room") == ("room",)
    assert channel_names(["b", Group(pk=1), "a", "b"]) == ("b", "auth.group-1", "a")
    assert channel_names(("b", "a")) == ("b", "a")


@pytest.mark.parametrize("value", [[], ()])
def test_no_channel_at_all_is_refused(value):
    with pytest.raises(ValueError, match="at least one channel"):
        channel_names(value)


@pytest.mark.parametrize("value", [["a", 3], [["a"]], {"a"}])
def test_wrong_name_among_several_is_refused(value):
    with pytest.raises(TypeError, match=r"^channel must be"):
        channel_names(value)


def test_key_that_is_written_in_another_way_is_the_same_element_and_channel():
    class Key:
        def to_python(self, value):
            return int(value)

    def saved(pk):
        meta = SimpleNamespace(app_label="rooms", model_name="note", pk=Key())
        meta.concrete_model = SimpleNamespace(_meta=meta)
        return SimpleNamespace(pk=pk, _meta=meta)

    assert dom_id(saved("007")) == dom_id(saved(7)) == "rooms-note-7"
    assert channel_name(saved("007")) == channel_name(saved(7)) == "rooms.note-7"
    assert dom_id(saved("no number")) == "rooms-note-no_20_number"


def test_composite_key_is_one_when_it_has_all_its_parts():
    for key in ((7, 3), ("007", "3")):
        seat = Seat(room_id=key[0], number=key[1])
        assert channel_name(seat) == "chat.seat-(7, 3)"
        assert dom_id(seat) == "chat-seat-_28_7_2c__20_3_29_"
    for unsaved in (Seat(room_id=7), Seat(number=3), Seat()):
        for names in (channel_name, dom_id):
            with pytest.raises(ValueError, match="has no primary key yet"):
                names(unsaved)


def shown(pk):
    """Return the id of the element that shows the object with this key."""
    meta = SimpleNamespace(app_label="rooms", model_name="note", pk=SimpleNamespace(to_python=lambda value: value))
    meta.concrete_model = SimpleNamespace(_meta=meta)
    return dom_id(SimpleNamespace(pk=pk, _meta=meta))


def test_key_that_looks_like_an_escaped_one_has_an_id_of_its_own():
    assert shown("a.b") == "rooms-note-a_2e_b"
    assert shown("a_2e_b") != shown("a.b")
    assert shown("_2e_") != shown("_5f.")
    assert shown("a_b") == "rooms-note-a_b"


@given(st.lists(st.text("_25fe.g é", max_size=8), min_size=2, max_size=2, unique=True))
def test_two_keys_never_share_an_id(keys):
    assert shown(keys[0]) != shown(keys[1])
    assert all(re.fullmatch(r"[0-9A-Za-z_-]+", shown(key)) for key in keys)
