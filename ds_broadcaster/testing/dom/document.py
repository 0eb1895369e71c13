"""A page that changes as the Datastar client changes it."""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

import turbohtml
from turbohtml.mutations import MutationRecord

from . import signals as _signals
from .attributes import bound_to, is_ignored, is_nameless_radio, patch_of, removes_itself, value_of
from .elements import (
    Element,
    content_of,
    elements_in,
    is_html,
    is_in_template,
    parse_page,
    parse_patch,
    query,
    root_of,
    with_id,
)
from .literals import read_literal
from .morph import IGNORE, MorphError, morph
from .reactions import Reactions

MODES = ("outer", "inner", "replace", "prepend", "append", "before", "after", "remove")
NAMESPACES = ("html", "svg", "mathml")
# Changes of the page that follow from each other.
_MOST_ROUNDS = 100
_JAVASCRIPT = {"", "module", "text/javascript", "application/javascript", "text/ecmascript", "application/ecmascript"}


class Document:
    """A page in a browser in which Datastar's client 1.0.4 runs: apply what a server sends, and look at the outcome.

    No JavaScript is run, but for expressions that only look at signals, such as `$count` or `$count > 0 ? 'new' : ''`:
    `data-text`, `data-show`, `data-class` and `data-attr` show them. Signals get values from patches, from what is
    written out in `data-signals`, from `data-bind`, `data-indicator` and `data-computed`. What a person types or clicks
    is not part of a document.

    `signals` is a dict of the signals, `scripts` lists the text of each script that the client would have run, or the
    URL of one with a `src`, and `warnings` lists what the client would have complained about, and expressions that
    would have set signals. A script that a morph brings into its target is there twice: the browser runs it, and the
    client once more.

    Known to differ: what a patch puts into a `<template>` is in its content; a morph that gives an SVG element a new
    attribute writes its name in lower case (`viewbox`); and where a selector matches elements inside of one another
    under `data-ignore`, the client looks at those that are gone too.
    """

    def __init__(self, html: str) -> None:
        self.signals: dict[str, Any] = {}
        self.scripts: list[str] = []
        self.warnings: list[str] = []
        self._page = parse_page(html)
        self._pantry = turbohtml.Element("div", {"hidden": ""})
        # The scripts that the client has started, or that the browser has run before. It knows no others.
        self._started = {node for node in elements_in(self._page) if node.tag == "script"}
        self._reactions = Reactions(self.signals)
        self._observer = turbohtml.MutationObserver()
        self._observer.observe(self._page, child_list=True, attributes=True, subtree=True)
        self._found(root_of(self._page))
        self._look()

    @property
    def html(self) -> str:
        """The whole page, as a browser writes it."""
        return self._page.html

    @property
    def title(self) -> str:
        """The page's title, "" without one."""
        title = self.select_one("title")
        return title.text if title is not None else ""

    def select(self, css: str) -> list[Element]:
        """Return the elements that a CSS selector matches, in the order of the page.

        Raises ValueError for what is no selector.
        """
        return [Element(node) for node in query(self._page, css)]

    def select_one(self, css: str) -> Element | None:
        """Return the first element that a CSS selector matches, or None."""
        return next(iter(self.select(css)), None)

    def set_attribute(self, element: Element, name: str, value: str | None) -> None:
        """Give an element an attribute, or take it away with None, as a script of the page does."""
        if value is not None:
            element._node.attrs[name] = value
        elif name in element._node.attrs:
            del element._node.attrs[name]
        self._look()

    def apply(self, event: str, data: str) -> None:
        """Apply one Server-Sent Event: its type, and the text of its data lines, as the server has written them.

        Types that the client does not know change nothing. Raises ValueError as patch() and patch_signals() do.
        """
        fields: dict[str, list[str]] = {}
        for line in data.split("\n"):
            name, _, value = line.partition(" ")
            fields.setdefault(name, []).append(value)
        told = {name: "\n".join(values) for name, values in fields.items()}
        if event == "datastar-patch-elements":
            self.patch(
                told.get("elements", ""), told.get("selector"), told.get("mode", "outer"), told.get("namespace", "html")
            )
        elif event == "datastar-patch-signals":
            if "signals" not in told:
                raise ValueError("A patch of signals has no signals.")
            self.patch_signals(told["signals"], only_if_missing=told.get("onlyIfMissing", "").strip() == "true")

    def patch(self, html: str, selector: str | None = None, mode: str = "outer", namespace: str = "html") -> None:
        """Patch the page with HTML, in one of MODES and one of NAMESPACES.

        A patch that finds no element to change is in `warnings`. Raises ValueError for an unknown mode or namespace,
        a mode that needs a selector without one, and what is no selector: the client reports an error.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")
        if namespace not in NAMESPACES:
            raise ValueError(f"namespace must be one of {', '.join(NAMESPACES)}, got {namespace!r}.")
        if not selector and mode not in ("outer", "replace"):
            raise ValueError(f'mode "{mode}" needs a selector: the client throws PatchElementsExpectedSelector.')
        nodes = parse_patch(html, namespace)
        targets = query(self._page, selector) if selector else None
        if targets == []:
            self.warnings.append(f'No element matches the selector "{selector}".')
        try:
            if targets is None:
                self._patch_by_id(nodes, mode)
            else:
                self._patch_all(targets, nodes, mode)
        except (MorphError, ValueError) as error:  # Such as text beside the root element.
            self.warnings.append(f"The client fails in the middle of a patch: {error}.")
        except RecursionError:
            raise ValueError("Elements of the page are nested too deeply for a test, in hundreds of levels.") from None
        self._look()

    def patch_signals(self, patch: Mapping[str, Any] | str, only_if_missing: bool = False) -> None:
        """Merge a dict, or JSON, into the signals as RFC 7386 says: null deletes. Raises ValueError for other text.

        With `only_if_missing`, signals that there are keep their values.
        """
        if isinstance(patch, str):
            value, expressions = read_literal(patch)
            if expressions:
                raise ValueError(f"Signals must be JSON: the client would run {expressions[0]!r}.")
            patch = value
        if not isinstance(patch, Mapping):
            raise ValueError(f"Signals must be a JSON object, got {patch!r}.")
        _signals.merge(self.signals, json.loads(json.dumps(patch)), only_if_missing=only_if_missing)
        self._look()

    def _patch_by_id(self, nodes: list[turbohtml.Node], mode: str) -> None:
        for new in nodes:
            if not isinstance(new, turbohtml.Element):
                continue
            target = self._target_of(new)
            if target is None:
                self.warnings.append(
                    f'No element has the id "{new.attr("id")}", so this is not in the page: {Element(new)!r}'
                    if new.attr("id")
                    else f"A patch without a selector needs an element with an id: {Element(new)!r}"
                )
            elif mode == "replace":
                self._place(target, [new], mode)
            elif IGNORE not in target.attrs or IGNORE not in new.attrs:
                self._morph(target, [new], inner=False)

    def _patch_all(self, targets: list[turbohtml.Element], nodes: list[turbohtml.Node], mode: str) -> None:
        for number, target in enumerate(targets):
            new = nodes if number == len(targets) - 1 else [copy.deepcopy(node) for node in nodes]
            if mode == "remove":
                target.extract()
            elif mode in ("outer", "inner"):
                self._morph(target, new, inner=mode == "inner")
            else:
                self._place(target, new, mode)

    def _target_of(self, new: turbohtml.Element) -> turbohtml.Element | None:
        if is_html(new, "html", "head", "body"):
            return next((node for node in elements_in(self._page) if node.tag == new.tag), None)
        return with_id(self._page, new.attr("id") or "")

    def _morph(self, target: turbohtml.Element, new: list[turbohtml.Node], *, inner: bool) -> None:
        is_page = any(is_html(node, "html", "head", "body") for node in new)
        copied, fields = morph(self._page, self._pantry, target, new, inner=inner)
        for field, names in fields:
            for name in names:
                self._take_value(field, name)
        # The browser runs scripts that come out of a template, and the client starts those in the target once more.
        if not is_page:
            for node in copied:
                self._run(_with_elements_in(node))
        self._start([target, *elements_in(target)])

    def _take_value(self, field: turbohtml.Element, name: str) -> None:
        """A new value in a form's element is new in the signal that the element is bound to."""
        present = _signals.get(self.signals, name)
        value = None if present is None else value_of(field, present)
        if value is not None:
            _signals.merge(self.signals, _signals.at_path(name, value))

    def _place(self, target: turbohtml.Element, new: list[turbohtml.Node], mode: str) -> None:
        if mode == "replace":
            target.insert_before(*new)
            target.extract()
        elif mode == "before":
            target.insert_before(*new)
        elif mode == "after":
            target.insert_after(*new)
        else:
            into: Any = content_of(target) if is_html(target, "template") else target
            first = into.children[0] if mode == "prepend" and len(into.children) else None
            for node in new:
                if first is None:
                    into.append(node)
                else:
                    first.insert_before(node)
        self._start(each for node in new for each in _with_elements_in(node))

    def _start(self, nodes: Iterable[turbohtml.Element]) -> None:
        new = [node for node in nodes if node.tag == "script" and node not in self._started]
        self._started.update(new)
        self._run(node for node in new if self._is_in_page(node))

    def _run(self, nodes: Iterable[turbohtml.Element]) -> None:
        for node in nodes:
            kind = (node.attr("type") or "").strip().lower()
            source = node.attr("src") or node.text
            if node.tag == "script" and kind in _JAVASCRIPT and source.strip():
                self.scripts.append(source)

    def _is_in_page(self, node: turbohtml.Node) -> bool:
        return any(each == self._page for each in node.ancestors)

    def _look(self) -> None:
        """Look at what is new in the page, as the client does when a patch is done: attributes set signals."""
        for _ in range(_MOST_ROUNDS):
            records = self._records()
            if not records:
                return
            for record in records:
                self._look_at(record)
        self.warnings.append(
            "Attributes of the page change it for ever, one what the other did: the browser would hang."
        )

    def _look_at(self, record: MutationRecord) -> None:
        for removed in record.removed_nodes:
            for node in _with_elements_in(removed):
                self._reactions.drop(node)
        for added in record.added_nodes:
            if isinstance(added, turbohtml.Element) and not is_in_template(added):
                self._found(added)
        target, name = record.target, record.attribute_name
        if name is not None and isinstance(target, turbohtml.Element):
            if name not in target.attrs:
                self._reactions.drop(target, name)
            self._set_by(target, name)

    def _records(self) -> list[MutationRecord]:
        """Return what has changed in the page, last of all so that it shows the signals as they are."""
        if records := self._observer.take_records():
            return records
        self._reactions.run()
        return self._observer.take_records()

    def _found(self, top: turbohtml.Element) -> None:
        self._start_attributes(top)
        # What the element does may have changed what is in it.
        for node in list(elements_in(top)):
            self._start_attributes(node)

    def _start_attributes(self, node: turbohtml.Element) -> None:
        for name in list(node.attrs):
            self._set_by(node, name)
        if removes_itself(node) and not is_ignored(node):
            node.extract()

    def _set_by(self, node: turbohtml.Element, attribute: str) -> None:
        if not attribute.startswith("data-") or attribute not in node.attrs or is_ignored(node):
            return
        if not self._reactions.add(node, attribute):
            self._warn(f"No JavaScript is run, so {attribute} of {Element(node)!r} does not follow the signals.")
        if attribute.startswith("data-bind") and is_nameless_radio(node):
            node.attrs["name"] = next(iter(bound_to(node)), "")
        patch = patch_of(self._page, node, attribute, self.signals)
        if patch.signals:
            _signals.merge(self.signals, patch.signals, only_if_missing=patch.only_if_missing)
            self._reactions.run()
        for expression in patch.expressions:
            self._warn(
                f"No JavaScript is run, so no signal is set by the expression {expression} in {Element(node)!r}."
            )

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)


def _with_elements_in(node: turbohtml.Node) -> list[turbohtml.Element]:
    return [*([node] if isinstance(node, turbohtml.Element) else []), *elements_in(node)]
