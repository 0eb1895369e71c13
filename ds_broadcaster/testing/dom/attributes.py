"""Signals that the attributes of a page set: `data-signals`, `data-bind` and `data-indicator`."""

import copy
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import turbohtml

from .elements import elements_in
from .expressions import UNDEFINED, Failed, compiled
from .literals import read_literal
from .signals import at_path, get

# Elements of ours that run once, and do nothing but this with the page.
_REMOVES_ITSELF = re.compile(r"\s*el\.remove\(\)\s*(;|$)")


class Patch(NamedTuple):
    """What an attribute changes in the signals, and the expressions in it, which are not run."""

    signals: Mapping[str, Any] = MappingProxyType({})
    only_if_missing: bool = False
    expressions: Sequence[str] = ()


NOTHING = Patch()


def is_ignored(node: turbohtml.Element) -> bool:
    """Tell whether the client leaves the attributes of an element alone."""
    return "data-ignore__self" in node.attrs or node.closest("[data-ignore]") is not None


def is_nameless_radio(node: turbohtml.Element) -> bool:
    """Tell whether the client names a field after the signal that it is bound to."""
    return _type_of(node) == "radio" and not node.attr("name")


def removes_itself(node: turbohtml.Element) -> bool:
    """Tell whether an element is gone once the client has seen it, as that of a script is."""
    return any(_REMOVES_ITSELF.match(node.attr(name) or "") for name in ("data-effect", "data-init"))


def patch_of(page: turbohtml.Node, node: turbohtml.Element, attribute: str, signals: Mapping[str, Any]) -> Patch:
    """Return what one attribute of an element does to the signals that there are."""
    plugin, key, modifiers = parts_of(attribute)
    value = node.attr(attribute) or ""
    if plugin == "signals":
        return _of_signals(key, modifiers, value, signals)
    if plugin == "indicator":
        name = in_case(key, modifiers) if key else value
        return Patch(at_path(name, False)) if name else NOTHING
    if plugin == "bind":
        name = in_case(key, modifiers) if key else value
        return _of_bound(page, node, attribute, name, get(signals, name)) if name else NOTHING
    if plugin == "computed" and (not key or compiled(value) is None):
        return Patch(expressions=[f"{attribute}: {value}"])
    return NOTHING


def bound_to(node: turbohtml.Element) -> list[str]:
    """Return the names of the signals that an element is bound to."""
    parts = [(parts_of(name), node.attr(name) or "") for name in node.attrs if name.startswith("data-bind")]
    return [in_case(key, modifiers) if key else value for (_, key, modifiers), value in parts if key or value]


def value_of(node: turbohtml.Element, present: Any = None) -> Any:
    """Return the value of a form's element as its page has it, in the type of the present one; None if it has none."""
    kind = _type_of(node)
    value = node.attr("value")
    if kind == "checkbox":
        checked = "checked" in node.attrs
        as_text = isinstance(present, str) or (value not in (None, "on") and not isinstance(present, bool))
        return ("on" if value is None else value) * checked if as_text else checked
    if kind == "file" or (kind == "radio" and "checked" not in node.attrs):
        return None
    if kind == "radio":
        value = "on" if value is None else value
        return value if not isinstance(present, int | float) else _number(value)
    if node.tag == "textarea":
        return node.field_value
    if node.tag == "select":
        value = node.field_value if isinstance(node.field_value, str) else ""
        if "multiple" in node.attrs:
            return node.field_value
    elif kind:
        value = value or ""
    if kind in ("number", "range"):
        number = _number(value)
        if not value or number is None:
            number, value = (50, "50") if kind == "range" else (0, "")
        return value if isinstance(present, str) else number
    if value is None or present is None or isinstance(present, str) or not (kind or node.tag == "select"):
        return value
    return _number(value)


def parts_of(attribute: str) -> tuple[str, str, dict[str, list[str]]]:
    """Return the plugin, the key and the modifiers that an attribute names."""
    name, *modifiers = attribute.removeprefix("data-").split("__")
    plugin, _, key = name.partition(":")
    return plugin, key, {each.split(".")[0]: each.split(".")[1:] for each in modifiers}


def _of_signals(key: str, modifiers: Mapping[str, list[str]], text: str, signals: Mapping[str, Any]) -> Patch:
    value, expressions = read_literal(text) if text.strip() else (None, [])
    if expressions and (expression := compiled(text)) is not None:
        try:
            value, expressions = expression(copy.deepcopy(dict(signals))), []
        except Failed:
            return NOTHING
    only_if_missing = "ifmissing" in modifiers
    if value is None and expressions:
        return Patch(expressions=expressions)
    if key:
        return Patch(
            at_path(in_case(key, modifiers), None if value is UNDEFINED else value), only_if_missing, expressions
        )
    return Patch(value if isinstance(value, dict) else {}, only_if_missing, expressions)


def in_case(name: str, modifiers: Mapping[str, list[str]], usual: str = "camel") -> str:
    """Return the name of a signal: attributes have no capitals, so `data-bind:first-name` is `firstName`."""
    for case in modifiers.get("case") or [usual]:
        if case in ("camel", "pascal"):
            name = re.sub(r"-([a-z])", lambda found: found[1].upper(), name)
        if case == "pascal":
            name = name[:1].upper() + name[1:]
        if case == "snake":
            name = name.replace("-", "_")
    return name


def _of_bound(page: turbohtml.Node, node: turbohtml.Element, attribute: str, name: str, present: Any) -> Patch:
    """An element gives its value to the signal that it is bound to, if there is none; in a list, each has an item."""
    is_multiple = node.tag == "select" and "multiple" in node.attrs
    if present is not None and (is_multiple or not isinstance(present, list)):
        return NOTHING
    group = [each for each in elements_in(page) if each.attr(attribute) == node.attr(attribute)]
    if present is not None:
        missing = group[len(present) : group.index(node) + 1]
        return Patch(at_path(name, [*present, *map(value_of, missing)])) if missing else NOTHING
    if _type_of(node) == "radio":
        node = next((each for each in group if _type_of(each) == "radio" and "checked" in each.attrs), node)
    value = value_of(node)
    return NOTHING if value is None else Patch(at_path(name, value), only_if_missing=True)


def _type_of(node: turbohtml.Element) -> str:
    return (node.attr("type") or "text").lower() if node.tag == "input" else ""


def _number(value: str | None) -> float | None:
    """Return the number that JavaScript makes of a text, None in place of NaN."""
    try:
        number = float(value or 0)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number
