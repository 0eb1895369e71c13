"""HTML as browsers read it, and the elements that a test looks at."""

import re
from collections.abc import Iterator
from typing import Any

try:
    import turbohtml
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "Tests of pages need a parser that reads HTML as browsers do. Install it: "
        'pip install "ds-broadcaster[testing]".'
    ) from error

# The client looks for end tags to see that a patch is a document, a head or a body. Those in images do not count.
_SVG = re.compile(r"<svg(\s[^>]*>|>)[\s\S]*?</svg>", re.IGNORECASE)
_ROOTS = {"svg": "svg", "mathml": "math"}
_NOT_IN_STRINGS = re.compile(r'["\\\x00-\x1f]')
# Text of theirs is no text of the page.
_SILENT = {"script", "style", "noscript"}
_SENT_WHEN_PRESSED = {"submit", "button", "reset", "image"}


class Element:
    """An element of a page, or of a patch. Two are equal when they are the same element of the same page."""

    def __init__(self, node: turbohtml.Element) -> None:
        self._node = node

    @property
    def tag(self) -> str:
        """The name of the element, such as "li"."""
        return self._node.tag

    @property
    def id(self) -> str:
        """The element's id, "" without one."""
        return self._node.attr("id") or ""

    @property
    def attrs(self) -> dict[str, str]:
        """The attributes as they are written; those without a value have the value ""."""
        return {name: self._node.attr(name) or "" for name in self._node.attrs}

    @property
    def text(self) -> str:
        """The text of the element and of all in it, without scripts and styles.

        White space is as a reader sees it: stripped at both ends, and each run of it is one space.
        """
        return " ".join("".join(_texts(self._node)).split())

    @property
    def html(self) -> str:
        """The element as HTML, with its own tag, as a browser's outerHTML writes it.

        A line end at the beginning of a text area or a `pre` is doubled, so that it is there when the HTML is parsed.
        """
        return self._node.html

    def select(self, css: str) -> "list[Element]":
        """Return the elements inside of this one that a CSS selector matches, in the order of the page."""
        return [Element(node) for node in query(self._node, css)]

    def select_one(self, css: str) -> "Element | None":
        """Return the first element inside of this one that a CSS selector matches, or None."""
        return next(iter(self.select(css)), None)

    @property
    def fields(self) -> dict[str, str | list[str]]:
        """What a form sends as it stands: the values of its fields by their names, several of a name in a list.

            page.post("/polls/", {**page.select_one("#poll").fields, "question": "Tea?"})

        Buttons and files are left out.
        """
        found: dict[str, list[str]] = {}
        for name, value in _sent_by(self._node):
            found.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in found.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and self._node == other._node

    def __hash__(self) -> int:
        return hash(self._node)

    def __repr__(self) -> str:
        html = " ".join(self.html.split())
        return f"<Element {html if len(html) <= 100 else f'{html[:97]}...'}>"


def parse_fragment(html: str, namespace: str = "html") -> list[Element]:
    """Return the elements at the top of a patch, as the client reads it. Text around them is not in the list."""
    return [Element(node) for node in parse_patch(html, namespace) if isinstance(node, turbohtml.Element)]


def parse_page(html: str) -> turbohtml.Document:
    """Return the tree of a whole page, as a browser that runs scripts reads it."""
    return turbohtml.parse(html, positions=False, scripting=True)


def parse_patch(html: str, namespace: str = "html") -> list[turbohtml.Node]:
    """Return the nodes of a patch, as the client reads it: in a template, unless it is a document, a head or a body."""
    outside_of_svg = _SVG.sub("", html)
    root = _ROOTS.get(namespace)
    is_page, has_head, has_body = (f"</{tag}>" in outside_of_svg for tag in ("html", "head", "body"))
    if not (is_page or has_head or has_body):
        html = f"<{root}>{html}</{root}>" if root else html
        html = f"<body><template>{html}</template></body>"
    tree = turbohtml.parse(html, positions=False, allow_declarative_shadow_roots=False)
    page = root_of(tree)
    if is_page:
        return [page]
    if has_head or has_body:
        wanted = {"head": has_head, "body": has_body}
        return [node for node in page.children if isinstance(node, turbohtml.Element) and wanted.get(node.tag)]
    template = next(node for node in elements_in(page) if is_html(node, "template"))
    nodes = content_of(template)
    if root is None:
        return list(nodes.children)
    found = next((node for node in elements_in(nodes) if node.tag == root), None)
    # The client moves them while it counts them, and so loses each second one.
    return [] if found is None else list(found.children)[::2]


def root_of(tree: turbohtml.Document) -> turbohtml.Element:
    """Return the html element."""
    root = tree.root
    assert root is not None
    return root


def is_html(node: turbohtml.Node, *tags: str) -> bool:
    """Tell whether a node is an element of HTML with one of these names."""
    return isinstance(node, turbohtml.Element) and node.tag in tags and node.namespace is turbohtml.Namespace.HTML


def content_of(template: turbohtml.Element) -> turbohtml.DocumentFragment | turbohtml.Element:
    """Return the fragment in which a template keeps what is written in it, itself if a patch took that away."""
    return next((node for node in template.children if isinstance(node, turbohtml.DocumentFragment)), template)


def elements_in(node: turbohtml.Node) -> Iterator[turbohtml.Element]:
    """Yield the elements in a node, in the order of the page; what a template holds is in no page."""
    waiting = [*reversed(node.children)]
    while waiting:
        each = waiting.pop()
        if isinstance(each, turbohtml.Element):
            yield each
            waiting.extend(reversed(each.children))


def query(node: turbohtml.Node, css: str) -> list[turbohtml.Element]:
    """Return what document.querySelectorAll() would. Raises ValueError for what is no selector."""
    found = node.select(css)
    return [each for each in found if not is_in_template(each, node)]


def with_id(page: turbohtml.Node, id_: str) -> turbohtml.Element | None:
    """Return the first element that has an id, as document.getElementById() does."""
    escaped = _NOT_IN_STRINGS.sub(lambda found: f"\\{ord(found[0]):x} ", id_)
    return next(iter(query(page, f'[id="{escaped}"]')), None) if id_ else None


def is_in_template(node: turbohtml.Element, top: turbohtml.Node | None = None) -> bool:
    """Tell whether a template holds an element, so that it is not in the page; only templates in the top count."""
    parent: Any = node.parent
    while parent is not None and parent != top:
        if isinstance(parent, turbohtml.DocumentFragment):
            return True
        parent = parent.parent
    return False


def _sent_by(form: turbohtml.Element) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each field that a form sends."""
    id_ = form.attr("id")
    # Fields elsewhere in the page may name the form.
    for node in elements_in([form, *form.ancestors][-1]):
        owner = node.attr("form")
        is_own = owner == id_ if owner is not None else any(each == form for each in node.ancestors)
        name = node.attr("name")
        if name and is_own and not _is_disabled(node):
            for value in _values_of(node):
                yield name, value


def _is_disabled(field: turbohtml.Element) -> bool:
    above = (each for each in field.ancestors if isinstance(each, turbohtml.Element))
    return "disabled" in field.attrs or any(each.tag == "fieldset" and "disabled" in each.attrs for each in above)


def _values_of(field: turbohtml.Element) -> list[str]:
    """Return what a field adds to what its form sends; nothing for what is no field."""
    if field.tag == "textarea":
        return [field.text]
    if field.tag == "select":
        options = [each for each in elements_in(field) if each.tag == "option" and "disabled" not in each.attrs]
        chosen = [each for each in options if "selected" in each.attrs]
        if "multiple" not in field.attrs:
            chosen = chosen[-1:] or options[:1]
        return [each.attr("value") or ("" if "value" in each.attrs else Element(each).text) for each in chosen]
    kind = (field.attr("type") or "text").lower()
    if field.tag != "input" or kind in _SENT_WHEN_PRESSED or kind == "file":
        return []
    if kind in ("checkbox", "radio"):
        value = (field.attr("value") or "") if "value" in field.attrs else "on"
        return [value] if "checked" in field.attrs else []
    return [field.attr("value") or ""]


def _texts(node: turbohtml.Node) -> Iterator[str]:
    for child in node.children:
        if isinstance(child, turbohtml.Text):
            yield child.data
        elif isinstance(child, turbohtml.Element) and child.tag not in _SILENT:
            yield from _texts(child)
