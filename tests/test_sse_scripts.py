"""Scripts, redirects and events for pages: whatever the arguments hold stays data."""

import datetime
import json
import re
from html.parser import HTMLParser

import pytest
from datastar_py.sse import ServerSentEventGenerator
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ds_broadcaster.sse import encode_dispatch, encode_redirect, encode_script, make_frame
from tests.fakes import FACTOR, Hostile
from tests.harness.sse import Event, SSEParser

PIECES = [
    "</script>",
    "</SCRIPT ",
    "<!--",
    "<script>",
    "-->",
    "</body>",
    "</Html>",
    "</p>",
    "\\",
    "'",
    '"',
    "`",
    "\r",
    "\r\n",
    "\n",
]
PIECES += ["\u2028", "\u2029", "\v", "\f", "\x85", "&quot;", "&lt;", "$", "@get(", "${", "é", "😀", "\ud800", "/", "<"]
pieces = st.sampled_from(PIECES)
texts = st.lists(pieces | st.text(st.characters(exclude_characters="\0"), max_size=4), max_size=10).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=6,
)
many = settings(max_examples=60 * FACTOR, deadline=None)


class Elements(HTMLParser):
    """The elements of a piece of HTML, with what a script holds as a browser reads it."""

    CDATA_CONTENT_ELEMENTS = ("script",)

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def script_of(data):
    """Return the text and the attributes of the only element, after what an HTML parser would stumble over."""
    [event] = SSEParser().feed(make_frame("e-1", data).data)
    assert isinstance(event, Event)
    assert event.type == "datastar-patch-elements"
    assert {name: event.args[name] for name in event.args if name != "elements"} == {
        "mode": "append",
        "selector": "body",
    }
    found = Elements(event.elements)
    [(tag, attributes)] = found.tags
    assert tag == "script"
    body = event.elements[event.elements.index(">", event.elements.rindex(f"{list(attributes)[-1]}=")) + 1 :]
    assert body.endswith("</script>")
    text = body.removesuffix("</script>")
    assert not re.search("</(?:script|body|head|html)|<!--", text, re.IGNORECASE)
    assert found.text == text
    return text, attributes


def as_javascript_reads_it(text):
    """Undo the escapes of the slash and the dash, which all literals have."""
    return text.replace("<\\u002f", "</").replace("<!-\\u002d", "<!--")


def as_it_travels(text):
    return re.sub("\r\n|\r", "\n", text).encode("utf-8", "replace").decode()


# Scripts


def test_script_is_what_the_sdk_sends():
    for javascript in ("console.log('Here')", 'let a = 1 < 2\nb("&")', "x"):
        assert encode_script(javascript) == ServerSentEventGenerator.execute_script(javascript).encode()


@many
@given(texts)
@example("a = '</script><script>alert(1)</script>'")
@example("a = '<!--<script>'")
def test_script_holds_what_was_sent_and_ends_at_its_end(javascript):
    text, attributes = script_of(encode_script(javascript))
    assert as_javascript_reads_it(text) == as_it_travels(javascript)
    assert attributes == {"data-effect": "el.remove()"}


@many
@given(st.dictionaries(st.sampled_from(["type", "id", "x-y", "data-on:a__b"]), texts))
def test_attributes_of_a_script_hold_what_was_sent(attributes):
    [event] = SSEParser().feed(encode_script("a()", auto_remove=False, attributes=attributes))
    [(_, found)] = Elements(event.elements).tags
    assert found == {name: as_it_travels(value) for name, value in attributes.items()}


@pytest.mark.parametrize("name", ["", "a b", "a>", "a=b", "a'", 'a"', "a/", "a\0", "a\n"])
def test_attribute_that_html_does_not_have_is_refused(name):
    with pytest.raises(ValueError, match=r"^attributes must have names that HTML allows, such as \"type\", got "):
        encode_script("a()", attributes={name: "x"})


@pytest.mark.parametrize("javascript", [None, 3, b"a()", ["a()"]])
def test_script_that_is_no_text_is_refused(javascript):
    with pytest.raises(TypeError, match=f"^javascript must be a string, not {type(javascript).__name__}"):
        encode_script(javascript)


def test_nul_which_html_does_not_have_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"^javascript must not hold NUL: write \\u0000"):
        encode_script("a = '\0'")


def test_subclass_of_a_string_is_sent_as_the_text_that_was_checked():
    assert encode_script(Hostile("a('</script>')")) == encode_script("a('</script>')")
    assert encode_script(mark_safe("a('</script>')")) == encode_script("a('</script>')")
    assert encode_redirect(Hostile("/a'b")) == encode_redirect("/a'b")
    assert encode_dispatch(Hostile("a"), None, Hostile("#a")) == encode_dispatch("a", None, "#a")


# Redirects


@pytest.mark.parametrize("url", ["/", "/rooms/7/?a=1&b=%20#c", "?page=2", "#end", "../up", "//cdn.example/x", "rooms/"])
def test_redirect_to_a_path_is_what_the_sdk_sends(url):
    assert encode_redirect(url) == ServerSentEventGenerator.redirect(url).encode()
    assert encode_redirect(lazystr(url)) == encode_redirect(url)


@pytest.mark.parametrize("url", ["http://example.org", "https://example.org/a:b", "HTTPS://EXAMPLE.org"])
def test_redirect_to_an_address_is_what_the_sdk_sends(url):
    assert encode_redirect(url) == ServerSentEventGenerator.redirect(url).encode()


@many
@given(texts)
def test_redirect_goes_to_one_address_of_the_web_or_is_refused(url):
    try:
        text, _ = script_of(encode_redirect(url))
    except ValueError:
        return
    [address] = re.fullmatch(r"setTimeout\(\(\) => window\.location = '((?:[^'\\<\s]|\\')+)'\)", text).groups()
    assert address.isascii()
    assert address.isprintable()
    scheme = re.match("([A-Za-z][A-Za-z0-9+.-]*):", address)
    assert scheme is None or scheme[1].lower() in ("http", "https")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "java\nscript:alert(1)",
        "\x01javascript:alert(1)",
        "data:,x",
        "vbscript:x",
        "blob:x",
        "file:///etc/passwd",
        "mailto:a@example.org",
        "",
        " ",
    ],
)
def test_redirect_to_what_is_no_address_of_the_web_is_refused(url):
    with pytest.raises(ValueError, match=r'^url must be a path such as "/rooms/", or begin with http:// or https://'):
        encode_redirect(url)


@pytest.mark.parametrize("url", [None, b"/", 3, object()])
def test_redirect_to_what_is_no_text_is_refused(url):
    with pytest.raises(TypeError, match=r"^url must be a string, such as reverse\(\.\.\.\) gives it, not "):
        encode_redirect(url)


# Events


def dispatched(data):
    text, attributes = script_of(data)
    assert set(attributes) == {"type", "data-init"}
    assert attributes["type"] == "application/json"
    return json.loads(text), attributes["data-init"]


@many
@given(texts.filter(str.strip), json_values, st.none() | st.sampled_from(["#a", ".b > c", "[x='</script>']"]))
def test_event_is_data_and_its_code_the_same_for_all(name, detail, selector):
    told, code = dispatched(encode_dispatch(name, detail, selector))
    assert told == {"name": name, "detail": json.loads(json.dumps(detail)), "selector": selector}
    assert code == dispatched(encode_dispatch("other"))[1]


class Point(BaseModel):
    x_position: float = Field(alias="xPosition")


def test_detail_is_what_djangos_json_encoder_takes_or_a_model():
    detail = {"day": datetime.date(2026, 11, 28), "name": lazystr("Ann")}
    assert dispatched(encode_dispatch("a", detail))[0]["detail"] == {"day": "2026-11-28", "name": "Ann"}
    assert dispatched(encode_dispatch("a", Point(xPosition=1.5)))[0]["detail"] == {"xPosition": 1.5}


@pytest.mark.parametrize("detail, error", [(object(), TypeError), (float("nan"), ValueError), ({1, 2}, TypeError)])
def test_detail_without_a_json_form_is_refused(detail, error):
    with pytest.raises(error, match=r"^detail must have a JSON form"):
        encode_dispatch("a", {"b": detail})


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_event_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match=r'^event_name must not be empty: write a name such as "order-paid"'):
        encode_dispatch(name, {})


def test_name_and_selector_that_are_no_text_are_refused():
    with pytest.raises(TypeError, match=r"^event_name must be a string, not dict"):
        encode_dispatch({"a": 1}, "a")
    with pytest.raises(TypeError, match=r"^selector must be a string"):
        encode_dispatch("a", None, 3)
    with pytest.raises(ValueError, match=r"^selector must not be empty"):
        encode_dispatch("a", None, " ")
