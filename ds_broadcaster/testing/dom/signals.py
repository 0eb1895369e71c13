"""Signals, as the Datastar client keeps them: a tree of values."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# What the client keeps to itself: names that begin with an underscore, at any depth.
_OWN = re.compile(r"(^|\.)_")


def merge(into: dict[str, Any] | list[Any], patch: Mapping[str, Any], only_if_missing: bool = False) -> None:
    """Merge a patch into signals as RFC 7386 says: objects are merged, null deletes, anything else replaces.

    With `only_if_missing`, what is there stays. In a list, the names are numbers of items.
    """
    for name, value in patch.items():
        if isinstance(into, list):
            _merge_item(into, name, value, only_if_missing)
        elif value is None:
            if not only_if_missing:
                into.pop(name, None)
        elif isinstance(value, Mapping):
            if not isinstance(into.get(name), dict | list):
                into[name] = {}
            merge(into[name], value, only_if_missing)
        elif not only_if_missing or name not in into:
            into[name] = _without_null(value)


def at_path(path: str, value: Any) -> dict[str, Any]:
    """Return a patch for one signal: "a.b" is the signal `b` in the object `a`."""
    *objects, name = path.split(".")
    patch: dict[str, Any] = {name: value}
    for each in reversed(objects):
        patch = {each: patch}
    return patch


def get(signals: Mapping[str, Any], path: str) -> Any:
    """Return the value of one signal, None where there is none."""
    value: Any = signals
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def sent(signals: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the client sends with a request: all signals but those whose names begin with an underscore.

    Objects in which nothing is left are not sent either.
    """
    patch: dict[str, Any] = {}
    for path, value in _leaves(signals, ""):
        if not _OWN.search(path):
            merge(patch, at_path(path, value))
    return patch


def _leaves(signals: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in signals.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _merge_item(into: list[Any], name: str, value: Any, only_if_missing: bool) -> None:
    """A name that is no number changes nothing in a list."""
    if not name.isdecimal() or (only_if_missing and (value is None or int(name) < len(into))):
        return
    into.extend([""] * (int(name) + 1 - len(into)))
    into[int(name)] = _without_null(value)


def _without_null(value: Any) -> Any:
    """Null in a list or in its objects deletes nothing: it is "" for all that read it."""
    if isinstance(value, list | tuple):
        return [_without_null(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _without_null(each) for name, each in value.items()}
    return "" if value is None else value
