"""Admission: what was said about a stream between its request and its first frame is obeyed before it opens."""

from collections.abc import Callable

from ..brokers import COMMANDS_KEPT, Broker, Command
from ..exceptions import Gap
from .connections import Connection
from .grant import StreamGrant
from .rechecks import SECOND_LOOK, Rechecks

# Seconds. A grant that is older when its stream opens is asked about first: its client may have kept it waiting.
GRANT_AGE = 3.0
# A stream is asked about so many times before it opens, while more is said about it; after that, as an open one.
CONFIRMATIONS = 3


class Admission:
    """Lets granted streams open. `apply_to` carries out a command on one connection, and `clock` is that of grants."""

    def __init__(
        self,
        broker: Broker,
        clock: Callable[[], float],
        rechecks: Rechecks,
        *,
        apply_to: Callable[[Connection, Command], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._rechecks = rechecks
        self._obey = apply_to

    async def admit(self, connection: Connection, grant: StreamGrant) -> bool:
        """Obey what was said since the request of a stream came in; ask again where that may change the answer.

        Return False for a stream that is to end. Raises Gap where no answer can be had.
        """
        is_doubtful = self._clock() - grant.granted_at > GRANT_AGE
        since = grant.arrival.time
        heard: set[tuple[int, Command]] = set()
        for _ in range(CONFIRMATIONS):
            span = self._clock() - since + SECOND_LOOK
            given = await self._broker.commands(grant.channels, span)
            waited = self._clock() - grant.arrival.time
            for command, sequence, age in given:
                if (sequence, command) in heard or not command.concerns(connection.user_id):
                    continue
                heard.add((sequence, command))
                is_since = sequence > grant.granted or (sequence > grant.arrival.sequence and age <= waited)
                if command.ends and is_since:
                    self._obey(connection, command)
                    return False
                # What a recheck is about may follow it within a moment.
                is_doubtful |= command.verb == "recheck" or is_since
            if not is_doubtful and span <= COMMANDS_KEPT:
                break
            since = self._clock()
            allowed = await self._rechecks.answer(connection)
            if allowed is None and connection.closing is None:
                raise Gap("Nothing tells whether the stream is still allowed.")
            is_doubtful = False
        return connection.closing is None
