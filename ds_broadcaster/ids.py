"""The names of events, channels and elements.

An event id is `<epoch>-<sequence>`. The sequence counts all events of a broker over all channels, so that one cursor
serves a stream of many channels. The epoch tells one life of a broker from the next: after a restart the sequence
begins again, and a cursor of the old epoch must not be mistaken for one of the new.
"""

import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,18})", re.ASCII)
# Characters of a primary key that an id cannot have, and an underscore that would look like our escape.
_NOT_IN_IDS = re.compile(r"[^0-9A-Za-z_-]|_(?=[0-9a-f]+(?:_|[^0-9A-Za-z-]))", re.ASCII)
# Channels of the package itself begin so.
RESERVED = "ds_broadcaster."

_LINE_BREAKERS = re.compile("[\r\n\0]")


def new_epoch() -> str:
    """Return the name of a new epoch."""
    return secrets.token_hex(5)


def format_id(epoch: str, sequence: int) -> str:
    """Return the id of the event at `sequence`."""
    return f"{epoch}-{sequence}"


def parse_id(text: str) -> tuple[str, int] | None:
    """Return (epoch, sequence), or None for text that format_id() did not write."""
    match = _ID.fullmatch(plain(text))
    return (match[1], int(match[2])) if match else None


def plain(text: str) -> str:
    """Return a string of exactly the type `str`: a subclass may tell something else than what was checked.

    The string of an enumeration's member is its value.
    """
    # A lazy object says that it is a string, and is not.
    return str.__str__(text if issubclass(type(text), str) else str(text))


def single_line(argument: str, value: object) -> str:
    """Return `value` as a plain string that is safe inside one line of an SSE event.

    Raises ValueError for a line break or NUL, which could forge further lines, and TypeError for anything but a string.
    Both name the `argument`.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {type(value).__name__} ({value!r}).")
    text = plain(value)
    if _LINE_BREAKERS.search(text):
        raise ValueError(f"{argument} must not hold a line break or NUL, got {text!r}.")
    return text


def channel_name(channel: Any) -> str:
    """Return the name of a channel, given as a string or as a saved model instance.

    An instance stands for `<app_label>.<model_name>-<pk>`. Raises TypeError for other types and ValueError for empty
    and reserved names, line breaks, and instances that have no primary key yet.
    """
    if type(channel) is str:
        return _checked_name(channel)
    meta = getattr(channel, "_meta", None)
    if meta is not None and not isinstance(channel, type):
        if not has_key(channel):
            raise ValueError(f"{channel!r} has no primary key yet: save it before it names a channel.")
        channel = f"{meta.app_label}.{meta.model_name}-{key_of(channel)}"
    if not isinstance(channel, str):
        raise TypeError(
            f"channel must be a string or a saved model instance, not {type(channel).__name__} ({channel!r})."
        )
    return _checked_name(plain(channel))


# The same channels are sent to again and again.
@lru_cache(maxsize=1024)
def _checked_name(channel: str) -> str:
    name = single_line("channel", channel)
    if not name:
        raise ValueError("channel must not be empty.")
    if name.startswith(RESERVED):
        raise ValueError(
            f'channel must not begin with "{RESERVED}", which is reserved for the inspector, got {name!r}.'
        )
    return name


def listed(names: Iterable[str]) -> str:
    """Return names for a line of the log: a line break in one of them must not begin another line."""
    return ", ".join(map(repr, names))


def has_key(instance: Any) -> bool:
    """Tell whether an instance has a primary key; a composite one with all its parts."""
    return not (instance.pk is None or (isinstance(instance.pk, tuple) and None in instance.pk))


def key_of(instance: Any) -> Any:
    """Return the key as the database gives it back: a key given as text may be written differently."""
    key, field = instance.pk, instance._meta.pk
    try:
        if isinstance(key, tuple):
            return tuple(_as_text(each.to_python(part)) for each, part in zip(field.fields, key, strict=True))
        return _as_text(field.to_python(key))
    except Exception:
        return _as_text(key)  # No key of this model: a look-up finds nothing.


def _as_text(key: Any) -> Any:
    return plain(key) if isinstance(key, str) else key


def channel_names(channels: Any) -> tuple[str, ...]:
    """Return the names of one channel, or of a list or tuple of them, each once and in order."""
    several = channels if isinstance(channels, (list, tuple)) else [channels]
    names = tuple(dict.fromkeys(channel_name(each) for each in several))
    if not names:
        raise ValueError("channel must name at least one channel, got an empty list.")
    return names


def dom_id(instance: Any) -> str:
    """Return the id of the element that shows a model instance: `<app_label>-<model_name>-<pk>`.

    >>> dom_id(message)
    'chat-message-7'

    It needs no escaping, neither in an `id` attribute nor after a `#`: other characters are written as their code
    between underscores. A proxy has the element of its model. Raises ValueError for an instance that is not saved yet
    and TypeError for anything else.
    """
    meta = getattr(instance, "_meta", None)
    if meta is None or isinstance(instance, type):
        raise TypeError(f"dom_id needs a model instance, not {type(instance).__name__} ({instance!r}).")
    if not has_key(instance):
        raise ValueError(f"{instance!r} has no primary key yet: save it before it has an id.")
    meta = meta.concrete_model._meta
    pk = _NOT_IN_IDS.sub(lambda found: f"_{ord(found[0]):x}_", str(key_of(instance)))
    return f"{meta.app_label}-{meta.model_name}-{pk}"


def dom_selector(instance: Any) -> str:
    """Return the selector of the element that shows a model instance: `#` and its dom_id().

    >>> broadcast.remove(message.room, dom_selector(message))
    """
    return f"#{dom_id(instance)}"
