"""Replay: what comes after a cursor. Live, slow and returning clients all read in this one place.

Live is the shortest replay: the cursor is one event behind.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..brokers import Broker
from ..ids import format_id
from ..log import READ_BYTES, Log
from ..sse import OWING, data_for, hello_frame, is_left_out, live_frame, owing, with_id
from .channel import Channel, Chunk, Stop
from .grant import StreamGrant

# Milliseconds after which a page that lost its stream returns.
RETRY = (1000, 2000)


def next_chunk(
    channels: tuple[Channel[Any], ...],
    cursor: int,
    presence_at: float,
    tab: str | None,
    is_owing: bool = False,
    opened: int = 0,
) -> Chunk | None:
    """Return what a client at this place gets next, None when it is caught up; raises Gap.

    For a client that `is_owing` a refresh, the ids say so. Transient events up to the
    sequence `opened` are not for this client.
    """
    if len(channels) > 1:
        return _merged(channels, cursor, presence_at, tab, is_owing, opened)
    channel = channels[0]
    log = channel.log
    if log is None or (cursor >= log.last and presence_at >= channel.presence_at):
        return None
    if log.excludes(tab, cursor) or (cursor < opened and log.has_transients(cursor)):
        return _merged(channels, cursor, presence_at, tab, is_owing, opened)
    place = (cursor, presence_at, is_owing)
    chunk = channel.chunks.get(place)
    if chunk is None:
        chunk = _read(channel, log, cursor, presence_at, is_owing)
        channel.keep_chunk(place, chunk)
    return chunk


def _read(channel: Channel[Any], log: Log, cursor: int, presence_at: float, is_owing: bool) -> Chunk:
    """Return a chunk for all clients at one place in a log."""
    sequence, frame = log.next_stop(cursor)
    body, reached = log.read(cursor, READ_BYTES, is_owing=is_owing, before=sequence)
    if reached == cursor and frame is not None:
        return _stop_chunk(Stop(channel.name, sequence, frame), presence_at, log.last, is_owing)
    if presence_at < channel.presence_at:
        body += channel.presence
    return Chunk(body, reached, channel.presence_at, more=reached < log.last)


def _stop_chunk(stop: Stop, presence_at: float, last: int, is_owing: bool) -> Chunk:
    data = data_for(stop.frame, None)
    return Chunk(owing(data) if is_owing else data, stop.sequence, presence_at, more=stop.sequence < last, stop=stop)


def chunk_until(
    until: int, channels: tuple[Channel[Any], ...], cursor: int, tab: str | None, is_owing: bool, opened: int = 0
) -> Chunk | None:
    """Return the next of a client's last events: those up to the sequence `until`, without presence; raises Gap."""
    return _merged(channels, cursor, math.inf, tab, is_owing, opened, until)


def _merged(
    channels: tuple[Channel[Any], ...],
    cursor: int,
    presence_at: float,
    tab: str | None,
    is_owing: bool,
    opened: int,
    until: float = math.inf,
) -> Chunk | None:
    """Return a chunk of one client's own: events of its channels in the order of their ids."""
    waiting: list[tuple[int, bytes]] = []
    stops: dict[int, Stop] = {}
    presence = b""
    reached_presence = presence_at
    for channel in channels:
        if channel.log is not None and cursor < min(channel.log.last, until):
            for sequence, frame in channel.log.after(cursor):
                is_past = frame.facts.is_transient and sequence <= opened
                waiting.append((sequence, b"" if is_past else data_for(frame, tab)))
                if frame.facts.is_refresh and not is_past and not is_left_out(frame, tab):
                    stops[sequence] = Stop(channel.name, sequence, frame)
        if presence_at < channel.presence_at:
            presence += channel.presence
            reached_presence = max(reached_presence, channel.presence_at)
    waiting = sorted(event for event in waiting if event[0] <= until)
    if not waiting and not presence:
        return None
    if waiting and waiting[0][0] in stops:
        return _stop_chunk(stops[waiting[0][0]], presence_at, waiting[-1][0], is_owing)
    size = 0
    taken = 0
    for sequence, data in waiting:
        size += len(data)
        if taken and (size > READ_BYTES or sequence in stops):
            break
        taken += 1
    reached = waiting[taken - 1][0] if taken else cursor
    body = b"".join(owing(data) if is_owing else data for _, data in waiting[:taken]) + presence
    return Chunk(body, reached, reached_presence, more=taken < len(waiting))


def begin_of(channels: Sequence[Channel[Any]], grant: StreamGrant) -> int:
    """Return the cursor from which the logs of this process are complete for a granted stream."""
    begin = grant.granted if grant.gaps or grant.refreshed else grant.cursor
    return max([begin, *(channel.log.floor for channel in channels if channel.log is not None)])


class Missed(NamedTuple):
    """What a client missed: the frames before its snapshot and those after, and the cursor after all of them.

    On the channels in `refreshed` it missed a refresh that its snapshot does not show.
    """

    before: list[bytes]
    after: list[bytes]
    cursor: int
    refreshed: set[str]


async def missed_data(broker: Broker, grant: StreamGrant, until: int, limit: int) -> Missed:
    """Return what a client missed up to the sequence `until`, from the broker's history.

    The cursor is lower than `until` where all of it would be more than about `limit` bytes. Raises Gap. One of the
    channels here begins later than the client's cursor, and one cursor serves them all.
    """
    if until <= grant.cursor:
        return Missed([], [], until, set())
    events: list[tuple[int, bytes]] = []
    stops: dict[int, str] = {}
    for name in grant.channels:
        cursor = grant.granted if name in grant.gaps else grant.cursor
        for sequence, frame in await broker.read(name, cursor):
            if sequence <= until:
                is_shown = sequence <= grant.granted and grant.refreshed
                if frame.facts.is_refresh and grant.can_refresh and not (is_shown or is_left_out(frame, grant.tab)):
                    stops[sequence] = name
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
    stops = {sequence: name for sequence, name in stops.items() if sequence <= until}
    # Up to what is rendered, a client that returns has missed it.
    shown_at = grant.granted if grant.refreshed else -1
    first = min(stops, default=math.inf)
    before = [owing(data) for sequence, data in events if sequence <= shown_at]
    after = [data if sequence < first else owing(data) for sequence, data in events if sequence > shown_at]
    return Missed(before, after, until, set(stops.values()))


def opening_frames(grant: StreamGrant, missed: Missed, retry: int | None, heartbeat: float) -> bytes:
    """Return the frames that begin a stream.

    `retry` is in milliseconds, a random one where it is None, and `heartbeat` the seconds between heartbeats.
    """
    if retry is None:
        retry = random.randint(*RETRY)
    begin = format_id(grant.epoch, grant.cursor) + (OWING if grant.refreshed else "")
    hello = hello_frame(begin, retry, gap=bool(grant.gaps or grant.refreshed))
    live = live_frame(heartbeat) if grant.element is not None else b""
    snapshot = grant.snapshot
    if grant.refreshed:
        # A client that is to return for the rest gets it then.
        is_cut = missed.cursor < grant.granted
        snapshot = b"" if is_cut else with_id(snapshot, format_id(grant.epoch, grant.granted))
    return b"".join([hello, live, *missed.before, snapshot, *missed.after])
