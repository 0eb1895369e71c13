"""What a hub does when a command arrives: disconnect, kill, recheck."""

from typing import TYPE_CHECKING

from ..brokers import Command
from ..sse import farewell
from .channel import Channel
from .connections import Connection

if TYPE_CHECKING:
    from .hub import Hub


class Orders:
    """The part of a hub that carries commands out. Each concerns the connections that were granted before it."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub

    def obey(self, channel: Channel | None, command: Command, sequence: int) -> None:
        """Carry out a command on a channel (None: on all), behind the events that came before it."""
        if channel is not None:
            connections = list(channel.connections)
        elif command.user_id is not None:
            connections = self._hub.rechecks.connections_of(command.user_id)
        else:
            connections = self._hub.pulse.connections()
        for connection in connections:
            if connection.granted < sequence:
                self.obey_late(connection, command)
        if channel is None or command.verb == "recheck":
            return
        for user in channel.roster.online():
            # Whoever is still here by grace alone.
            if command.concerns(user) and channel.roster.dismiss(user):
                self._hub.attendance.went(channel, user, True)
        self._hub.retire(channel)

    def start_anew(self, names: list[str]) -> None:
        """Have everybody on these channels come back: what a log holds and what comes next do not join."""
        for name in names:
            channel = self._hub.known.get(name)
            if channel is not None:
                channel.log = None
                for connection in list(channel.connections):
                    self._hub.lost(connection)

    def obey_late(self, connection: Connection, command: Command) -> None:
        """Carry out what a command means for one connection."""
        if not command.concerns(connection.user_id):
            return
        if command.verb == "recheck":
            self._hub.rechecks.ask(connection)
        else:
            connection.end(farewell(connection.element))
            self._hub.close(connection, grace=False)
