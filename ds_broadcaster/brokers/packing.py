"""Events, commands and users as bytes or text: what brokers write down, with the types that must come back."""

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
    """Return the channel that encoded() was given."""
    return name.decode("utf-8", "surrogatepass")


def pack_event(payload: bytes, facts: Facts) -> bytes:
    """Return an encoded event and its facts as bytes: a line of facts, empty for most, before the event."""
    line = b"" if facts == PLAIN else json.dumps(_told(facts), separators=(",", ":")).encode()
    return line + b"\n" + payload


def unpack_event(packed: bytes) -> tuple[bytes, Facts]:
    """Return the encoded event and the facts that pack_event() was given."""
    line, _, payload = packed.partition(b"\n")
    if not line:
        return payload, PLAIN
    told = json.loads(line)
    # A newer process may tell of facts that this one does not know.
    return payload, Facts(**{name: told[name] for name in Facts._fields if name in told})


def _told(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts._asdict().items() if value != getattr(PLAIN, name)}


def pack_command(channel: str, command: Command) -> bytes:
    """Return a command on a channel as bytes."""
    return json.dumps([channel, command.verb, _plain(command.user_id)]).encode()


def unpack_command(text: bytes) -> tuple[str, Command]:
    """Return the channel and the command that pack_command() was given."""
    channel, verb, user = json.loads(text)
    return channel, Command(verb, _typed(user))


def pack_user(user: Any) -> str:
    """Return a user's id as text, the same for equal ones."""
    return json.dumps(_plain(user))


def unpack_user(text: str | bytes) -> Any:
    """Return the id that pack_user() was given."""
    return _typed(json.loads(text))


def _plain(user: Any) -> Any:
    if user is None or isinstance(user, (int, str)):
        return user
    return {"uuid": str(user)} if isinstance(user, uuid.UUID) else {"pk": str(user)}


def _typed(user: Any) -> Any:
    if not isinstance(user, dict):
        return user
    return uuid.UUID(user["uuid"]) if "uuid" in user else get_user_model()._meta.pk.to_python(user["pk"])
