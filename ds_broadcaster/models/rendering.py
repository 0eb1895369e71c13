"""Rendering: the fragments and signals that a change of an object sends, encoded."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any

from django.db.models import Model
from django.utils import timezone, translation
from pydantic import BaseModel

from ..conf import get_settings
from ..ids import dom_id, single_line
from ..sse import encode_elements, encode_remove, encode_signals, split_fragment
from .options import MODES, Options, mode_error

# UPSERT: pages may or may not show the object, so send an update, then a create.
CREATED, UPDATED, DELETED, UPSERT = "created", "updated", "deleted", "saved"


def render_change(options: Options, instance: Model, kind: str, context: Context | None) -> list[bytes]:
    """Return the encoded events of a change; `context` is the context of the save, if another one is current."""
    # All pages get the same, so the time zone of the user who saves does not count.
    with _default_time_zone(), _language_of(context):
        return list(_encode(options, instance, kind))


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


def _encode(options: Options, instance: Model, kind: str) -> Iterator[bytes]:
    if kind is DELETED:
        html, signals = _parts(options, "deleted", instance)
        if html is not None:
            yield encode_elements(html) if html.strip() else encode_remove(f"#{dom_id(instance)}")
        if signals is not None:
            yield encode_signals(signals)
    if kind in (UPDATED, UPSERT):
        html, signals = _parts(options, "updated", instance)
        if html and html.strip():
            yield encode_elements(html)
        if signals is not None:
            yield encode_signals(signals)
    if kind in (CREATED, UPSERT):
        html, signals = _parts(options, "created", instance)
        if html and html.strip():
            yield _encode_created(options, instance, html)
        if signals is not None:
            yield encode_signals(signals)


def _encode_created(options: Options, instance: Model, html: str) -> bytes:
    target = options.target(instance)
    if target is None:
        return encode_elements(html)
    mode = options.mode(instance)
    if mode not in MODES:
        raise ValueError(mode_error(options.name_of("mode"), mode))
    return encode_elements(html, guarded(target, mode, instance), mode)


def guarded(target: str, mode: str, instance: Model) -> str:
    """Return the selector that finds the target only while the page does not show the object's element.

    Without it, pages that were rendered after the save, and replays, would show the object twice.
    """
    target = single_line("target", target).strip()
    element = f"#{dom_id(instance)}"
    if mode in ("append", "prepend"):
        guard = f":not(:has({element}))"
    elif mode in ("before", "after"):
        guard = f":not({element}, {element} ~ *, :has(~ {element}))"
    else:
        return target
    return (f":is({target})" if "," in target else target) + guard


def _parts(options: Options, hook: str, instance: Model) -> tuple[str | None, Mapping[str, Any] | BaseModel | None]:
    fragment = getattr(options, hook)(instance)
    return (fragment, None) if isinstance(fragment, str) else split_fragment(fragment, f"{options.name_of(hook)}()")
