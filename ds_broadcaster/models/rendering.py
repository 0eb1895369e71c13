"""Rendering: the fragments and signals that a change of an object sends, encoded."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any

from django.db.models import Model
from django.utils import timezone, translation
from pydantic import BaseModel

from ..conf import get_settings
from ..ids import dom_id, dom_selector, single_line
from ..sse import encode_elements, encode_remove, encode_signals, split_fragment
from .options import LIST_MODES, MODES, Options, mode_error

# UPSERT: pages may or may not show the object, so send an update, then a create.
CREATED, UPDATED, DELETED, UPSERT = "created", "updated", "deleted", "saved"

# With its quotes, which text cannot have: Django escapes them.
_ELEMENT_ID = re.compile(r"""(?<![\w-])id=(["'])([^"']+)\1""")
_FIRST_ELEMENT = re.compile(r"\s*<[^>]*>")
_ID_SELECTOR = re.compile(r"#([\w-]+)")

Tell = Callable[[str], None]


class Told:
    """The elements that one transaction's events have sent, by face and channel.

    Hooks may render more than one object: the list that shows it, for example. They do so after the commit, so what
    they sent of another object is what its own change would send.
    """

    def __init__(self) -> None:
        self._ids: dict[tuple[Options, str], set[str]] = {}

    def news_for(self, options: Options, instance: Model, kind: str, channels: Sequence[str]) -> Sequence[str]:
        """Return the channels that were not told: neither of the object's element nor of the whole target."""
        if not self._ids:
            return channels
        ids = {_target_id(options, instance)}
        if kind is not DELETED:
            ids.add(dom_id(instance))
        return [name for name in channels if ids.isdisjoint(self._ids.get((options, name), ()))]

    def note(self, options: Options, instance: Model, channels: Sequence[str], html: str) -> None:
        """Note what an object's change sends to channels."""
        ids = {found[2] for found in _ELEMENT_ID.finditer(html)} - {dom_id(instance)}
        for name in channels if ids else ():
            self._ids.setdefault((options, name), set()).update(ids)


def render_change(
    options: Options, instance: Model, kind: str, context: Context | None, tell: Tell | None = None
) -> list[bytes]:
    """Return the encoded events of a change.

    `context` is the context of the save, if another one is current; `tell` is called with the HTML.
    """
    # All pages get the same, so the time zone of the user who saves does not count.
    with _default_time_zone(), _language_of(context):
        return list(_encode(options, instance, kind, tell))


def _default_time_zone() -> AbstractContextManager[Any]:
    # Few projects activate another one, and to replace it by itself takes 10 us.
    is_default = timezone.get_current_timezone() is timezone.get_default_timezone()
    return nullcontext() if is_default else timezone.override(None)


def _language_of(context: Context | None) -> AbstractContextManager[Any]:
    language = get_settings().language
    if language is None:
        if context is None:
            return nullcontext()
        language = context.run(translation.get_language)
    return translation.override(language)


def _encode(options: Options, instance: Model, kind: str, tell: Tell | None) -> Iterator[bytes]:
    is_shown = kind is DELETED or options.shown is None or options.shown(instance)
    is_removed = not is_shown
    if is_removed:
        yield encode_remove(dom_selector(instance))
    for hook in ("updated", "created") if kind is UPSERT else (kind,):
        # The signals of a hook of the project's own are sent also while the object is not shown.
        html, signals = _parts(options, hook, instance) if is_shown or not options.renders(hook) else (None, None)
        if is_shown and html is not None:
            if tell is not None:
                tell(html)
            if html.strip():
                yield from _encode_elements(options, instance, hook, html, may_appear=kind is UPDATED)
            elif not is_removed:
                is_removed = True
                yield encode_remove(dom_selector(instance))
        if signals is not None:
            yield encode_signals(signals)


def _encode_elements(options: Options, instance: Model, hook: str, html: str, *, may_appear: bool) -> Iterator[bytes]:
    # A list that shows some objects may not have shown a changed one yet.
    is_placed = hook == "created" or (may_appear and options.shown is not None)
    target = options.target(instance) if is_placed else None
    if target is None or _is_target(html, target):
        yield encode_elements(html)
        return
    if hook != "created":
        yield encode_elements(html)
    yield _place(options, instance, html, target)


def _place(options: Options, instance: Model, html: str, target: str) -> bytes:
    mode = options.mode(instance)
    if mode not in MODES:
        raise ValueError(mode_error(options.name_of("mode"), mode))
    placed = encode_elements(html, guarded(target, mode, instance), mode)
    if options.limit is None or mode not in LIST_MODES:
        return placed
    # One event, of two steps for the client: the list is never seen without its limit.
    return placed + encode_remove(over_limit(target, mode, options.limit))


def over_limit(target: str, mode: str, limit: int) -> str:
    """Return the selector of what a list holds over its limit, at the other end than the one that it grows at."""
    nth = "nth-last-child" if mode == "append" else "nth-child"
    return f"{_one(target)} > :{nth}(n+{limit + 1})"


def guarded(target: str, mode: str, instance: Model) -> str:
    """Return the selector that finds the target only while the page does not show the object's element.

    Without it, pages that were rendered after the save, and replays, would show the object twice.
    """
    element = dom_selector(instance)
    if mode in ("append", "prepend"):
        guard = f":not(:has({element}))"
    elif mode in ("before", "after"):
        guard = f":not({element}, {element} ~ *, :has(~ {element}))"
    else:
        return _text(target)
    return _one(target) + guard


def _text(target: str) -> str:
    return single_line("target", target).strip()


def _one(target: str) -> str:
    """Return the selector of a target as one that may be continued."""
    text = _text(target)
    return f":is({text})" if "," in text else text


def _target_id(options: Options, instance: Model) -> str | None:
    target = options.target(instance)
    found = None if target is None else _ID_SELECTOR.fullmatch(_text(target))
    return None if found is None else found[1]


def _is_target(html: str, target: str) -> bool:
    """Tell whether HTML is the target itself, to be replaced as a whole, and not what goes there."""
    name = _text(target).removeprefix("#")
    if name not in html:  # Nearly always.
        return False
    first = _FIRST_ELEMENT.match(html)
    ids = None if first is None else _ELEMENT_ID.search(first[0])
    return ids is not None and ids[2] == name and target != name


def _parts(options: Options, hook: str, instance: Model) -> tuple[str | None, Mapping[str, Any] | BaseModel | None]:
    fragment = getattr(options, hook)(instance)
    return (fragment, None) if isinstance(fragment, str) else split_fragment(fragment, f"{options.name_of(hook)}()")
