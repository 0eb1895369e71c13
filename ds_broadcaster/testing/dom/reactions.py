"""What follows from the signals in a page: `data-text`, `data-show`, `data-class`, `data-attr` and `data-computed`."""

import json
from collections.abc import Callable
from typing import Any

import turbohtml

from .attributes import in_case, parts_of
from .expressions import UNDEFINED, Failed, as_text, compiled, is_true
from .signals import at_path, get, merge

# Computed signals of computed signals, at most so many in a row.
_DEEPEST = 10


class Reactions:
    """The attributes of a page whose elements follow the signals, and the classes that they gave to their elements."""

    def __init__(self, signals: dict[str, Any]) -> None:
        self._signals = signals
        self._classes: dict[tuple[turbohtml.Element, str], list[str]] = {}

    def add(self, node: turbohtml.Element, attribute: str) -> bool:
        """Follow the signals with an attribute, if it is of that kind; tell whether its expression can be read."""
        if parts_of(attribute)[0] not in _REACTIONS:
            return True
        self._classes.setdefault((node, attribute), [])
        self._run(node, attribute)
        return compiled(node.attr(attribute) or "") is not None

    def drop(self, node: turbohtml.Element, attribute: str | None = None) -> None:
        """Follow them no longer, with an attribute or with all of an element. Computed signals go on."""
        for key in [each for each in self._classes if each[0] == node and attribute in (None, each[1])]:
            if parts_of(key[1])[0] != "computed":
                for names in self._classes.pop(key):
                    _class(node, names, False)

    def run(self) -> None:
        """Have all elements show the signals as they are."""
        for _ in range(_DEEPEST):
            changed = [each for each in self._classes if self._run(*each)]
            if not changed:
                break

    def _run(self, node: turbohtml.Element, attribute: str) -> bool:
        """Have an element show the signals as they are; tell whether a signal has changed by it."""
        plugin, key, modifiers = parts_of(attribute)
        expression = compiled(node.attr(attribute) or "")
        if expression is None:
            return False
        try:
            value = expression(self._signals)
            if plugin == "computed":
                return self._compute(in_case(key, modifiers), value)
            values = {in_case(key, modifiers, "kebab"): value}
            if not key and plugin in ("class", "attr"):
                values = value if isinstance(value, dict) else {}
            for name, each in values.items():
                _REACTIONS[plugin](node, name, each)
            if plugin == "class":
                self._classes[node, attribute] = [*values]
        except Failed:
            pass
        return False

    def _compute(self, name: str, value: Any) -> bool:
        # An object may hold the signal itself.
        if not name or value is UNDEFINED or isinstance(value, dict) or get(self._signals, name) == value:
            return False
        merge(self._signals, at_path(name, value))
        return True


def _text(node: turbohtml.Element, _: str, value: Any) -> None:
    text = as_text(value)
    children = list(node.children)
    if [each.data if isinstance(each, turbohtml.Text) else None for each in children] != [text][: len(text)]:
        for child in children:
            child.extract()
        if text:
            node.append(turbohtml.Text(text))


def _show(node: turbohtml.Element, _: str, value: Any) -> None:
    lines = [each.partition(":") for each in (node.attr("style") or "").split(";") if each.strip()]
    style = {name.strip().lower(): text.strip() for name, _, text in lines}
    if is_true(value):
        if style.pop("display", None) != "none":
            return
    else:
        style["display"] = "none"
    _set(node, "style", " ".join(f"{name}: {text};" for name, text in style.items()))


def _class(node: turbohtml.Element, names: str, value: Any) -> None:
    before = dict.fromkeys((node.attr("class") or "").split())
    after = dict(before)
    for name in names.split():
        if is_true(value):
            after[name] = None
        else:
            after.pop(name, None)
    if after != before:
        _set(node, "class", " ".join(after))


def _attribute(node: turbohtml.Element, name: str, value: Any) -> None:
    if not name:
        raise Failed
    if value is False or value is None or value is UNDEFINED:
        if name in node.attrs:
            del node.attrs[name]
    elif value is True:
        _set(node, name, "")
    else:
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        _set(node, name, "null" if value != value else text)  # NaN has no JSON.


def _set(node: turbohtml.Element, name: str, value: str) -> None:
    if node.attr(name) != value:
        node.attrs[name] = value


_REACTIONS: dict[str, Callable[[turbohtml.Element, str, Any], None]] = {
    "text": _text,
    "show": _show,
    "class": _class,
    "attr": _attribute,
    "computed": lambda node, name, value: None,
}
