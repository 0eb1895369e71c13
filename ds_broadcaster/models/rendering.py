"""What a change says: the fragments that a model's rules give for it, encoded."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any

from django.db.models import Model
from django.utils import timezone, translation
from pydantic import BaseModel

from ..conf import get_settings
from ..ids import dom_id
from ..sse import encode_elements, encode_remove, encode_signals
from .options import MODES, Rules, guarded

# EITHER is for an object of which nobody knows whether pages show it: it is sent as changed, then as created.
CREATED, UPDATED, DELETED, EITHER = "created", "updated", "deleted", "saved"


def payloads_of(rules: Rules, instance: Model, kind: str, context: Context | None) -> list[bytes]:
    """Return the events that tell of a change; `context` is that of the save, where it has ended meanwhile."""
    # Everybody gets the same, so nothing in it is as the one who saved would like to see it.
    with _default_time(), _speaking(context):
        return list(_encode(rules, instance, kind))


def _default_time() -> AbstractContextManager[Any]:
    # Nearly nobody has activated another one, and to put the same in its place takes 10 us.
    is_default = timezone.get_current_timezone() is timezone.get_default_timezone()
    return nullcontext() if is_default else timezone.override(None)


def _speaking(context: Context | None) -> AbstractContextManager[Any]:
    language = get_settings().language
    if language is None:
        if context is None:
            return nullcontext()
        language = context.run(translation.get_language)
    return translation.override(language)


def _encode(rules: Rules, instance: Model, kind: str) -> Iterator[bytes]:
    if kind is DELETED:
        html, signals = _parts(rules, "deleted", rules.deleted(instance))
        if html is not None:
            yield encode_elements(html) if html.strip() else encode_remove(f"#{dom_id(instance)}")
        if signals is not None:
            yield encode_signals(signals)
    if kind in (UPDATED, EITHER):
        html, signals = _parts(rules, "updated", rules.updated(instance))
        if html and html.strip():
            yield encode_elements(html)
        if signals is not None:
            yield encode_signals(signals)
    if kind in (CREATED, EITHER):
        html, signals = _parts(rules, "created", rules.created(instance))
        if html and html.strip():
            yield _encode_created(rules, instance, html)
        if signals is not None:
            yield encode_signals(signals)


def _encode_created(rules: Rules, instance: Model, html: str) -> bytes:
    target = rules.target(instance)
    if target is None:
        return encode_elements(html)
    mode = rules.mode(instance)
    if mode not in MODES:
        raise ValueError(f"{rules.prefix}mode must be one of {', '.join(MODES)}, got {mode!r}.")
    return encode_elements(html, guarded(target, mode, instance), mode)


def _parts(rules: Rules, hook: str, fragment: Any) -> tuple[str | None, Mapping[str, Any] | BaseModel | None]:
    if isinstance(fragment, (Mapping, BaseModel)):
        return None, fragment
    if isinstance(fragment, tuple) and len(fragment) == 2:
        return fragment
    if fragment is None or isinstance(fragment, str):
        return fragment, None
    if hasattr(fragment, "__html__"):
        return str(fragment.__html__()), None
    raise TypeError(
        f"{rules.prefix}{hook}() must return HTML, a dict of signals, a tuple of both, or None, "
        f"not {type(fragment).__name__}."
    )
