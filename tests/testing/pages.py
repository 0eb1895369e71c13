"""Pages and what happens to them: made at random from a seed, always the same."""

import json
from random import Random

# The signals that elements show are always there: an element stops to follow one that is deleted.
ROOT = """lang="en" data-signals="{k: 'x', m: {n: 1}}\""""
IDS = "abcdefgh"
TAGS = ["div", "div", "p", "span", "ul", "li", "section", "b", "h2", "a", "label", "button", "details"]
WITHIN = {
    "ul": ["li"],
    "table": ["tbody", "tr", "caption"],
    "tbody": ["tr"],
    "tr": ["td", "th"],
    "select": ["option", "option", "optgroup"],
    "optgroup": ["option"],
    "svg": ["g", "circle", "title"],
    "g": ["circle", "g"],
    "math": ["mi", "mrow", "mtext"],
    "mrow": ["mi"],
}
LEAVES = ["input", "textarea", "br", "img", "hr"]
RARE = ["table", "select", "svg", "math", "template", "form"]
ONLY_TEXT = {"textarea", "option", "title", "mi", "mtext", "caption"}
EMPTY = {"input", "br", "img", "hr", "circle"}
TEXTS = ["one", "two words", " ", "\n  ", "&amp;", "a &lt; b", "é", "&nbsp;x", "<!-- c -->", "<!---->", "𝄞", "&copy"]
ATTRIBUTES = [
    ("class", ["x", "y", "x y", " x  z "]),
    ("title", ["t", "&quot;", ""]),
    ("data-x", ["1", "2"]),
    ("hidden", [""]),
    ("href", ["/?a=1&b=2"]),
    ("style", ["color: red"]),
    ("ARIA-label", ["q"]),
]
SELECTORS = [
    *(f"#{each}" for each in IDS),
    "li",
    ".x",
    "div",
    "p, span",
    "ul > li",
    "li:nth-child(2)",
    "[data-x='1']",
    "[data-x]",
    "div:has(p)",
    "div:not(.x)",
    "body > :not(template)",
    "li:first-child + li",
    "tr",
    "td:last-child",
    "svg",
    "svg *",
    "option",
    "body",
    "head",
    "title",
    "#nothing",
]
MODES = ["outer", "inner", "replace", "prepend", "append", "before", "after", "remove"]
# What people write, and what parsers stumble over.
BROKEN = [
    "<p id=a>one<p id=b>two",
    "<li id=c>1<li id=d>2",
    "<tr id=e><td>1<td id=f>2",
    "<td>loose</td>",
    "<option id=g>o",
    "<col id=h>",
    "<caption id=a>c",
    "<div id=b><p>x</div></p>y",
    "<b id=c><i>x</b>y</i>",
    "<a id=d href=1>x<a href=2>y</a>",
    "<table id=e><p>fostered<tr><td>1</table>",
    "text before <span id=f>x</span> text",
    "<script id=g>ran('g')</script>",
    "<style id=h>p > b { color: red }</style>",
    "<textarea id=a>\n\n<b>no</b></textarea>",
    "<svg id=b viewBox='0 0 1 1'><circle r=1 /><foreignObject><p id=c>x</foreignObject></svg>",
    "<math id=d><mi>x</mi></math>",
    "<p id=e class=x class=y CLASS=z>",
    "<p id='f' title='&lt;&notit;&ampx;'>&AMP;&#65;&#x41;",
    "</p></div></body-not>",
    "<!-- <p id=a> --><p id=b>",
    "<template><p id=d>in</p></template>",
    "<select id=e><option>1<option selected>2<p>3</select>",
    "<h2 id=f>x<h2 id=g>y",
    "<br id=a></br><img id=b><hr id=c>",
    "<dl id=d><dt>1<dd>2<dt>3",
    "<ul id=a><li id=b>1<ul><li id=c>2</ul><li id=d>3</ul>",
    "<details id=e open><summary>s</summary>t</details>",
    "<select data-bind=many multiple><option selected>1<option selected value=two>2<option>3</select>",
]


def elements(html, **fields):
    return ["datastar-patch-elements", {"elements": html, **fields}]


def signals(**values):
    return ["datastar-patch-signals", {"signals": json.dumps(values)}]


def body(html, *events):
    return {
        "page": f"<!doctype html><html {ROOT}><head><title>t</title></head><body>{html}</body></html>",
        "events": events,
    }


BOXES = "<p data-signals='{picks: []}'>" + "".join(
    f"<input type=checkbox data-bind=picks {each}>" for each in ("value=a", "value=b checked")
)
FORM = (
    "<input id=a data-bind=name value=ann><textarea id=b data-bind=text>x</textarea>"
    "<select id=c data-bind=n><option>1<option>2"
)
MESSAGE = '<li id="m-2">new</li>'

# What projects do, and what the client does in its own way.
WRITTEN = [
    body(
        "<ul id=a><li id=m-1>old",
        elements(MESSAGE, selector="#a", mode="append"),
        elements(MESSAGE.replace("new", "newer")),
    ),
    body("<ul id=a><li id=m-2>old", elements(MESSAGE, selector="#a:not(:has(#m-2))", mode="append"), elements(MESSAGE)),
    body(
        "<ul id=a>",
        elements(MESSAGE, selector=":is(#a):not(:has(#m-2))", mode="prepend"),
        elements("", selector="#m-2", mode="remove"),
    ),
    body("<p id=a>", elements("<p id=b>"), elements("<p>"), elements("", selector=".none", mode="remove")),
    body(
        "<table><tbody id=a><tr id=b><td>1",
        elements("<tr id=b><td>2<td>3"),
        elements("<tr><td>4", selector="#a", mode="append"),
    ),
    body(
        "<svg id=a><circle id=b r=1 />",
        elements("<circle id=b r=2 /><circle id=c /><circle id=d />", namespace="svg"),
        elements("<g id=e /><g id=f /><g id=g />", selector="#a", mode="append", namespace="svg"),
    ),
    body(
        "<div id=a><ul id=b><li id=c>1<li id=d>2<li id=e>3</ul></div>",
        elements("<div id=a><p>x</p><ul id=b class=x><li id=e>3<li id=c>1</ul></div>"),
    ),
    body(
        "<div id=a data-ignore-morph>x</div><p id=b data-preserve-attr=class class=x>",
        elements("<div id=a data-ignore-morph>y</div>"),
        elements("<p id=b data-preserve-attr=class class=y title=t>"),
    ),
    body(
        "<div id=a><p>x",
        elements("<div id=a><script>ran(1)</script></div>"),
        elements("<script>ran(2)</script>", selector="#a", mode="append"),
        elements("<script data-effect='el.remove()'>ran(3)</script>", selector="body", mode="append"),
    ),
    body(BOXES),
    body(
        FORM,
        elements("<input id=a data-bind=name value=bob>"),
        elements("<textarea id=b data-bind=text>y</textarea>"),
        elements("<select id=c data-bind=n><option>1<option selected>2</select>"),
    ),
    body(
        "<p data-signals='{a: {b: 1, c: 2}, d: [1], e: 3}'>",
        signals(a={"b": None, "d": 4}, d={"0": 5}, e=None, f={"g": None}),
    ),
    body(
        "<p data-signals:foo-bar=1 data-signals:_own='\"x\"' data-signals__ifmissing='{fooBar: 2, n: 1e3}'>",
        signals(fooBar=None),
    ),
    body("<p id=a>x", elements("<html lang=de><head><title>u</title></head><body class=y><p id=a>z</p></body></html>")),
    body("<p id=a>x", elements("<head><title>u</title></head><body><p id=a>z</p></body>", mode="replace")),
]


# What elements show.
SHOWN = ["$k", "!$k", "$m.n", "$k === 'x'", "$k > 0 ? 'yes' : 'no'", "`${$k} of ${$m.n}`", "$k && $m.n", "$k + 1"]
SHOWN += ["$k == $m.n", "{p: 1, x: 2}[$k] ?? 'none'", "$k || 'd'", "'[' + $k + ']'", "-$k * 2"]


class Tree:
    """An element of a page that is being made."""

    def __init__(self, tag, attrs, children):
        self.tag, self.attrs, self.children = tag, attrs, children

    def __str__(self):
        attrs = "".join(f' {name}="{value}"' for name, value in self.attrs.items())
        if self.tag in EMPTY:
            return f"<{self.tag}{attrs}>" if self.tag != "circle" else f"<{self.tag}{attrs}/>"
        return f"<{self.tag}{attrs}>{''.join(map(str, self.children))}</{self.tag}>"

    def copy(self):
        children = [each.copy() if isinstance(each, Tree) else each for each in self.children]
        return Tree(self.tag, {**self.attrs}, children)

    def all(self):
        return [self, *(found for each in self.children if isinstance(each, Tree) for found in each.all())]


class Maker:
    """Makes cases from a seed."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.scripts = 0

    def case(self):
        """Return a page, and the events that come to it: a type and its fields."""
        body = Tree("body", self.attributes() if self.chance(0.2) else {}, [self.tree() for _ in range(self.upto(4))])
        if self.chance(0.1):
            body.children.append(self.random.choice([each for each in BROKEN if "<script" not in each]))
        # It would empty the page before the client looks at the rest, and not in a page that a server sent.
        body.attrs.pop("data-text", None)
        if self.chance(0.3):
            body.attrs["data-signals"] = self.literal(self.signals())
        head = f"<head><title>t</title>{self.random.choice(['', '<meta name=m content=c>'])}</head>"
        events = [self.event(body) for _ in range(1 + self.upto(4))]
        return {"page": f"<!doctype html><html {ROOT}>{head}{body}</html>", "events": events}

    def event(self, body):
        if self.chance(0.15):
            fields = {"signals": json.dumps(self.signals())}
            if self.chance(0.4):
                fields["onlyIfMissing"] = "true"
            return ["datastar-patch-signals", fields]
        return ["datastar-patch-elements", self.patch(body)]

    def patch(self, body):
        fields = {}
        kind = self.random.random()
        if kind < 0.45:  # A changed copy of what is there, or has been.
            found = self.random.choice(body.all()[1:] or [self.tree()])
            changed = self.changed(found.copy())
            fields["elements"] = str(changed)
            if self.chance(0.3) or "id" not in changed.attrs:
                fields["selector"] = self.random.choice(SELECTORS)
        elif kind < 0.5:
            whole = body.copy()
            self.change(whole)
            fields["elements"] = (
                str(whole) if self.chance(0.5) else f"<html {ROOT}><head><title>u</title></head>{whole}</html>"
            )
        elif kind < 0.65:
            fields["elements"] = "".join(self.random.choices(BROKEN, k=1 + self.upto(1)))
        else:
            fields["elements"] = "".join(str(self.node()) for _ in range(1 + self.upto(2)))
        if kind >= 0.5 and self.chance(0.8):
            fields["selector"] = self.random.choice(SELECTORS)
        if self.chance(0.6) and kind >= 0.5:
            fields["mode"] = self.random.choice(MODES)
        elif kind < 0.5:
            fields["mode"] = self.random.choice(["outer", "outer", "outer", "inner"])
        if self.chance(0.05):
            fields["namespace"] = self.random.choice(["svg", "mathml"])
            fields["elements"] = "".join(f"<circle id={self.random.choice(IDS)} r=1 />" for _ in range(3))
        if self.chance(0.1):
            self.scripts += 1
            attrs = self.random.choice(["", ' data-effect="el.remove()"', " type=module", " type=application/json"])
            fields["elements"] += f"<script{attrs.replace(' type=module', '')}>ran({self.scripts})</script>"
        return fields

    def changed(self, tree):
        for each in tree.all():
            if self.chance(0.4):
                self.change(each)
        return tree

    def change(self, tree):
        """Change something, as a new render of a template would."""
        children = tree.children
        match self.random.randrange(6):
            case 0:
                self.random.shuffle(children)
            case 1 if children:
                children.pop(self.random.randrange(len(children)))
            case 2 if tree.tag not in EMPTY:
                children.insert(self.random.randint(0, len(children)), self.node(tree.tag))
            case 3:
                tree.attrs.update(self.attributes())
            case 4 if len(tree.attrs) > 1:
                tree.attrs.pop(next(name for name in tree.attrs if name != "id"))
            case 5 if children:
                at = self.random.randrange(len(children))
                children[at] = self.node(tree.tag)

    def tree(self, within="", depth=0):
        tags = WITHIN.get(within) or (RARE if self.chance(0.1) else LEAVES if self.chance(0.15) else TAGS)
        tag = self.random.choice(tags)
        attrs = self.attributes() if tag != "template" else {}
        if tag == "input":
            attrs |= self.input()
        if tag in ("textarea", "select") and self.chance(0.3):
            attrs["data-bind"] = self.random.choice(["v", "w"])
        children = []
        if tag in ONLY_TEXT:
            children = [self.random.choice(["one", "two"])]
        elif tag not in EMPTY:
            children = [self.node(tag, depth + 1) for _ in range(self.upto(3 if depth < 4 else 0))]
        return Tree(tag, attrs, children)

    def node(self, within="", depth=2):
        if self.chance(0.3) and within not in WITHIN:
            return self.random.choice(TEXTS)
        return "x" if within in ONLY_TEXT else self.tree(within, depth)

    def attributes(self):
        attrs = {}
        if self.chance(0.5):
            attrs["id"] = self.random.choice(IDS)
        for name, values in self.random.sample(ATTRIBUTES, self.random.choice([0, 0, 1, 2])):
            attrs[name] = self.random.choice(values)
        if self.chance(0.05):
            attrs["data-ignore-morph"] = ""
        if self.chance(0.05):
            attrs["data-preserve-attr"] = self.random.choice(["class", "title class", "data-x", "hidden value"])
        if self.chance(0.08):
            key = self.random.choice(["", "", "__ifmissing"])
            attrs[f"data-signals{key}"] = self.literal(self.signals())
        if self.chance(0.05):
            key = self.random.choice(
                [":s", ":s__ifmissing", ":some-name", ":some-name__case.snake", ":o.q", ":s__case.kebab"]
            )
            attrs[f"data-signals{key}"] = self.literal(self.value(0))
        if self.chance(0.02):
            attrs[self.random.choice(["data-indicator", "data-indicator:busy"])] = ""
            attrs = {name: value or "busy" if name == "data-indicator" else value for name, value in attrs.items()}
        if self.chance(0.03):
            attrs[self.random.choice(["data-ignore", "data-ignore__self"])] = ""
        if self.chance(0.1):
            shown = self.random.choice(SHOWN)
            name, expression = self.random.choice(
                [
                    ("data-text", shown),
                    ("data-show", shown),
                    ("data-class:on", shown),
                    ("data-class", f"{{off: {shown}, 'x w': !$k}}"),
                    ("data-attr:title", shown),
                    ("data-attr", f"{{hidden: $k, lang: {shown}}}"),
                    ("data-computed:double", "$k + $k"),
                ]
            )
            attrs[name] = expression
        return attrs

    def input(self):
        attrs = {}
        if self.chance(0.5):
            attrs["value"] = self.random.choice(["", "v", "7"])
        if self.chance(0.3):
            attrs["type"] = self.random.choice(["text", "checkbox", "hidden", "number", "radio", "range"])
        if self.chance(0.2):
            attrs["checked"] = ""
        if self.chance(0.4) and attrs.get("type") != "hidden":
            attrs["data-bind"] = "r" if attrs.get("type") == "radio" else self.random.choice("vw")
        return attrs

    def signals(self):
        names = self.random.sample(["s", "t", "o", "_own", "someName"], self.upto(3))
        shown = {}
        if self.chance(0.3):
            shown["k"] = self.random.choice(["x", "", 0, 1, 2.5, True, False, "7", [1, "b"], []])
        if self.chance(0.3):
            shown["m"] = {"n": self.random.choice(["x", "", 0, 1, True, False, "7"])}
        return {name: self.value(0) for name in names} | shown

    def value(self, depth):
        if depth < 2 and self.chance(0.3):
            return {name: self.value(depth + 1) for name in self.random.sample("pqr", self.upto(2))}
        if depth < 2 and self.chance(0.1):
            return [self.value(2) for _ in range(self.upto(2))]
        return self.random.choice([None, True, False, 0, 1, -1.5, "", "x", "it's"])

    def literal(self, value):
        """Write a value in JavaScript for an attribute, in one of the ways that people have."""
        text = json.dumps(value)
        if self.chance(0.5):
            text = self.written(value)
        return text.replace("&", "&amp;").replace('"', "&quot;")

    def written(self, value):
        if isinstance(value, dict):
            return (
                "{"
                + ", ".join(
                    f"{self.random.choice([name, repr(name)])}: {self.written(each)}" for name, each in value.items()
                )
                + "}"
            )
        if isinstance(value, list):
            return "[" + ", ".join(map(self.written, value)) + "]"
        if isinstance(value, str):
            return "'" + value.replace("'", "\\'") + "'"
        return json.dumps(value)

    def chance(self, share):
        return self.random.random() < share

    def upto(self, most):
        return self.random.randint(0, most)
