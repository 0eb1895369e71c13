"""Rendering: the fragments and signals that a change of an object sends, encoded."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any, NamedTuple

from django.db.models import Model
from django.utils import timezone, translation
from pydantic import BaseModel

from ..conf import get_settings
from ..ids import dom_id, dom_selector, single_line
from ..observers import render_observed
from ..sse import Mode, encode_elements, encode_remove, encode_signals, split_fragment
from ..streams.audiences import pack_template
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

    Hooks may render more than their object: the list that shows it, for example. They do so after the commit, so what
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
        own = dom_id(instance)
        if own in html[: html.find(">")]:
            return  # The object's own element: pages may show another one without it.
        ids = {found[2] for found in _ELEMENT_ID.finditer(html)} - {own}
        for name in channels if ids else ():
            self._ids.setdefault((options, name), set()).update(ids)


class Payload(NamedTuple):
    """An encoded event; a template for each audience if `is_audience`."""

    data: bytes
    is_audience: bool = False


def render_change(
    options: Options, instance: Model, kind: str, context: Context | None, tell: Tell | None = None
) -> list[Payload]:
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


def _encode(options: Options, instance: Model, kind: str, tell: Tell | None) -> Iterator[Payload]:
    is_shown = kind is DELETED or options.shown is None or options.shown(instance)
    is_removed = not is_shown
    if is_removed:
        yield Payload(encode_remove(dom_selector(instance)))
    for hook in ("updated", "created") if kind is UPSERT else (kind,):
        is_template = options.audience and kind is not DELETED and options.renders(hook)
        if is_template and is_shown:
            yield from _encode_elements(options, instance, hook, None, may_appear=kind is UPDATED)
        # The signals of a hook of the project's own are sent also while the object is not shown.
        if is_template or (not is_shown and options.renders(hook)):
            continue
        html, signals = _parts(options, hook, instance)
        if is_shown and html is not None:
            if tell is not None:
                tell(html)
            if html.strip():
                yield from _encode_elements(options, instance, hook, html, may_appear=kind is UPDATED)
            elif not is_removed:
                is_removed = True
                yield Payload(encode_remove(dom_selector(instance)))
        if signals is not None:
            yield Payload(encode_signals(signals))


def _encode_elements(
    options: Options, instance: Model, hook: str, html: str | None, *, may_appear: bool
) -> Iterator[Payload]:
    """Encode what a hook returned; without it, the template for each audience."""
    # A list that shows some objects may not have shown a changed one yet.
    is_placed = hook == "created" or (may_appear and options.shown is not None)
    target = options.target(instance) if is_placed else None
    if target is None or (html is not None and _is_target(html, target)):
        yield _patch(options, instance, html)
        return
    if hook != "created":
        yield _patch(options, instance, html)
    mode: Any = options.mode(instance)
    if mode not in MODES:
        raise ValueError(mode_error(options.name_of("mode"), mode))
    placed = _patch(options, instance, html, guarded(target, mode, instance), mode)
    if options.limit is None or mode not in LIST_MODES:
        yield placed
        return
    surplus = encode_remove(over_limit(target, mode, options.limit))
    if placed.is_audience:
        yield from (placed, Payload(surplus))
    else:
        # One event, of two steps for the client: the list is never seen without its limit.
        yield Payload(placed.data + surplus)


def _patch(
    options: Options, instance: Model, html: str | None, selector: str | None = None, mode: Mode | None = None
) -> Payload:
    if html is not None:
        return Payload(encode_elements(html, selector, mode))
    names, context = options.template_names(instance), options.context(instance)
    return Payload(pack_template(names, context, selector, mode, or_remove=dom_selector(instance)), is_audience=True)


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
    name = f"{type(instance).__name__}.{options.name_of(hook)}()"
    if not options.is_attributes and hook != DELETED and options.renders(hook):
        name = ", ".join(options.template_names(instance))
    fragment = render_observed(name, getattr(options, hook), instance)
    return (fragment, None) if isinstance(fragment, str) else split_fragment(fragment, f"{options.name_of(hook)}()")
