"""What brokers write down comes back as it was."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ds_broadcaster.brokers.packing import pack_event, unpack_event
from ds_broadcaster.sse import PLAIN, Facts


@given(st.binary(), st.builds(Facts, exclude=st.none() | st.text("abcXYZ019-_", min_size=8, max_size=64)))
def test_event_and_its_facts_come_back(payload, facts):
    assert unpack_event(pack_event(payload, facts)) == (payload, facts)


def test_event_without_facts_costs_one_byte():
    assert pack_event(b"data: x\n\n", PLAIN) == b"\ndata: x\n\n"
    assert unpack_event(b"\ndata: x\n\n")[1] is PLAIN


def test_facts_of_a_newer_process_are_passed_over():
    packed = json.dumps({"exclude": "tab-number-1", "mood": "good"}).encode() + b"\nx"
    assert unpack_event(packed) == (b"x", Facts(exclude="tab-number-1"))
