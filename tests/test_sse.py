"""Frames: what a client's parser makes of them, whatever goes in."""

import datetime
import decimal
import json
import re
import uuid
from collections import OrderedDict
from types import MappingProxyType

import pytest
from datastar_py.consts import ElementPatchMode, ElementPatchNamespace
from datastar_py.sse import ServerSentEventGenerator
from django.utils.html import format_html
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ds_broadcaster import EventTooLarge
from ds_broadcaster.sse import (
    NEVER,
    Facts,
    check_size,
    data_for,
    encode_elements,
    encode_fragment,
    encode_remove,
    encode_signals,
    farewell,
    hello_frame,
    id_frame,
    live_frame,
    make_frame,
    retry_frame,
    visible_heartbeat,
)
from tests.fakes import FACTOR, Hostile
from tests.harness.sse import Comment, Event, IdOnly, Retry, SSEParser

# What str.splitlines() takes for a line end, and what else has broken encoders.
SEPARATORS = ["\r", "\n", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
PIECES = [
    *SEPARATORS,
    "\0",
    "\ufeff",
    "\ud800",
    "\udfff",
    " ",
    ":",
    "data: ",
    "event: x",
    "id: 7",
    "\n\n",
    "<p>",
    "é",
    "😀",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=5), max_size=12).map("".join)
single_lines = texts.map(lambda text: re.sub("[\r\n\0]", "", text))
modes = st.sampled_from(list(ElementPatchMode))
namespaces = st.sampled_from(list(ElementPatchNamespace))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
many = settings(max_examples=200 * FACTOR, deadline=None)


def parse(data, cut=None):
    """Return the frames that a client sees, however the bytes are cut."""
    parser = SSEParser()
    pieces = [data] if cut is None else [data[:cut], data[cut:]]
    return [frame for piece in pieces for frame in parser.feed(piece)]


def only_event(data, **options):
    frames = parse(make_frame("epoch-1", data).data, **options)
    assert [type(frame) for frame in frames] == [Event]
    assert frames[0].id == "epoch-1"
    return frames[0]


def as_the_client_sees_it(text):
    """Every line end of an event stream arrives as LF, a final one begins no line, no lone surrogate can travel."""
    text = re.sub("\r\n|\r", "\n", text).removesuffix("\n")
    return text.encode("utf-8", "replace").decode()


# Elements


@many
@given(texts, st.integers(0, 200))
def test_html_arrives_as_it_was_sent(html, cut):
    assume(html)
    event = only_event(encode_elements(html), cut=cut)
    assert event.type == "datastar-patch-elements"
    assert event.elements == as_the_client_sees_it(html)
    assert set(event.args) <= {"elements"}


def test_empty_html_patches_nothing():
    assert parse(make_frame("e-1", encode_elements("")).data) == [IdOnly("e-1")]


def test_blank_lines_and_spaces_of_a_pre_arrive():
    html = "<pre>\n\n  two\n\n\n    four\n</pre>"
    assert only_event(encode_elements(html)).elements == html


@pytest.mark.parametrize("separator", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_separators_that_end_no_line_for_a_client_arrive(separator):
    html = f"<p>a{separator}b{separator}</p>"
    assert only_event(encode_elements(html)).elements == html


@many
@given(texts, single_lines, modes, namespaces, st.booleans())
def test_fields_arrive_in_their_own_lines_and_nowhere_else(html, selector, mode, namespace, transition):
    assume(selector.strip())
    event = only_event(encode_elements(html, selector, mode, namespace=namespace, use_view_transition=transition))
    expected = {"selector": as_the_client_sees_it(selector)}
    if mode != "outer":
        expected["mode"] = mode
    if namespace != "html":
        expected["namespace"] = namespace
    if transition:
        expected["useViewTransition"] = "true"
    if html:
        expected["elements"] = as_the_client_sees_it(html)
    assert event.args == expected


@many
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\v\f\x1c\x1d\x1e\x85\u2028\u2029")),
    st.none() | st.sampled_from(["#a", ".b > c", "a\u00e9"]),
    st.none() | modes,
    st.none() | namespaces,
    st.booleans(),
)
def test_output_is_datastars_own_wherever_that_is_right(html, selector, mode, namespace, transition):
    assume(selector or mode in (None, "outer", "replace"))
    theirs = ServerSentEventGenerator.patch_elements(
        html, selector, mode, use_view_transition=transition, namespace=namespace
    )
    ours = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=transition)
    assert ours == theirs.encode()


@many
@given(
    html=texts.filter(len),
    selector=st.none() | texts,
    mode=st.none() | modes | texts,
    namespace=st.none() | namespaces | texts,
)
def test_no_input_forges_an_event_or_a_field(html, selector, mode, namespace):
    try:
        data = encode_elements(html, selector, mode, namespace=namespace)
    except ValueError as error:
        refused = str(error)
        assert refused.startswith(("selector ", "mode ", "namespace "))
        return
    event = only_event(data)
    assert event.type == "datastar-patch-elements"
    assert set(event.args) <= {"elements", "selector", "mode", "namespace"}
    assert event.args.get("mode") in {None, *ElementPatchMode}
    assert event.args.get("namespace") in {None, *ElementPatchNamespace}


@pytest.mark.parametrize("breaker", ["\r", "\n", "\r\n", "\0"])
@pytest.mark.parametrize("argument", ["selector", "mode", "namespace"])
def test_line_break_in_a_field_of_one_line_is_refused_by_its_name(argument, breaker):
    fields = {"selector": "#a", argument: f"#a{breaker}data: x"}
    with pytest.raises(ValueError, match=f"^{argument} "):
        encode_elements("<p>", **fields)


@pytest.mark.parametrize(
    "argument, value",
    [("html", "<p>"), ("selector", "#a"), ("selector", " #b"), ("mode", "append"), ("namespace", "svg")],
)
def test_subclass_of_a_string_is_sent_as_the_text_that_was_checked(argument, value):
    fields = {"html": "<p>", "selector": "#log", argument: value}
    assert encode_elements(**fields | {argument: Hostile(value)}) == encode_elements(**fields)


def test_subclass_of_a_string_passes_no_check_that_its_text_does_not():
    with pytest.raises(ValueError, match=r"^selector must not be empty"):
        encode_elements("<p>", Hostile(" "))
    with pytest.raises(ValueError, match=r"^selector must not hold"):
        encode_elements("<p>", Hostile("#a\nb"))


def test_unknown_mode_and_namespace_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r'^mode must be one of "outer", "inner".*"remove".*got \'morph\''):
        encode_elements("<p>", "#a", "morph")
    with pytest.raises(ValueError, match=r'^namespace must be one of "html", "svg", "mathml", got \'xml\''):
        encode_elements("<p>", namespace="xml")


@pytest.mark.parametrize("mode", ["inner", "prepend", "append", "before", "after", "remove"])
def test_mode_without_its_selector_is_refused(mode):
    with pytest.raises(ValueError, match=f'^mode "{mode}" needs a selector'):
        encode_elements("<p>", mode=mode)


@pytest.mark.parametrize("mode", [None, "outer", "replace"])
def test_mode_that_finds_its_target_by_id_needs_no_selector(mode):
    assert only_event(encode_elements("<p id=a>", mode=mode)).elements == "<p id=a>"


@pytest.mark.parametrize("selector", ["", " ", "\t"])
def test_empty_selector_is_refused(selector):
    with pytest.raises(ValueError, match=r"^selector must not be empty"):
        encode_elements("<p>", selector)


@pytest.mark.parametrize("html", [None, 3, b"<p>", ["<p>"], {"a": 1}])
def test_html_that_is_no_text_is_refused(html):
    with pytest.raises(TypeError, match=f"^html must be a string .* not {type(html).__name__}"):
        encode_elements(html)


@pytest.mark.parametrize("argument", ["selector", "mode", "namespace"])
def test_field_that_is_no_text_is_refused(argument):
    with pytest.raises(TypeError, match=f"^{argument} must be a string"):
        encode_elements("<p>", **{argument: 3})


def test_safe_strings_and_objects_with_html_are_taken():
    class Tag:
        def __html__(self):
            return "<b>\n</b>"

    assert only_event(encode_elements(format_html("<p>{}</p>", "<i>"))).elements == "<p>&lt;i&gt;</p>"
    assert only_event(encode_elements(Tag())).elements == "<b>\n</b>"


@many
@given(single_lines)
def test_remove_names_what_goes_and_nothing_else(selector):
    assume(selector.strip())
    event = only_event(encode_remove(selector))
    assert event.args == {"mode": "remove", "selector": as_the_client_sees_it(selector)}
    if selector.isprintable():
        assert encode_remove(selector) == ServerSentEventGenerator.remove_elements(selector).encode()


@pytest.mark.parametrize("selector", ["", None])
def test_remove_without_a_selector_is_refused(selector):
    with pytest.raises(ValueError, match=r"^remove needs a selector"):
        encode_remove(selector)


# Signals


@many
@given(st.dictionaries(texts, json_values, max_size=4), st.booleans(), st.integers(0, 200))
def test_signals_arrive_as_they_were_sent(signals, only_if_missing, cut):
    event = only_event(encode_signals(signals, only_if_missing=only_if_missing), cut=cut)
    assert event.type == "datastar-patch-signals"
    assert json.loads(event.signals) == json.loads(json.dumps(signals))
    assert event.args.get("onlyIfMissing") == ("true" if only_if_missing else None)
    assert set(event.args) <= {"signals", "onlyIfMissing"}
    assert event.signals.isascii()


@many
@given(st.dictionaries(texts, json_values, max_size=4), st.booleans())
def test_signals_are_encoded_as_datastars_own_generator_does(signals, only_if_missing):
    theirs = ServerSentEventGenerator.patch_signals(signals, only_if_missing=only_if_missing)
    assert encode_signals(signals, only_if_missing=only_if_missing) == theirs.encode()


def test_signals_take_what_djangos_json_encoder_takes():
    day = datetime.date(2026, 11, 23)
    key = uuid.uuid4()
    signals = {
        "day": day,
        "time": datetime.datetime(2026, 11, 23, 8, 30, 1, 999_999, tzinfo=datetime.UTC),
        "price": decimal.Decimal("9.90"),
        "key": key,
        "span": datetime.timedelta(hours=1),
        "text": gettext_lazy("Yes"),
    }
    assert json.loads(only_event(encode_signals(signals)).signals) == {
        "day": "2026-11-23",
        "time": "2026-11-23T08:30:01.999Z",
        "price": "9.90",
        "key": str(key),
        "span": "P0DT01H00M00S",
        "text": "Yes",
    }


def test_signals_may_be_any_mapping():
    for mapping in (OrderedDict(a=1), MappingProxyType({"a": 1})):
        assert only_event(encode_signals(mapping)).signals == '{"a":1}'


class Point(BaseModel):
    x_position: float = Field(alias="xPosition")
    day: datetime.date = datetime.date(2026, 11, 23)
    secret: str = Field("", exclude=True)


def test_pydantic_model_is_sent_by_alias():
    event = only_event(encode_signals(Point(xPosition=1.5, secret="s")))
    assert json.loads(event.signals) == {"xPosition": 1.5, "day": "2026-11-23"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(number):
    with pytest.raises(ValueError, match=r"^signals must have a JSON form"):
        encode_signals({"a": {"b": [number]}})
    with pytest.raises(ValueError, match=r"^signals must have a JSON form"):
        encode_signals(Point(xPosition=number))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_values_without_a_json_form_are_refused(value):
    with pytest.raises(TypeError, match=r"^signals must have a JSON form"):
        encode_signals({"a": value})


def test_signals_that_hold_themselves_are_refused():
    signals = {}
    signals["a"] = signals
    with pytest.raises(ValueError, match=r"^signals must have a JSON form"):
        encode_signals(signals)


@pytest.mark.parametrize("signals", [None, "{}", '{"a": 1}', b"{}", ["a"], 3, Point])
def test_signals_that_are_no_dict_are_refused(signals):
    with pytest.raises(TypeError, match=r"^signals must be a dict or a pydantic model"):
        encode_signals(signals)


# What callbacks return


def test_callback_may_return_html_signals_both_or_nothing():
    html, signals = encode_elements("<p>"), encode_signals({"a": 1})
    assert encode_fragment("<p>") == html
    assert encode_fragment(mark_safe("<p>")) == html
    assert encode_fragment({"a": 1}) == signals
    assert encode_fragment(Point(xPosition=1)) == encode_signals(Point(xPosition=1))
    assert encode_fragment(("<p>", {"a": 1})) == html + signals
    assert encode_fragment((None, {"a": 1})) == signals
    assert encode_fragment((mark_safe("<p>"), {"a": 1})) == html + signals
    assert encode_fragment((Markup(), {"a": 1})) == html + signals
    assert encode_fragment(None) == b""
    assert [frame.type for frame in parse(encode_fragment(("<p>", {"a": 1})))] == [
        "datastar-patch-elements",
        "datastar-patch-signals",
    ]


@pytest.mark.parametrize("fragment", [3, b"<p>", ["<p>", {}], ("<p>",), ("<p>", {}, {}), object()])
def test_callback_that_returns_something_else_is_told_what_it_may(fragment):
    with pytest.raises(TypeError, match="HTML, a dict of signals, a tuple of both, or None"):
        encode_fragment(fragment)


@pytest.mark.parametrize("fragment", [("<p>", "{}"), (3, {})])
def test_callbacks_tuple_with_the_wrong_parts_is_refused(fragment):
    with pytest.raises(TypeError, match=r"not tuple \((str, str|int, dict)\)"):
        encode_fragment(fragment)


# Frames of our own


@many
@given(texts)
def test_id_comes_with_its_event(html):
    data = encode_elements(html)
    frames = parse(make_frame("e-1", data).data + make_frame("e-2", data).data + id_frame("e-3"))
    assert [frame.id for frame in frames] == ["e-1", "e-2", "e-3"]
    assert isinstance(frames[2], IdOnly)


def test_opening_frame_carries_the_cursor_the_retry_and_a_gap():
    assert parse(hello_frame("e-7", 1500, gap=False)) == [Retry(1500), IdOnly("e-7")]
    assert parse(hello_frame("e-7", 1500, gap=True)) == [Comment("gap"), Retry(1500), IdOnly("e-7")]
    assert parse(retry_frame(3000)) == [Retry(3000)]


def test_event_may_be_as_large_as_the_limit_and_no_larger():
    assert check_size(b"x" * 10, 10) == b"x" * 10
    with pytest.raises(EventTooLarge, match="11 bytes and DS_BROADCASTER_MAX_EVENT_BYTES allows 10") as caught:
        check_size(b"x" * 11, 10)
    assert (caught.value.size, caught.value.limit) == (11, 10)
    assert isinstance(caught.value, ValueError)


class Markup:
    """HTML that is no string."""

    def __html__(self):
        return "<p>"


# Tabs and elements


@many
@given(texts, st.sampled_from(["tab-number-1", "x" * 64]), st.text("0123456789abc-", min_size=1, max_size=20))
def test_excluded_tab_gets_the_id_alone_and_all_others_the_event(html, tab, event_id):
    plain, excluding = (
        make_frame(event_id, encode_elements(html)),
        make_frame(event_id, encode_elements(html), Facts(tab)),
    )
    assert excluding.data == plain.data
    assert parse(data_for(excluding, tab)) == [IdOnly(event_id)]
    for frame, other in ((plain, tab), (plain, None), (excluding, None), (excluding, "tab-number-2")):
        assert data_for(frame, other) is frame.data


def test_page_is_told_that_its_stream_is_open():
    (event,) = parse(live_frame(1.5))
    assert event.args == {"signals": '{"_broadcast":"live"}', "heartbeat": "1.5"}


def test_heartbeat_that_a_page_sees_moves_the_cursor_on_and_is_sixteen_bytes_longer():
    # To all but the Datastar client, an event without data is none.
    assert parse(visible_heartbeat("e-7")) == [IdOnly("e-7")]
    assert parse(visible_heartbeat(None)) == []
    assert len(visible_heartbeat("e-7")) == len(id_frame("e-7")) + 16


def test_farewell_replaces_the_element_by_one_that_says_closed():
    retry, closed = parse(farewell("stream-1"))
    assert retry == Retry(NEVER)
    assert closed.args == {"mode": "replace", "elements": '<div id="stream-1" hidden data-broadcast="closed"></div>'}
    assert farewell(None) == b""
