"""Whatever goes into a verb, a callback or a request: a client sees the event that was sent, and never another one.

Each attack goes the whole way: verb, broker, hub, connection; what comes out is read as the Datastar client reads it.
"""

import json
import re
from urllib.parse import quote

import pytest
from datastar_py.sse import ServerSentEventGenerator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ds_broadcaster.exceptions import BroadcasterError
from ds_broadcaster.sse import encode_elements
from tests.attack import datastar, hostile
from tests.attack.datastar import Patch
from tests.fakes import FACTOR, FakeClient, virtual_world
from tests.harness.sse import Event, SSEParser

many = settings(max_examples=120 * FACTOR, deadline=None)
modes = st.none() | st.sampled_from([*datastar.MODES]) | hostile.strings
REFUSED = (TypeError, ValueError, BroadcasterError)


class Victim(FakeClient):
    """A client with all the text it got."""

    @property
    def raw(self):
        return b"".join(self.heard)


def open_victim(world, channel="room", **options):
    victim = Victim(world.loop, world.broadcast, channel, **options)
    world.settle()
    return victim


def attack(action, **options):
    """Return what a client sees of an action, between two events that it has to see as they are; None if refused."""
    with virtual_world() as world:
        victim = open_victim(world, **options)
        opening = victim.raw
        world.broadcast.signals("room", {"before": 1})
        try:
            action(world.broadcast)
        except REFUSED:
            return None
        world.broadcast.signals("room", {"after": 1})
        world.settle()
        seen = datastar.read(victim.raw[len(opening) :])
        first, *patches, last = seen.patches
    assert [first.args["signals"], last.args["signals"]] == ['{"before":1}', '{"after":1}']
    # The ids are the broker's own, and each event has one.
    assert all(re.fullmatch(r"[0-9a-z]+-[0-9]+", each) for each in seen.ids)
    assert len(seen.ids) == 2 + len(patches) or (len(seen.ids) == 3 and not patches)
    assert seen.retries == []
    # A browser's own reader sees the same number of events.
    events = [frame for frame in SSEParser().feed(victim.raw[len(opening) :]) if isinstance(frame, Event)]
    assert len(events) == 2 + len(patches)
    assert len(patches) <= 1
    return patches


def written(text):
    """Return a text as it may arrive: every line end is LF, a last one is dropped, no half of a pair can travel."""
    return re.sub("\r\n|\r", "\n", text).removesuffix("\n").encode("utf-8", "replace").decode()


# The verbs


@many
@given(hostile.html, st.none() | hostile.strings, modes, st.none() | hostile.strings, st.booleans())
@example("<p>", hostile.Liar("#a", f"#a\n{hostile.FORGED}"), None, None, False)
@example("<p>", hostile.Liar("#a", f"#a\r\r{hostile.FORGED}"), "append", "svg", True)
@example(hostile.Liar("<p>", f"<p>\n\n{hostile.FORGED}"), None, None, None, False)
@example(hostile.Tag(hostile.Liar("<p>", f"<p>\n\n{hostile.FORGED}")), None, None, None, False)
@example("<p>", "#a", hostile.Liar("outer", "outer\ndata: selector body"), None, False)
@example("<p>", None, None, hostile.Liar("svg", "svg\n\n"), False)
@example("<p>\n\n" + hostile.FORGED, "#a", "append", None, False)
def test_elements_are_one_patch(html, selector, mode, namespace, transition):
    patches = attack(
        lambda broadcast: broadcast.elements(
            "room", html, selector, mode, namespace=namespace, use_view_transition=transition
        )
    )
    assert all(patch.event == "datastar-patch-elements" for patch in patches or [])


@many
@given(hostile.texts.filter(lambda text: written(text)), hostile.single_lines.filter(str.strip))
def test_elements_arrive_as_they_are_and_where_they_were_sent(html, selector):
    patches = attack(lambda broadcast: broadcast.elements("room", html, selector, "append"))
    args = {"mode": "append", "selector": written(selector), "elements": written(html)}
    assert patches == [Patch("datastar-patch-elements", args)]


@many
@given(hostile.strings | hostile.junk)
@example(hostile.Liar("#a", f"#a\n{hostile.FORGED}"))
def test_a_removal_removes_and_nothing_else(selector):
    for patch in attack(lambda broadcast: broadcast.remove("room", selector)) or []:
        assert set(patch.args) == {"mode", "selector"}
        assert patch.args["mode"] == "remove"


@many
@given(hostile.signals | hostile.junk, st.booleans())
@example({"a": hostile.Liar("a", f"a\n{hostile.FORGED}")}, False)
@example({hostile.Liar("a", '":alert(1),"'): 1}, True)
@example({"a": float("nan")}, False)
def test_signals_are_json_and_one_patch(signals, only_if_missing):
    patches = attack(lambda broadcast: broadcast.signals("room", signals, only_if_missing=only_if_missing))
    assert patches is None or [patch.event for patch in patches] == ["datastar-patch-signals"]


@many
@given(hostile.texts)
def test_what_users_wrote_is_escaped_by_a_template(text):
    patches = attack(lambda broadcast: broadcast.template("room", "club_members.html", {"users": [{"username": text}]}))
    for patch in patches:
        assert patch.event == "datastar-patch-elements"
        assert "<script" not in patch.args["elements"]


@many
@given(hostile.any_text | st.just(hostile.Word.PLACE) | hostile.junk)
def test_a_channels_name_reaches_no_client(channel):
    assert attack(lambda broadcast: broadcast.signals(channel, {"a": 1})) in (None, [])


@many
@given(hostile.strings | hostile.junk)
def test_a_tabs_id_reaches_no_client(tab):
    patches = attack(lambda broadcast: broadcast.signals("room", {"a": 1}, exclude=tab))
    assert patches is None or [patch.args for patch in patches] == [{"signals": '{"a":1}'}]


# The callbacks


@many
@given(hostile.html | hostile.signals | st.tuples(hostile.html, hostile.signals) | hostile.junk)
def test_presence_is_what_the_callback_returned(fragment):
    with virtual_world() as world:
        victim = open_victim(world, user_id=1, presence_callback=lambda channel, users: fragment)
        world.advance(1)
        seen = datastar.read(victim.raw)
    assert len(seen.patches) <= 3  # The stream's own signal, the fragment's elements, and its signals.


@many
@given(hostile.html | hostile.signals | st.tuples(hostile.html, hostile.signals))
def test_a_snapshot_is_what_the_callback_returned(fragment):
    with virtual_world() as world:
        world.broadcast.signals("room", {"a": 1})
        victim = Victim(world.loop, world.broadcast, "room", cursor="gone-1", snapshot_callback=lambda *args: fragment)
        world.loop.set_exception_handler(lambda loop, context: None)
        try:
            world.settle()
        finally:
            seen = datastar.read(victim.raw)
            if victim.task.done() and not victim.task.cancelled() and victim.task.exception() is not None:
                assert isinstance(victim.task.exception(), REFUSED)
                assert victim.raw == b""
    assert len(seen.patches) <= 3


# The requests


@many
@given(hostile.texts, hostile.texts, hostile.texts, hostile.single_lines)
@example(f"x\n{hostile.FORGED}", "a-1", "broadcast-1", "")
@example("broadcast-1", f"a-1\n{hostile.FORGED}", f"broadcast-1\n{hostile.FORGED}", "")
def test_nothing_of_a_request_is_written_back(tab, cursor, element, last_event_id):
    """What a client sends is in no stream; the id of its element is, in the event that closes it."""
    query = "&".join(
        f"{name}={quote(value, errors='surrogatepass')}"
        for name, value in (("datastar", json.dumps({"broadcastTab": tab})), ("cursor", cursor), ("element", element))
    )
    with virtual_world() as world:
        header = last_event_id.encode("latin-1", "replace").decode("latin-1") or None
        victim = open_victim(world, user_id=7, query=query.encode(), cursor=header)
        world.disconnect("room", 7)
        world.settle()
        seen = datastar.read(victim.raw)
    assert victim.end == "clean"
    for patch in seen.patches:
        if patch.event == "datastar-patch-signals":
            assert re.fullmatch(r'\{"_broadcast":"(live|closed)"\}', patch.args["signals"])
        else:
            closed = f'<div id="{element}" hidden data-broadcast="closed"></div>'
            assert patch.args == {"mode": "replace", "elements": closed}
            assert re.fullmatch("[A-Za-z][0-9A-Za-z_-]{0,63}", element, re.ASCII)
    assert all(re.fullmatch(r"[0-9a-z]+-[0-9]+", each) for each in seen.ids)


@pytest.mark.parametrize("forged", [f"#a\n\n{hostile.FORGED}", f"#a\r\r{hostile.FORGED}", "#a\ndata: mode remove"])
def test_the_measure_itself_finds_what_an_encoder_without_checks_lets_through(forged):
    encoded = ServerSentEventGenerator.patch_elements("<p>", selector=forged).encode()
    assert datastar.read(encoded) != datastar.read(encode_elements("<p>", "#a"))
    with pytest.raises(AssertionError, match="would run it"):
        datastar.read(b'event: datastar-patch-signals\ndata: signals {"a": NaN}\n\n')
