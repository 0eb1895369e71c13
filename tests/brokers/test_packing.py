"""What brokers write down comes back as it was, and what another program wrote is refused."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_broadcaster.brokers import Command
from ds_broadcaster.brokers.packing import (
    pack_command,
    pack_event,
    pack_tab,
    pack_tabs,
    pack_user,
    unpack_command,
    unpack_event,
    unpack_part,
    unpack_tab,
    unpack_user,
)
from ds_broadcaster.present import UserPart, merged
from ds_broadcaster.sse import PLAIN, Facts
from tests.brokers.malformed import BYTES, NUMBERS, mangled

USERS = st.integers() | st.text() | st.uuids()


@given(st.binary(), st.builds(Facts, exclude=st.none() | st.text("abcXYZ019-_", min_size=8, max_size=64)))
def test_event_and_its_facts_come_back(payload, facts):
    assert unpack_event(pack_event(payload, facts)) == (payload, facts)


def test_event_without_facts_costs_one_byte():
    assert pack_event(b"data: x\n\n", PLAIN) == b"\ndata: x\n\n"
    assert unpack_event(b"\ndata: x\n\n")[1] is PLAIN


def test_facts_of_a_newer_process_are_passed_over():
    packed = json.dumps({"exclude": "tab-number-1", "mood": "good"}).encode() + b"\nx"
    assert unpack_event(packed) == (b"x", Facts(exclude="tab-number-1"))


@given(st.text(), st.sampled_from(["disconnect", "kill", "recheck"]), st.none() | USERS)
def test_command_and_its_user_come_back(channel, verb, user):
    assert unpack_command(pack_command(channel, Command(verb, user))) == (channel, Command(verb, user))


@given(USERS)
def test_user_comes_back_with_its_type(user):
    found = unpack_user(pack_user(user))
    assert (found, type(found)) == (user, type(user))


@given(BYTES | mangled(pack_event(b"data: x\n\n", Facts(exclude="tab-number-1"))))
def test_event_of_another_program_is_taken_as_it_is_or_refused(packed):
    try:
        payload, facts = unpack_event(packed)
    except ValueError:
        return
    assert packed.endswith(payload)
    assert facts.exclude is None or isinstance(facts.exclude, str)


@given(BYTES | mangled(pack_command("a", Command("disconnect", uuid.UUID(int=5)))))
def test_command_of_another_program_is_a_command_or_refused(text):
    try:
        channel, command = unpack_command(text)
    except ValueError:
        return
    assert isinstance(channel, str)
    assert command.verb in ("disconnect", "kill", "recheck")
    assert command.user_id is None or isinstance(command.user_id, int | str | uuid.UUID)


@given(BYTES | mangled(pack_user(uuid.UUID(int=5)).encode()))
def test_user_of_another_program_can_be_a_key_or_is_refused(text):
    try:
        user = unpack_user(text)
    except ValueError:
        return
    assert isinstance(user, int | str | uuid.UUID)


@pytest.mark.parametrize("user", [*NUMBERS, "null", "true", "[]", "{}", '{"uuid": 5}', '{"pk": 5}', '{"pk": "x"}'])
def test_what_no_user_has_is_refused(user):
    if user.lstrip("-").isdigit() and len(user) < 100:
        assert unpack_user(user) == int(user)
    else:
        with pytest.raises(ValueError, match=r"."):
            unpack_user(user)
    with pytest.raises(ValueError, match=r"."):
        unpack_command(f'["a", {user}, {user}]'.encode())


MARKS = st.lists(st.text("0123456789abcdef", min_size=1)).map(tuple)
PART = UserPart(5, 1e9, False, ("a",), ("b",), 1, {"page": (1e9, [1, None])})


@given(
    st.builds(
        UserPart,
        USERS,
        st.floats(0, 1e10),
        st.booleans(),
        MARKS,
        MARKS,
        st.integers(0, 50),
        st.dictionaries(st.text(), st.tuples(st.floats(0, 1e10), st.none() | st.text() | st.lists(st.integers()))),
    )
)
def test_part_of_a_user_comes_back(part):
    assert unpack_part(pack_user(part.user), part.since, part.is_away, pack_tabs(part)) == part


@given(BYTES | mangled(pack_tabs(PART).encode()))
def test_part_of_another_program_can_be_merged_or_is_refused(text):
    try:
        part = unpack_part("5", 1e9, False, text)
    except ValueError:
        return
    [one] = merged([part, PART])
    assert one.tabs > 0


@given(BYTES | mangled(pack_tab(5, "tab-number-1").encode()))
def test_tab_of_another_program_is_one_or_is_refused(text):
    try:
        user, tab = unpack_tab(text)
    except ValueError:
        return
    assert isinstance(user, int | str | uuid.UUID)
    assert isinstance(tab, str)


def test_deeply_nested_text_is_refused():
    for text in (b"[" * 100_000, b'{"pk":' * 100_000):
        with pytest.raises(ValueError, match=r"."):
            unpack_command(text)
        with pytest.raises(ValueError, match=r"."):
            unpack_event(text + b"\nx")
