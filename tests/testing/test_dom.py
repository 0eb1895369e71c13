"""A page without a browser: what tests see of it, and what it says of a patch that is wrong."""

import pytest

from ds_broadcaster.sse import encode_elements, encode_script, encode_signals
from ds_broadcaster.testing.dom import Document, Element, parse_fragment, sent_signals
from ds_broadcaster.testing.dom.expressions import compiled
from ds_broadcaster.testing.dom.literals import read_literal

LIST = '<title> A  list </title><ul id="list" class="x  y"><li id="a">one<li id="b" hidden>two <b>words</b></ul>'


@pytest.fixture
def page():
    return Document(LIST)


def texts(page, css="li"):
    return [each.text for each in page.select(css)]


def apply(page, frame):
    """Apply one encoded event, as a stream brings it."""
    lines = [line.partition(": ")[::2] for line in frame.decode().splitlines() if line]
    [kind] = [value for name, value in lines if name == "event"]
    page.apply(kind, "\n".join(value for name, value in lines if name == "data"))


class TestElements:
    def test_element_has_what_tests_ask_for(self, page):
        element = page.select_one("#list")
        assert (element.tag, element.id) == ("ul", "list")
        assert element.attrs == {"id": "list", "class": "x  y"}
        assert page.select_one("#b").attrs["hidden"] == ""
        assert element.select_one("b").html == "<b>words</b>"
        assert page.title == "A list"

    def test_text_is_what_a_reader_sees(self):
        page = Document("<div> a\n  <i>b</i>c<script>x()</script><style>p {}</style><template>t</template>\n</div>")
        assert page.select_one("div").text == "a bc"

    def test_what_is_not_there_is_none(self, page):
        assert page.select_one(".nothing") is None
        assert page.select_one("li").select_one("ul") is None
        assert (page.select_one("b").id, page.select_one("b").attrs) == ("", {})

    def test_what_a_template_holds_is_not_in_the_page(self):
        assert Document("<template><p>x</p></template><p>y").select("p")[0].text == "y"

    def test_repr_is_short_html(self, page):
        assert repr(page.select_one("#a")) == '<Element <li id="a">one</li>>'
        assert len(repr(Document(f"<p>{'x' * 500}").select_one("p"))) < 120

    def test_fields_are_what_a_form_sends(self):
        page = Document(
            """<form id="poll">
            <input name="token" type="hidden" value="t"><input name="question" value="Tea?"><input name="q">
            <input type="checkbox" name="tag" value="a" checked><input type="checkbox" name="tag" value="b">
            <input type="checkbox" name="tag" value="c" checked>
            <input type="checkbox" name="on" checked><input type="checkbox" name="empty" value checked>
            <input type="radio" name="r" value="1"><input type="radio" name="r" value="2" checked>
            <textarea name="body">\none\ntwo</textarea>
            <select name="one"><option disabled>no<option>first <option value="2">second</select>
            <select name="two"><option value="1">first<option value="2" selected>second</select>
            <select name="many" multiple><option selected>a<option selected>b<option>c</select>
            <select name="none" multiple><option>a</select>
            <input name="disabled" disabled value="x"><fieldset disabled><input name="inside" value="x"></fieldset>
            <input value="nameless"><input type="file" name="file"><input form="other" name="others" value="x">
            <input type="submit" name="save" value="Save"><button name="go" value="1">Go</button></form>
            <input name="outside" form="poll" value="o"><input name="stray" value="x">"""
        )
        assert page.select_one("#poll").fields == {
            "token": "t",
            "question": "Tea?",
            "q": "",
            "tag": ["a", "c"],
            "on": "on",
            "empty": "",
            "r": "2",
            "body": "one\ntwo",
            "one": "first",
            "two": "2",
            "many": ["a", "b"],
            "outside": "o",
        }
        assert Document("<form><input name=a value=b></form>").select_one("form").fields == {"a": "b"}

    def test_same_element_is_equal(self, page):
        assert page.select_one("#a") == page.select("li")[0] != page.select("li")[1]
        assert len({page.select_one("#a"), page.select("li")[0]}) == 1

    def test_wrong_selector_says_so(self, page):
        with pytest.raises(ValueError, match=r"p\["):
            page.select("p[")

    @pytest.mark.parametrize(
        "css",
        [
            "li:has(b)",
            "li:not(:has(b))",
            "li:nth-child(2)",
            "ul > :first-child",
            '[id="a"]',
            "#list li + li",
            "LI:is(#b)",
        ],
    )
    def test_selectors_of_tests_work(self, page, css):
        assert len(page.select(css)) == 1


class TestParseFragment:
    @pytest.mark.parametrize(
        "html", ["<tr><td>1</td></tr>", "<td>1</td>", "<option>1</option>", "<caption>1</caption>"]
    )
    def test_elements_that_need_a_parent_stay(self, html):
        assert [each.html for each in parse_fragment(html)] == [html]

    def test_text_around_is_left_out(self):
        assert [each.tag for each in parse_fragment("a <p>b</p> c <i>d</i>")] == ["p", "i"]

    def test_whole_page_is_one_element(self):
        [page] = parse_fragment("<!doctype html><html><body><p>x</p></body></html>")
        assert isinstance(page, Element)
        assert (page.tag, page.select_one("p").text) == ("html", "x")

    def test_children_of_svg(self):
        assert [each.attrs for each in parse_fragment('<circle r="1"/>', "svg")] == [{"r": "1"}]


class TestPatch:
    @pytest.mark.parametrize(
        "mode, expected",
        [
            ("outer", ["new", "two words"]),
            ("replace", ["new", "two words"]),
            ("before", ["new", "one", "two words"]),
            ("after", ["one", "new", "two words"]),
            ("remove", ["two words"]),
        ],
    )
    def test_modes_beside_an_element(self, page, mode, expected):
        page.patch("<li>new</li>", "#a", mode)
        assert texts(page) == expected

    @pytest.mark.parametrize(
        "mode, expected",
        [
            ("inner", ["new"]),
            ("append", ["one", "two words", "new"]),
            ("prepend", ["new", "one", "two words"]),
        ],
    )
    def test_modes_inside_of_an_element(self, page, mode, expected):
        page.patch("<li>new</li>", "#list", mode)
        assert texts(page) == expected

    def test_without_selector_the_id_finds_the_element(self, page):
        page.patch('<li id="b">2</li><li id="a">1</li>')
        assert texts(page) == ["1", "2"]

    def test_morph_keeps_elements(self, page):
        before = page.select_one("#b")
        page.patch('<ul id="list"><li>zero<li id="b">two</ul>')
        assert page.select_one("#b") == before
        assert texts(page) == ["zero", "two"]
        assert page.select_one("#list").attrs == {"id": "list"}

    def test_no_target_is_a_warning(self, page):
        page.patch('<li id="c">x</li>')
        page.patch("<li>x</li>")
        page.patch("<li>x</li>", ".nothing", "append")
        assert [warning.partition(":")[0] for warning in page.warnings] == [
            'No element has the id "c", so this is not in the page',
            "A patch without a selector needs an element with an id",
            'No element matches the selector ".nothing".',
        ]
        assert len(texts(page)) == 2

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"mode": "append"}, "needs a selector"),
            ({"mode": "morph"}, "mode must be one of"),
            ({"namespace": "xml"}, "namespace must be one of"),
            ({"selector": "p["}, r"p\["),
        ],
    )
    def test_what_the_client_refuses_raises(self, page, arguments, message):
        with pytest.raises(ValueError, match=message):
            page.patch("<p></p>", **arguments)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("text", "html", "before"),
            ("<html></html><p></p>", "html", "replace"),
            ("<p></p>", "body", "outer"),
            ("<li><ul id=list></ul>", "#list", "inner"),
        ],
    )
    def test_what_no_page_can_hold_is_a_warning(self, page, arguments):
        page.patch(*arguments)
        page.patch("<p id=a></p>", "body", "outer")
        assert page.warnings

    def test_page_without_elements_is_one(self):
        page = Document("")
        page.patch("", "html", "remove")
        page.patch("<html><body>x</body></html>")
        assert (page.html, page.title, page.select("*")) == ("", "", [])

    def test_events_of_the_encoder(self, page):
        apply(page, encode_elements("<li id=c>\nthree</li>", "#list", "append"))
        apply(page, encode_elements("", "#a", "remove"))
        apply(page, encode_signals({"n": 1, "o": {"p": "é\u2028"}}))
        apply(page, encode_signals({"n": 2, "m": 3}, only_if_missing=True))
        assert texts(page) == ["two words", "three"]
        assert page.signals == {"n": 1, "m": 3, "o": {"p": "é\u2028"}}

    def test_unknown_event_changes_nothing(self, page):
        before = page.html
        page.apply("datastar", "heartbeat 10")
        page.apply("message", "elements <li id=a>x")
        assert page.html == before


class TestScripts:
    def test_scripts_are_recorded_and_gone(self, page):
        apply(page, encode_script("alert(1)"))
        apply(page, encode_script("alert(2)", auto_remove=False, attributes={"type": "module"}))
        assert page.scripts == ["alert(1)", "alert(2)"]
        assert [each.text for each in page.select("script")] == ["alert(2)"]

    def test_scripts_of_the_page_itself_are_not_recorded(self):
        page = Document("<script>a()</script><p id=p>")
        page.patch("<p id=p>x</p>")
        assert page.scripts == []

    def test_data_is_no_script(self, page):
        page.patch('<script type="application/json">{}</script><script src="/x.js"></script>', "body", "append")
        assert page.scripts == ["/x.js"]


class TestSignals:
    @pytest.mark.parametrize(
        "html, expected",
        [
            (
                "<p data-signals=\"{n: 1, 's': 'it\\'s', o: {p: [1, .5, null]}}\">",
                {"n": 1, "s": "it's", "o": {"p": [1, 0.5, ""]}},
            ),
            ("<p data-signals:first-name=\"'ann'\">", {"firstName": "ann"}),
            ('<p data-signals:a.b="true">', {"a": {"b": True}}),
            ('<p data-signals:my-x__case.snake="1">', {"my_x": 1}),
            ('<p data-signals="{n: 1}"><p data-signals__ifmissing="{n: 2, m: 2}">', {"n": 1, "m": 2}),
            ('<p data-signals="{n: 1}"><p data-signals="{n: null}">', {}),
            ('<p data-ignore data-signals="{n: 1}">', {}),
            ('<template><p data-signals="{n: 1}"></template>', {}),
            ("<input data-bind:first-name value=x>", {"firstName": "x"}),
            ("<input data-bind=n value=x data-signals:n=\"'y'\">", {"n": "y"}),
            ("<input type=checkbox data-bind=n checked>", {"n": True}),
            ("<input type=number data-bind=n value=7>", {"n": 7}),
            ("<textarea data-bind=n>\nx</textarea>", {"n": "x"}),
            ("<select data-bind=n><option>1<option value=two selected>2</select>", {"n": "two"}),
            ("<input type=radio data-bind=n value=a><input type=radio data-bind=n value=b checked>", {"n": "b"}),
            ("<button data-indicator:busy>", {"busy": False}),
        ],
    )
    def test_attributes_set_signals(self, html, expected):
        page = Document(html)
        assert page.signals == expected
        patched = Document("<div id=d>")
        patched.patch(html, "#d", "append")
        assert patched.signals == expected
        assert page.warnings == patched.warnings == []

    def test_expression_is_left_out_and_named_once(self):
        page = Document('<p id=p data-signals="{n: 1, at: Date.now(), list: [1, f(2, {})]}">')
        page.patch('<p id=p data-signals="{n: 1, at: Date.now(), list: [1, f(2, {})]}">', mode="replace")
        assert page.signals == {"n": 1, "list": [1]}
        assert [each.partition(" in <")[0].rpartition("expression ")[2] for each in page.warnings] == [
            "Date.now()",
            "f(2, {})",
        ]

    def test_null_deletes_and_objects_merge(self, page):
        page.patch_signals({"a": {"b": 1, "c": 2}, "d": [1]})
        page.patch_signals('{"a": {"b": null, "e": {"f": 3}}, "d": [2]}')
        assert page.signals == {"a": {"c": 2, "e": {"f": 3}}, "d": [2]}

    def test_signals_are_the_pages_own(self, page):
        mine = {"list": [1]}
        page.patch_signals(mine)
        page.signals["list"].append(2)
        assert mine == {"list": [1]}

    @pytest.mark.parametrize("text", ["alert(1)", "{a: alert(1)}", "[1]", '"x"', ""])
    def test_what_is_no_json_object_raises(self, page, text):
        with pytest.raises(ValueError, match="Signals must be"):
            page.patch_signals(text)

    def test_new_value_of_a_field_is_in_the_signal(self):
        page = Document("<input id=i data-bind=n value=x>")
        page.patch("<input id=i data-bind=n value=y>")
        assert page.signals == {"n": "y"}

    def test_underscored_and_empty_ones_are_not_sent(self):
        assert sent_signals({"a": 1, "_b": 2, "c": {"_d": 3}, "e": {"f": [4], "_g": 5}, "h": {}}) == {
            "a": 1,
            "e": {"f": [4]},
        }


class TestReactions:
    """Attributes whose expressions only look at signals show them."""

    @pytest.mark.parametrize(
        "html, before, after",
        [
            ("<p data-text=$n>x</p>", "0", "1"),
            ("<p data-text=\"$n > 0 ? `${$n} new` : 'nothing'\">x</p>", "nothing", "1 new"),
        ],
    )
    def test_text(self, html, before, after):
        page = Document(f"<body data-signals='{{n: 0}}'>{html}")
        assert page.select_one("p").text == before
        page.patch_signals({"n": 1})
        assert page.select_one("p").text == after

    @pytest.mark.parametrize(
        "attribute, before, after",
        [
            ("data-show=$n", {"style": "color: red; display: none;"}, {"style": "color: red;"}),
            ("data-class:on=$n", {}, {"class": "on"}),
            ("data-class=\"{on: $n, 'a b': !$n}\"", {"class": "a b"}, {"class": "on"}),
            ("data-attr:disabled=!$n", {"disabled": ""}, {}),
            ("data-attr=\"{title: 'x' + $n, hidden: $n == 1}\"", {"title": "x0"}, {"title": "x1", "hidden": ""}),
        ],
    )
    def test_attributes(self, attribute, before, after):
        page = Document(f'<body data-signals="{{n: 0}}"><p style="color: red" {attribute}>')

        def shown(names):
            attrs = page.select_one("p").attrs
            return {name: attrs[name] for name in names if name in attrs}

        names = before.keys() | after.keys()
        assert shown(names) == before
        page.patch_signals({"n": 1})
        assert shown(names) == after

    def test_computed_signal(self):
        page = Document("<p data-signals='{n: 2}' data-computed:double='$n * 2' data-text=$double>")
        page.patch_signals({"n": 3})
        assert page.signals == {"n": 3, "double": 6}
        assert page.select_one("p").text == "6"

    def test_patched_element_shows_the_signals(self, page):
        page.patch_signals({"n": 7})
        page.patch('<li id="a" data-text="$n">one</li>')
        page.patch('<li data-text="$n"></li>', "#list", "append")
        assert texts(page) == ["7", "two words", "7"]

    def test_javascript_has_no_effect(self):
        page = Document('<p data-text="new Date().getFullYear()" data-show="alert(1)" data-class:on="el.x">x</p>')
        assert (page.select_one("p").text, page.signals) == ("x", {})
        assert "class" not in page.select_one("p").attrs

    def test_attributes_that_fight_do_not_hang_the_test(self):
        page = Document("<p data-class:on=$n data-class='{on: !$n}'>")
        assert "the browser would hang" in page.warnings[0]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("$n", 2),
        ("$o.p", "x"),
        ("$missing", ""),
        ("!$n", False),
        ("$n === 2 && $o.p !== 'y'", True),
        ("$n === '2'", False),
        ("$n == '2'", True),
        ("$n >= 2 || nothing()", None),
        ("$n + '!' ", "2!"),
        ("$n * 2 - 1 % 3", 3),
        ("$list.length > 0 ? $list : 'none'", ["a"]),
        ("`${$n} of ${$list}`", "2 of a"),
        ("({a: 1, 'b c': $n})", {"a": 1, "b c": 2}),
        ("{x: 'found'}[$o.p] ?? 'other'", "found"),
        ("{y: 'found'}[$o.p] ?? 'other'", "other"),
        ("null ?? $n", 2),
        ("true === 1", False),
        ("$o.p.length", 1),
        ("$n = 3", None),
        ("$n++", None),
        ("$o.p.trim()", None),
        ("@get('/x')", None),
        ("el.value", None),
        ("$n; $o", None),
        ("", None),
        ("(" * 3 + "1", None),
    ],
)
def test_expressions(text, expected):
    expression = compiled(text)
    value = None if expression is None else expression({"n": 2, "o": {"p": "x"}, "list": ["a"]})
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{}", ({}, [])),
        ("{a: 1, }", ({"a": 1}, [])),
        ("({a: `x`})", ({"a": "x"}, [])),
        (r"{'a\u0062\n': '\x41\u{1F600}'}", ({"ab\n": "A😀"}, [])),
        ("{a: `x${b}`, c: 2}", ({"c": 2}, ["`x${b}`"])),
        ("{a: [1, x, {b: y}], c: -1e2}", ({"a": [1, {}], "c": -100}, ["x", "y"])),
        ("{a: {b: [1}", (None, ["{a: {b: [1}"])),
        ("$count + 1", (None, ["$count + 1"])),
        ("1px", (None, ["1px"])),
        ("undefined", (None, [])),
        ("", (None, [""])),
    ],
)
def test_literals(text, expected):
    assert read_literal(text) == expected


def test_expression_that_is_not_read_is_a_warning():
    page = Document('<p data-text="$a + 1"></p><p id=b data-text="$a.toFixed(2)"></p>')
    [warning] = page.warnings
    assert warning.startswith('No JavaScript is run, so data-text of <Element <p id="b"')
    assert warning.endswith("does not follow the signals.")
