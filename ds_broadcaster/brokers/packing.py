"""How brokers write down what is no string: commands and users, whose types must come back, for ids are compared."""

import json
import uuid
from typing import Any

from django.contrib.auth import get_user_model

from .base import Command


def encoded(channel: str) -> bytes:
    """Return a channel's name as bytes; any string may be one."""
    return channel.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """Return the channel that encoded() was given."""
    return name.decode("utf-8", "surrogatepass")


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
