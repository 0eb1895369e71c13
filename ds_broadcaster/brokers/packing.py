"""Events, commands and users as bytes or text, as brokers store them; types survive.

What is unpacked may come from another program: each function that undoes another one raises ValueError for what that
one does not return, and nothing else.
"""

import json
import uuid
from functools import lru_cache
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from ..present import UserPart
from ..sse import PLAIN, Facts
from .base import Command

_dumped = json.JSONEncoder().encode

_VERBS = {"disconnect", "kill", "recheck", "review"}


def encoded(channel: str) -> bytes:
    """Return a channel's name as bytes; any string may be one."""
    return channel.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """Undo encoded()."""
    return name.decode("utf-8", "surrogatepass")


def pack_event(payload: bytes, facts: Facts) -> bytes:
    """Return an encoded event and its facts as bytes: first a line of facts, which is empty for most events."""
    return _line_of(facts) + b"\n" + payload


def unpack_event(packed: bytes) -> tuple[bytes, Facts]:
    """Undo pack_event()."""
    line, end, payload = packed.partition(b"\n")
    if not end:
        raise ValueError("The event has no line of facts.")
    return payload, _facts_in(line)


def _line_of(facts: Facts) -> bytes:
    if facts == PLAIN:
        return b""
    described = zip(Facts._fields, facts, PLAIN, strict=True)
    named = [f'"{name}":{_dumped(value)}' for name, value, usual in described if value != usual]
    return f"{{{','.join(named)}}}".encode()


@lru_cache(maxsize=1024)
def _facts_in(line: bytes) -> Facts:
    if not line:
        return PLAIN
    named = _loaded(line)
    if not isinstance(named, dict) or not all(
        isinstance(named[name], str if default is None else bool)
        for name, default in Facts._field_defaults.items()
        if name in named
    ):
        raise ValueError("The event's line of facts is wrong.")
    # Facts unknown here come from a newer process.
    return Facts(**{name: named[name] for name in Facts._fields if name in named})


def pack_command(channel: str, command: Command) -> bytes:
    """Return a command on a channel as bytes."""
    return json.dumps([channel, command.verb, _plain(command.user_id)]).encode()


def unpack_command(text: bytes) -> tuple[str, Command]:
    """Undo pack_command()."""
    parts = _loaded(text)
    if not isinstance(parts, list) or len(parts) != 3:
        raise ValueError("A command is a channel, a verb and a user.")
    channel, verb, user = parts
    if not isinstance(channel, str) or not isinstance(verb, str) or verb not in _VERBS:
        raise ValueError("The command's channel or verb is wrong.")
    return channel, Command(verb, None if user is None else _typed(user))


def pack_user(user: Any) -> str:
    """Return a user's id as text, the same text for equal ids."""
    return json.dumps(_plain(user))


def unpack_user(text: str | bytes) -> Any:
    """Undo pack_user()."""
    return _typed(_loaded(text))


def pack_tabs(part: UserPart) -> str:
    """Return the tabs and the metadata of a process's part of a user as text."""
    return json.dumps([part.open, part.hidden, part.others, part.meta], separators=(",", ":"))


def unpack_part(user: str | bytes, since: float, is_away: bool, tabs: str | bytes) -> UserPart:
    """Undo pack_user() and pack_tabs(); return both with the rest of a part."""
    match _loaded(tabs):
        case [list(shown), list(hidden), int(others), dict(meta)] if all(
            isinstance(mark, str) for mark in (*shown, *hidden)
        ) and all(map(_is_dated, meta.values())):
            named = {name: (at, value) for name, (at, value) in meta.items()}
            return UserPart(unpack_user(user), since, is_away, tuple(shown), tuple(hidden), others, named)
    raise ValueError("The tabs of a user are wrong.")


def _is_dated(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], int | float)


def pack_tab(user: Any, tab: str) -> str:
    """Return a user's tab as text."""
    return json.dumps([_plain(user), tab])


def unpack_tab(text: str | bytes) -> tuple[Any, str]:
    """Undo pack_tab()."""
    match _loaded(text):
        case [user, str(tab)]:
            return _typed(user), tab
    raise ValueError("It is no tab of a user.")


def _plain(user: Any) -> Any:
    if user is None or isinstance(user, (int, str)):
        return user
    return {"uuid": str(user)} if isinstance(user, uuid.UUID) else {"pk": str(user)}


def _typed(user: Any) -> Any:
    if isinstance(user, (int, str)) and not isinstance(user, bool):
        return user
    match user:
        case {"uuid": str(text)}:
            return uuid.UUID(text)
        case {"pk": str(text)}:
            try:
                return get_user_model()._meta.pk.to_python(text)
            except ValidationError as error:
                raise ValueError("The user's id is none of the user model's.") from error
    raise ValueError("The user's id is wrong.")


def _loaded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("It is nested too deeply.") from error
