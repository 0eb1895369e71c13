"""The beginning of a stream: its channels are carried here, and the client gets what it missed so far."""

import logging
import random
from typing import TYPE_CHECKING

from ..exceptions import BrokerUnavailable, Gap
from ..ids import format_id
from ..log import Log
from ..sse import Frame, data_for, hello_frame, live_frame
from .channel import Channel
from .connections import Connection
from .grant import StreamGrant

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("ds_broadcaster")

# Milliseconds after which a page that lost its stream comes back.
RETRY = (1000, 2000)


class Beginning:
    """The part of a hub that begins streams."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub

    async def frames(self, connection: Connection, opening: StreamGrant) -> bytes:
        """Return the frames that begin a stream, and put its cursor behind them; nothing for one that is to end.

        Raises Gap when what was there a moment ago is gone, or cannot be asked for.
        """
        try:
            return await self._frames(connection, opening)
        except BrokerUnavailable as error:
            # For each client that comes meanwhile the server would log an error of its own.
            logger.warning("A stream of channel %r could not begin: %s", opening.channels[0], error)
            raise Gap(str(error)) from error

    async def _frames(self, connection: Connection, opening: StreamGrant) -> bytes:
        if self._hub.closing:
            self._hub.ending.end(connection)
            return b""
        reached = opening.granted if opening.gaps else opening.cursor
        for channel in connection.channels:
            async with channel.subscribing:
                if channel.log is None and connection.ending is None:
                    channel.log = await self._subscribe(channel)
            if channel.log is None:
                return b""
            reached = max(reached, channel.log.floor)
            for command in await self._hub.broker.commands(channel.name, opening.granted):
                self._hub.orders.obey_late(connection, command)
            if connection.ending is not None:
                return b""
        missed = await self._missed(connection, opening, reached) if reached > opening.cursor else []
        if opening.epoch != self._hub.epoch:
            raise Gap("The broker has begun anew meanwhile.")
        connection.cursor = reached
        retry = self._hub.duplicates.replace(connection) or random.randint(*RETRY)
        hello = hello_frame(format_id(opening.epoch, opening.cursor), retry, gap=bool(opening.gaps))
        live = live_frame() if opening.element is not None else b""
        return b"".join([hello, live, opening.snapshot, *missed])

    async def _subscribe(self, channel: Channel) -> Log:
        try:
            return Log(await self._hub.broker.subscribe(self._hub, channel.name))
        except BrokerUnavailable as error:
            # Nobody on it has begun. They wait in a line for this one, and need not find it out one by one.
            logger.warning("The streams of channel %r could not begin: %s", channel.name, error)
            self._hub.orders.start_anew([channel.name])
            raise Gap(str(error)) from error

    async def _missed(self, connection: Connection, opening: StreamGrant, reached: int) -> list[bytes]:
        """Return what the broker has from a client's cursor up to `reached`; behind that the logs have everything.

        One of the channels begins later than the client's cursor, and one cursor serves them all alike.
        """
        events: list[tuple[int, Frame]] = []
        for channel in connection.channels:
            begin = opening.granted if channel.name in opening.gaps else opening.cursor
            events += await self._hub.broker.read(channel.name, begin)
        return [data_for(frame, opening.tab) for sequence, frame in sorted(events) if sequence <= reached]
