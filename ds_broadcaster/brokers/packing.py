"""Events, commands and users as bytes or text, as brokers store them; types survive."""

import json
import uuid
from typing import Any

from django.contrib.auth import get_user_model

from ..sse import PLAIN, Facts
from .base import Command


def encoded(channel: str) -> bytes:
    """Return a channel's name as bytes; any string may be one."""
    return channel.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """Undo encoded()."""
    return name.decode("utf-8", "surrogatepass")


def pack_event(payload: bytes, facts: Facts) -> bytes:
    """Return an encoded event and its facts as bytes: first a line of facts, which is empty for most events."""
    line = b"" if facts == PLAIN else json.dumps(_named(facts), separators=(",", ":")).encode()
    return line + b"\n" + payload


def unpack_event(packed: bytes) -> tuple[bytes, Facts]:
    """Undo pack_event()."""
    line, _, payload = packed.partition(b"\n")
    if not line:
        return payload, PLAIN
    named = json.loads(line)
    # Facts unknown here come from a newer process.
    return payload, Facts(**{name: named[name] for name in Facts._fields if name in named})


def _named(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts._asdict().items() if value != getattr(PLAIN, name)}


def pack_command(channel: str, command: Command) -> bytes:
    """Return a command on a channel as bytes."""
    return json.dumps([channel, command.verb, _plain(command.user_id)]).encode()


def unpack_command(text: bytes) -> tuple[str, Command]:
    """Undo pack_command()."""
    channel, verb, user = json.loads(text)
    return channel, Command(verb, _typed(user))


def pack_user(user: Any) -> str:
    """Return a user's id as text, the same text for equal ids."""
    return json.dumps(_plain(user))


def unpack_user(text: str | bytes) -> Any:
    """Undo pack_user()."""
    return _typed(json.loads(text))


def _plain(user: Any) -> Any:
    if user is None or isinstance(user, (int, str)):
        return user
    return {"uuid": str(user)} if isinstance(user, uuid.UUID) else {"pk": str(user)}


def _typed(user: Any) -> Any:
    if not isinstance(user, dict):
        return user
    return uuid.UUID(user["uuid"]) if "uuid" in user else get_user_model()._meta.pk.to_python(user["pk"])
