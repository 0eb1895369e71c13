"""Replay: what comes after a cursor. Live, slow and returning clients all read in this one place.

Live is the shortest replay: the cursor is one event behind.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from ..brokers import Broker
from ..ids import format_id
from ..log import READ_BYTES
from ..sse import data_for, hello_frame, live_frame
from .channel import Channel, Chunk
from .grant import StreamGrant

# Milliseconds after which a page that lost its stream returns.
RETRY = (1000, 2000)


def next_chunk(channels: tuple[Channel[Any], ...], cursor: int, presence_at: float, tab: str | None) -> Chunk | None:
    """Return what a client at this place gets next, None when it is caught up; raises Gap."""
    if len(channels) > 1:
        return _merged(channels, cursor, presence_at, tab)
    channel = channels[0]
    log = channel.log
    if log is None or (cursor >= log.last and presence_at >= channel.presence_at):
        return None
    if log.excludes(tab, cursor):
        return _merged(channels, cursor, presence_at, tab)
    place = (cursor, presence_at)
    chunk = channel.chunks.get(place)
    if chunk is None:
        body, reached = log.read(cursor, READ_BYTES)
        if presence_at < channel.presence_at:
            body += channel.presence
        chunk = Chunk(body, reached, channel.presence_at, more=reached < log.last)
        channel.keep_chunk(place, chunk)
    return chunk


def chunk_until(until: int, channels: tuple[Channel[Any], ...], cursor: int, tab: str | None) -> Chunk | None:
    """Return the next of a client's last events: those up to the sequence `until`, without presence; raises Gap."""
    return _merged(channels, cursor, math.inf, tab, until)


def _merged(
    channels: tuple[Channel[Any], ...], cursor: int, presence_at: float, tab: str | None, until: float = math.inf
) -> Chunk | None:
    """Return a chunk of one client's own: events of its channels in the order of their ids."""
    waiting: list[tuple[int, bytes]] = []
    presence = b""
    reached_presence = presence_at
    for channel in channels:
        if channel.log is not None and cursor < min(channel.log.last, until):
            waiting += [(sequence, data_for(frame, tab)) for sequence, frame in channel.log.after(cursor)]
        if presence_at < channel.presence_at:
            presence += channel.presence
            reached_presence = max(reached_presence, channel.presence_at)
    waiting = sorted(event for event in waiting if event[0] <= until)
    if not waiting and not presence:
        return None
    size = 0
    taken = 0
    for _, data in waiting:
        size += len(data)
        if taken and size > READ_BYTES:
            break
        taken += 1
    reached = waiting[taken - 1][0] if taken else cursor
    body = b"".join(data for _, data in waiting[:taken]) + presence
    return Chunk(body, reached, reached_presence, more=taken < len(waiting))


def begin_of(channels: Sequence[Channel[Any]], grant: StreamGrant) -> int:
    """Return the cursor from which the logs of this process are complete for a granted stream."""
    begin = grant.granted if grant.gaps else grant.cursor
    return max([begin, *(channel.log.floor for channel in channels if channel.log is not None)])


async def missed_data(broker: Broker, grant: StreamGrant, until: int, limit: int) -> tuple[list[bytes], int]:
    """Return what a client missed up to the sequence `until`, from the broker's history, and the cursor after it.

    The cursor is lower than `until` where all of it would be more than about `limit` bytes. Raises Gap. One of the
    channels here begins later than the client's cursor, and one cursor serves them all.
    """
    if until <= grant.cursor:
        return [], until
    events: list[tuple[int, bytes]] = []
    for name in grant.channels:
        cursor = grant.granted if name in grant.gaps else grant.cursor
        for sequence, frame in await broker.read(name, cursor):
            if sequence <= until:
                events.append((sequence, data_for(frame, grant.tab)))
        events.sort()
        # Channel by channel, or all of them would be here at once.
        size = 0
        for count, (_, data) in enumerate(events, 1):
            size += len(data)
            if size > limit and count < len(events):
                until = events[count - 1][0]
                del events[count:]
                break
    return [data for _, data in events], until


def opening_frames(grant: StreamGrant, missed: Sequence[bytes], retry: int | None, heartbeat: float) -> bytes:
    """Return the frames that begin a stream.

    `retry` is in milliseconds, a random one where it is None, and `heartbeat` the seconds between heartbeats.
    """
    if retry is None:
        retry = random.randint(*RETRY)
    hello = hello_frame(format_id(grant.epoch, grant.cursor), retry, gap=bool(grant.gaps))
    live = live_frame(heartbeat) if grant.element is not None else b""
    return b"".join([hello, live, grant.snapshot, *missed])
