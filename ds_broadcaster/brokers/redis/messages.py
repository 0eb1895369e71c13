"""What Redis carries and keeps, read with care: another program may write to the same server.

Each function raises ValueError for what RedisBroker does not write.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...sse import Frame
from ..base import Command, frame
from ..packing import unpack_command, unpack_event, unpack_tab

# Lua writes numbers with up to 14 digits.
_HEAD = re.compile(rb"([0-9a-z]{1,32}) ([0-9]{1,14}) ")
_ENTRY_ID = re.compile(rb"([0-9]{1,14})-0")


class ClosedTab(NamedTuple):
    """A user's tab, whose page is closed."""

    user: Any
    tab: str


class Message(NamedTuple):
    """A message on a channel's topic: its epoch and sequence, and what it carries.

    That is an event's frame, a command, the name of a process whose users changed, a tab, or nothing but the sequence.
    """

    epoch: str
    sequence: int
    item: Frame | Command | ClosedTab | str | None = None


def unpack_message(data: bytes) -> Message:
    """Return a message as a script published it."""
    epoch, sequence, rest = _after_head(data)
    kind, content = rest[:1], rest[1:]
    if kind == b"e":
        return Message(epoch, sequence, frame(epoch, sequence, *unpack_event(content)))
    if kind == b"c":
        return Message(epoch, sequence, unpack_command(content)[1])
    if kind == b"r":
        return Message(epoch, sequence, content.decode())
    if kind == b"t":
        return Message(epoch, sequence, ClosedTab(*unpack_tab(content)))
    if kind == b"h":
        return Message(epoch, sequence)
    raise ValueError("It is of no known kind.")


def unpack_kept_command(entry: bytes) -> tuple[str, int, str, Command]:
    """Return the epoch and sequence of a kept command, its channel, and the command."""
    epoch, sequence, text = _after_head(entry)
    return epoch, sequence, *unpack_command(text)


def unpack_entry(epoch: str, entry: tuple[bytes, Sequence[Any] | None]) -> tuple[int, Frame]:
    """Return the sequence and the frame of an entry in a history."""
    entry_id, fields = entry
    match = _ENTRY_ID.fullmatch(entry_id)
    if match is None or not fields or len(fields) != 4:
        raise ValueError("It is no entry of a history.")
    sequence = int(match[1])
    return sequence, frame(epoch, sequence, *unpack_event(fields[3]))


def _after_head(data: bytes) -> tuple[str, int, bytes]:
    match = _HEAD.match(data)
    if match is None:
        raise ValueError("It does not begin with an epoch and a sequence.")
    return match[1].decode(), int(match[2]), data[match.end() :]
