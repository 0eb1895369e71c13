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
from .compression import Piece, Place, pieces_of
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
        channels = tuple(each for each in channels if _has_news(each, cursor, presence_at))
        if len(channels) > 1:
            return _merged(channels, cursor, presence_at, tab, is_owing, opened)
        if not channels:
            return None
    channel = channels[0]
    log = channel.log
    if log is None or (cursor >= log.last and presence_at >= channel.presence_at):
        return None
    if log.excludes(tab, cursor) or (cursor < opened and log.has_transients(cursor)):
        return _merged(channels, cursor, presence_at, tab, is_owing, opened)
    place = (cursor, presence_at, is_owing)
    chunk = channel.chunks.get(place)
    if chunk is None:
        # Where a heartbeat told of events of other channels, clients at many places get the same.
        first, presence_at = log.first_after(cursor), min(presence_at, channel.presence_at)
        common = ("first", first, presence_at, is_owing)
        chunk = channel.chunks.get(common)
        if chunk is None:
            chunk = _read(channel, log, cursor, first, presence_at, is_owing)
            channel.keep_chunk(common, chunk)
        channel.keep_chunk(place, chunk)
    return chunk


def _has_news(channel: Channel[Any], cursor: int, presence_at: float) -> bool:
    return channel.log is not None and (cursor < channel.log.last or presence_at < channel.presence_at)


def _read(channel: Channel[Any], log: Log, cursor: int, first: int, presence_at: float, is_owing: bool) -> Chunk:
    """Return a chunk for all clients that have the event with the sequence `first` before them.

    Their cursors differ, and some are after what the chunk leads to.
    """
    sequence, frame = log.next_stop(cursor)
    body, reached = log.read(cursor, READ_BYTES, is_owing=is_owing, before=sequence)
    if sequence == first and frame is not None:
        return _stop_chunk(Stop(channel.name, sequence, frame), presence_at, log.last, is_owing)
    reached = min(reached, log.last)
    if presence_at < channel.presence_at:
        body += channel.presence
    is_uncompressed = log.has_uncompressed(cursor, reached)
    return Chunk(
        body,
        reached,
        channel.presence_at,
        more=reached < log.last,
        pieces=(Piece(body, is_uncompressed),),
        place=None if is_owing or is_uncompressed else Place(channel.tape, first, presence_at),
    )


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
    waiting: list[tuple[int, str, Piece]] = []
    stops: dict[int, Stop] = {}
    presence: list[tuple[str, Piece]] = []
    reached_presence = presence_at
    for channel in channels:
        if channel.log is not None and cursor < min(channel.log.last, until):
            for sequence, frame in channel.log.after(cursor):
                is_past = frame.facts.is_transient and sequence <= opened
                data = b"" if is_past else data_for(frame, tab)
                waiting.append((sequence, channel.name, Piece(data, frame.facts.is_uncompressed)))
                if frame.facts.is_refresh and not is_past and not is_left_out(frame, tab):
                    stops[sequence] = Stop(channel.name, sequence, frame)
        if presence_at < channel.presence_at:
            presence.append((channel.name, Piece(channel.presence)))
            reached_presence = max(reached_presence, channel.presence_at)
    waiting = sorted(event for event in waiting if event[0] <= until)
    if not waiting and not presence:
        return None
    if waiting and waiting[0][0] in stops:
        return _stop_chunk(stops[waiting[0][0]], presence_at, waiting[-1][0], is_owing)
    size = 0
    taken = 0
    for sequence, _, piece in waiting:
        size += len(piece.text)
        if taken and (size > READ_BYTES or sequence in stops):
            break
        taken += 1
    reached = waiting[taken - 1][0] if taken else cursor
    parts = [(name, piece) for _, name, piece in waiting[:taken]]
    if is_owing:
        parts = [(name, piece._replace(text=owing(piece.text))) for name, piece in parts]
    pieces = pieces_of(parts + presence)
    body = b"".join(piece.text for piece in pieces)
    return Chunk(body, reached, reached_presence, more=taken < len(waiting), pieces=pieces)


def begin_of(channels: Sequence[Channel[Any]], grant: StreamGrant) -> int:
    """Return the cursor from which the logs of this process are complete for a granted stream."""
    begin = grant.granted if grant.gaps or grant.refreshed else grant.cursor
    return max([begin, *(channel.log.floor for channel in channels if channel.log is not None)])


class Missed(NamedTuple):
    """What a client missed: the frames before its snapshot and those after, and the cursor after all of them.

    Each frame is with the name of its channel. On those in `refreshed` it missed a refresh that its snapshot does not
    show.
    """

    before: list[tuple[str, Piece]]
    after: list[tuple[str, Piece]]
    cursor: int
    refreshed: set[str]


async def missed_data(broker: Broker, grant: StreamGrant, until: int, limit: int) -> Missed:
    """Return what a client missed up to the sequence `until`, from the broker's history.

    The cursor is lower than `until` where all of it would be more than about `limit` bytes. Raises Gap. One of the
    channels here begins later than the client's cursor, and one cursor serves them all.
    """
    if until <= grant.cursor:
        return Missed([], [], until, set())
    events: list[tuple[int, str, Piece]] = []
    stops: dict[int, str] = {}
    for name in grant.channels:
        cursor = grant.granted if name in grant.gaps else grant.cursor
        for sequence, frame in await broker.read(name, cursor):
            if sequence <= until:
                is_shown = sequence <= grant.granted and grant.refreshed
                if frame.facts.is_refresh and grant.can_refresh and not (is_shown or is_left_out(frame, grant.tab)):
                    stops[sequence] = name
                events.append((sequence, name, Piece(data_for(frame, grant.tab), frame.facts.is_uncompressed)))
        events.sort()
        # Channel by channel, or all of them would be here at once.
        size = 0
        for count, (_, _, piece) in enumerate(events, 1):
            size += len(piece.text)
            if size > limit and count < len(events):
                until = events[count - 1][0]
                del events[count:]
                break
    stops = {sequence: name for sequence, name in stops.items() if sequence <= until}
    # Up to what is rendered, a client that returns has missed it.
    shown_at = grant.granted if grant.refreshed else -1
    first = min(stops, default=math.inf)
    owed = [
        (sequence, name, piece if shown_at < sequence < first else piece._replace(text=owing(piece.text)))
        for sequence, name, piece in events
    ]
    before = [(name, piece) for sequence, name, piece in owed if sequence <= shown_at]
    after = [(name, piece) for sequence, name, piece in owed if sequence > shown_at]
    return Missed(before, after, until, set(stops.values()))


def opening_chunk(grant: StreamGrant, missed: Missed, retry: int | None, heartbeat: float) -> Chunk:
    """Return the frames that begin a stream. The snapshot, which may be one viewer's, is a piece of its own.

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
    # Of each client its own, and short: to compress it costs more than it saves.
    pieces = (Piece(hello + live, is_stored=True), *pieces_of(missed.before), Piece(snapshot), *pieces_of(missed.after))
    return Chunk(b"".join(piece.text for piece in pieces), pieces=pieces)
