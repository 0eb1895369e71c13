"""What events replace; and that a page is the same without the events that were replaced."""

import copy
import itertools
import json
from html.parser import HTMLParser

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ds_broadcaster.compaction import CONTAINER, ELEMENT, NOTHING, SIGNALS, replaces_of
from ds_broadcaster.conf import History
from ds_broadcaster.log import Log
from ds_broadcaster.sse import (
    Facts,
    Frame,
    encode_dispatch,
    encode_elements,
    encode_fragment,
    encode_remove,
    encode_script,
    encode_signals,
)
from tests.fakes import FACTOR
from tests.harness.sse import SSEParser


def of(*args, **options):
    return replaces_of(encode_elements(*args, **options))


@pytest.mark.parametrize(
    "args, name",
    [
        (('<p id="bar">5%</p>',), ELEMENT + "outer bar"),
        (("\n  <p id=bar class=x>5%</p>\n",), ELEMENT + "outer bar"),
        (("<p id=bar>5%",), ELEMENT + "outer bar"),
        (('<p id="bar">5%</p>', "#bar"), ELEMENT + "outer bar"),
        (('<p id="bar">5%</p>', "#bar", "replace"), ELEMENT + "replace bar"),
        (('<progress id="bar" value="5"></progress>',), ELEMENT + "outer bar"),
        (('<div id="bar" style="width: 5%" data-on:click="go()"></div>',), ELEMENT + "outer bar"),
        (('<div id="bar"><div><div style="width: 5%"></div></div></div>',), ELEMENT + "outer bar"),
        (('<input id="bar" value="5">',), ELEMENT + "outer bar"),
        (("5%", "#bar", "inner"), ELEMENT + "inner bar"),
        (("", "#bar", "inner"), CONTAINER + "inner bar"),
        (("<li>1", "#bar", "inner"), CONTAINER + "inner bar"),
        (('<div id="board"><p id="a"></p></div>',), CONTAINER + "outer board"),
        (('<ul id="board"></ul>',), CONTAINER + "outer board"),
        (('<li id="m1">Hi</li>', "#messages", "append"), NOTHING),
        (("<li>Hi", "#messages", "before"), NOTHING),
    ],
)
def test_event_says_the_whole_of_one_element(args, name):
    assert of(*args) == name


@pytest.mark.parametrize(
    "args",
    [
        ("<p id=a>1</p><p id=b>2</p>",),
        ("<p id=a>1</p> and text",),
        ("text <p id=a>1</p>",),
        ("<!-- a --><p id=a>1</p>",),
        ("<p>no id</p>",),
        ("text alone",),
        ('<p id="">1</p>',),
        ("<p id=b>1</p>", "#a"),
        ("<p id=a>1</p>", "#a", "inner", "more"),
        ("<p id=a>1</p>", ".a"),
        ("<p id=a>1</p>", "#a > b"),
        ("<p id=a>1</p>", "#a, #b", "inner"),
        ("<p id=a><div>a parser closes p</div></p>",),
        ("<p id=a><b>1</p></b>",),
        ("<div id=a/>",),
        ("<li id=a>1<li>2</li></li>",),
        ("<table id=a>before the table<tr><td>1</td></tr></table>",),
        ("<table id=a><p>1</p></table>",),
        ("<tr id=a><td>1</td></tr>",),
        ("<div id=a><div></div></div><div id=b></div>",),
        ("<div id=a></div><div></div>",),
        ("<div id=a><svg></div></svg></div>",),
        ("<div id=a><!-- </div> --></div>",),
        ('<div id=a title="</div>"></div><p></p>',),
        ("<img id=a>text",),
        ('<p id=a data-signals="{b: 1}">1</p>',),
        ('<p id=a data-star-signals:b="1">1</p>',),
        ("<p id=a><b data-init=\"@get('/')\">1</b></p>",),
        ("<p id=a data-ignore-morph>1</p>",),
        ('<p id=a data-preserve-attr="open">1</p>',),
        ("<div id=a><script>go()</script></div>",),
        ('<div id=a><img src=x onload="go()"></div>',),
        ("<p data-init='1'>", "#messages", "append"),
        ("<p>1</p>", ".messages", "append"),
        ("<p>1</p>", "#a:empty", "append"),
    ],
)
def test_what_is_in_doubt_replaces_nothing_and_is_passed_by_nothing(args):
    named = {"mode": args[2]} if len(args) > 2 else {}
    if args[-1] == "more":
        payload = encode_elements(*args[:2], **named) + b"event: x\n\n"
        assert replaces_of(payload) is None
    else:
        assert of(*args[:2], **named) is None


def test_signals_replace_those_of_the_same_paths():
    def of_signals(signals, **options):
        return replaces_of(encode_signals(signals, **options))

    assert of_signals({"a": 1, "b": {"c": 2}}) == of_signals({"b": {"c": [3]}, "a": None})
    assert of_signals({"a": 1}).startswith(SIGNALS)
    names = [of_signals(each) for each in ({"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": {"b": 1}}, {"a.b": 1})]
    assert len(set(names)) == len(names)
    assert of_signals({"a": {}}) == of_signals({}) == of_signals({"a": 1}, only_if_missing=True) == NOTHING


def test_everything_else_replaces_nothing():
    for payload in (
        encode_script("go()"),
        encode_dispatch("paid"),
        encode_fragment(("<p id=a>", {"b": 1})),
        encode_remove(".done"),
        b"x\n\n",
        b"",
        b"event: datastar-patch-signals\ndata: signals {\n\n",
        b"event: datastar-patch-signals\ndata: signals " + b"[" * 100_000 + b"\n\n",
        b"\xff\n\n",
        b"event: datastar-patch-elements\ndata: elements <p id=a>\nx",
        b"event: datastar-patch-elements\ndata: elements \n\n",
        b"event: datastar-patch-elements\ndata: elements <p id=a>\ndata: mode inner\n\n",
    ):
        assert replaces_of(payload) is None
    assert encode_remove("#a") != encode_remove("#b")
    assert replaces_of(encode_remove("#a")) == CONTAINER + "remove a"


def test_name_is_short():
    assert len(of(f'<p id="{"x" * 5000}">')) < 100
    assert len(replaces_of(encode_signals({"x" * 5000: 1}))) < 100


# A model of the client: elements are [tag, id, class, content], text is a string.


class _Tree(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.open = [["", "", "", []]]
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        element = [tag, attrs.get("id", ""), attrs.get("class", ""), []]
        self.open[-1][3].append(element)
        self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.open[-1][3].append(data)

    @property
    def roots(self):
        return self.open[0][3]


class Page:
    """What a client shows."""

    def __init__(self, html):
        self.root = ["body", "", "", _Tree(html).roots]
        self.signals = {}

    def places(self, accepts, element=None):
        element = self.root if element is None else element
        for number, each in enumerate(element[3]):
            if isinstance(each, list):
                if accepts(each):
                    yield element, number
                yield from self.places(accepts, each)

    def apply(self, frames):
        for each in SSEParser().feed(frames):
            if each.type == "datastar-patch-signals":
                self._patch(self.signals, json.loads(each.signals), each.args.get("onlyIfMissing") == "true")
            else:
                self._apply(each.elements, each.args.get("selector", ""), each.args.get("mode", "outer"))
        return self

    def _patch(self, target, patch, only_if_missing):
        for name, value in patch.items():
            if isinstance(value, dict):
                if not isinstance(target.get(name), dict):
                    target[name] = {}
                self._patch(target[name], value, only_if_missing)
            elif value is None:
                if not only_if_missing:
                    target.pop(name, None)
            elif name not in target or not only_if_missing:
                target[name] = value

    def _apply(self, html, selector, mode):
        roots = _Tree(html or "").roots
        if not selector:
            for root in roots:
                found = list(self.places(lambda each, root=root: each[1] == root[1]))[:1]
                self._put(found, [root], "outer")
        elif selector.startswith("."):
            self._put(list(self.places(lambda each: selector[1:] in each[2].split())), roots, mode)
        else:
            self._put(list(self.places(lambda each: each[1] == selector[1:])), roots, mode)

    @staticmethod
    def _put(places, roots, mode):
        # From the end, so that the numbers stay right.
        for parent, number in reversed(places):
            new = copy.deepcopy(roots)
            content = parent[3]
            if mode == "remove":
                del content[number]
            elif mode in ("outer", "replace"):
                content[number : number + 1] = new
            elif mode == "inner":
                content[number][3] = new
            elif mode == "append":
                content[number][3] += new
            elif mode == "prepend":
                content[number][3][:0] = new
            elif mode == "before":
                content[number:number] = new
            else:
                content[number + 1 : number + 1] = new

    def ids(self):
        return [element[3][number][1] for element, number in self.places(lambda each: each[1])]


ITEMS = ("y1", "y2", "y3")
LEAVES = ("a", "b")
LISTS = ("one", "two")
TABS = (None, None, "tab-number-1", "tab-number-2")
items = st.sampled_from(ITEMS)
classes = st.sampled_from(["done", "todo"])


class PageMachine(RuleBasedStateMachine):
    """A page, and clients that return to it from every cursor.

    An id is in one place at a time, as in any page; what an event would double is not sent.
    """

    def __init__(self):
        super().__init__()
        html = (
            "<p id=a>0</p><p id=b>0</p><ul id=one><li id=y1 class=todo>0</li><li id=y2 class=done>0</li></ul>"
            "<ul id=two></ul>"
        )
        self.log = Log()
        self.numbers = itertools.count(1)
        # By tab, the page after each event.
        self.pages = {tab: [Page(html)] for tab in {None, "tab-number-1", "tab-number-2"}}

    def send(self, payload, exclude=None):
        pages = {
            tab: pages[-1] if exclude is not None and exclude == tab else copy.deepcopy(pages[-1]).apply(payload)
            for tab, pages in self.pages.items()
        }
        if any(len(set(page.ids())) < len(page.ids()) for page in pages.values()):
            return
        replaces = replaces_of(payload)
        self.log.append(self.log.last + 1, Frame(payload, Facts(exclude, replaces=replaces)), 0)
        self.log.trim(History(max_events=1000), 0)
        for tab, page in pages.items():
            self.pages[tab].append(page)

    @rule(
        leaf=st.sampled_from(LEAVES), mode=st.sampled_from(["outer", "replace", "inner"]), exclude=st.sampled_from(TABS)
    )
    def change_a_leaf(self, leaf, mode, exclude):
        text = str(next(self.numbers))
        self.send(encode_elements(text if mode == "inner" else f"<p id={leaf}>{text}</p>", f"#{leaf}", mode), exclude)

    @rule(item=items, kind=classes, exclude=st.sampled_from(TABS))
    def change_an_item(self, item, kind, exclude):
        self.send(encode_elements(f"<li id={item} class={kind}>{next(self.numbers)}</li>"), exclude)

    @rule(
        name=st.sampled_from(LISTS),
        held=st.lists(items, unique=True, max_size=2),
        kind=classes,
        mode=st.sampled_from(["outer", "inner"]),
        exclude=st.sampled_from(TABS),
    )
    def render_a_list(self, name, held, kind, mode, exclude):
        html = "".join(f"<li id={item} class={kind}>{next(self.numbers)}</li>" for item in held)
        html = html if mode == "inner" else f"<ul id={name}>{html}</ul>"
        self.send(encode_elements(html, f"#{name}", mode), exclude)

    @rule(
        place=st.sampled_from([*LISTS, *LEAVES, *ITEMS]),
        mode=st.sampled_from(["append", "prepend", "before", "after"]),
        item=items | st.none(),
        exclude=st.sampled_from(TABS),
    )
    def add(self, place, mode, item, exclude):
        own = "" if item is None else f" id={item}"
        self.send(encode_elements(f"<li{own} class=todo>{next(self.numbers)}</li>", f"#{place}", mode), exclude)

    @rule(selector=st.sampled_from([*(f"#{item}" for item in ITEMS), ".done", "#one"]), exclude=st.sampled_from(TABS))
    def remove(self, selector, exclude):
        self.send(encode_remove(selector), exclude)

    @rule(
        value=st.recursive(
            st.dictionaries(st.sampled_from("uv"), st.integers(1, 3) | st.none(), max_size=2),
            lambda inside: st.dictionaries(st.sampled_from("uv"), inside, max_size=2),
            max_leaves=3,
        ),
        only_if_missing=st.sampled_from([False, False, True]),
        exclude=st.sampled_from(TABS),
    )
    def set_signals(self, value, only_if_missing, exclude):
        self.send(encode_signals(value, only_if_missing=only_if_missing), exclude)

    @invariant()
    def page_is_the_same_whatever_the_cursor(self):
        for tab, pages in self.pages.items():
            for cursor, page in enumerate(pages[:-1]):
                shown = copy.deepcopy(page)
                for _, frame in self.log.after(cursor):
                    if tab is None or frame.facts.exclude != tab:
                        shown.apply(frame.data)
                assert shown.root == pages[-1].root, f"from {cursor}"
                assert shown.signals == pages[-1].signals, f"from {cursor}"


def test_page_is_the_same_without_what_was_replaced():
    run_state_machine_as_test(
        PageMachine,
        settings=settings(max_examples=60 * FACTOR, stateful_step_count=15, deadline=None, print_blob=True),
    )


def item(name, kind="todo"):
    return f"<li id={name} class={kind}>{next(_numbers)}</li>"


_numbers = itertools.count()


@pytest.mark.parametrize(
    "events",
    [
        # A card moves to another list by a render of the first and an addition to the second; then it is edited there.
        lambda: [
            encode_elements("<ul id=one></ul>"),
            encode_elements(item("y1"), "#two", "append"),
            encode_elements(item("y1", "done")),
            encode_elements("<ul id=one></ul>"),
        ],
        lambda: [
            encode_elements(f"<ul id=one>{item('y2')}</ul>"),
            encode_elements(f"<ul id=two>{item('y1')}</ul>"),
            encode_elements(item("y1")),
            encode_elements(f"<ul id=one>{item('y2')}</ul>"),
        ],
        # What a selector matches depends on the state of an element between two of its own events.
        lambda: [encode_elements(item("y1", "done")), encode_remove(".done"), encode_elements(item("y1"))],
        # Two removals, and what was added before the element meanwhile.
        lambda: [encode_remove("#y1"), encode_elements("<li>1</li>", "#y1", "before"), encode_remove("#y1")],
        lambda: [encode_signals({"u": 1}), encode_signals({"u": {}}), encode_signals({"u": {"v": 1}})],
    ],
)
def test_page_is_the_same_where_an_event_between_two_depends_on_the_first(events):
    machine = PageMachine()
    for payload in events():
        machine.send(payload)
    assert machine.log.last == len(events()), "An event was not sent."
    machine.page_is_the_same_whatever_the_cursor()
