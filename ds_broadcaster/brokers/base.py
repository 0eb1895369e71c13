"""The two interfaces of a broker: Broker carries events, orders and keeps them; PresenceStore knows who is online.

Both carry between processes. Writing to clients is the hub's work, never theirs.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from django.core.checks import CheckMessage

from ..conf import History
from ..ids import format_id, parse_id
from ..present import Present, UserPart, merged
from ..sse import PLAIN, Facts, Frame, make_frame

T = TypeVar("T")

# Seconds that commands are kept. A request that takes longer to open its stream is asked again.
COMMANDS_KEPT = 60
# Seconds that what a process tells about its users holds, so that a killed process leaves no ghosts. The option "lease"
# overrides it.
LEASE = 15.0

# The channel of commands for every channel. No channel can have this name.
EVERYWHERE = ""


class Command(NamedTuple):
    """A control message, by its verb:

    - "disconnect", of a user, and "kill" end streams;
    - "recheck", of a user or of all, has streams asked about again;
    - "review", of a user who was saved, does so when there is time: some projects save a user at each request.
    """

    verb: str
    user_id: Any = None

    @property
    def ends(self) -> bool:
        """Tell whether this ends the streams that it concerns."""
        return self.verb in ("disconnect", "kill")

    def concerns(self, user_id: Any) -> bool:
        """Tell whether this is about a user's connections; None is an anonymous user."""
        if self.verb == "kill" or (self.verb == "recheck" and self.user_id is None):
            return True
        return user_id is not None and bool(user_id == self.user_id)


class GivenCommand(NamedTuple):
    """A command that was given: its sequence, and its age in seconds."""

    command: Command
    sequence: int
    age: float


class Position(NamedTuple):
    """A client's place in the order of events, found by its last event id.

    It resumes after `cursor`. The channels in `gaps` no longer hold what follows the cursor and resume after `granted`,
    the newest sequence. Both numbers belong to `epoch`. On the channels in `refreshed` the client has missed a refresh.
    """

    epoch: str
    granted: int
    cursor: int
    gaps: frozenset[str] = frozenset()
    refreshed: frozenset[str] = frozenset()


class PresenceChange(NamedTuple):
    """A user's new number of connections on a channel of one hub.

    0 is a user in the grace, or away; GONE one who is offline. Receiver.part() has more about the user. A `user` of
    None stands for all of the channel's connections together, anonymous ones included; GONE when there are none.

    `is_known` for a user whose join the cluster was told, and no leave since: said again to a store whose memory was
    lost.
    """

    channel: str
    user: Any
    connections: int
    is_known: bool = False


# The number of connections of a user whom a hub no longer counts as online.
GONE = -1


class PresenceDiff(NamedTuple):
    """What became of users across the cluster, each a (channel, user).

    Users who `joined` were on the channel in no process before; users who `left` are on it in none any more. Each is
    told to one hub only, as are users who are `away` in all processes that have them, and those who are `back`.
    `since` has those who have been on the channel for longer than their hub told, with the time in seconds since 1970.

    `is_forgotten` when the store knew nothing of this hub, which then tells everything again.
    `next_end` is the seconds until the next lease ends, unless it is renewed, or until the store has settled.

    `memory` names the store's memory, and changes whenever some of it may be gone: each hub then tells everything
    again, with users that are `is_known`. The first hub that knew another memory has the store settle, for one lease.
    Until then joins and leaves wait: a process not heard yet may have the user too, who has not joined or left then.
    """

    joined: list[tuple[str, Any]]
    left: list[tuple[str, Any]]
    is_forgotten: bool = False
    next_end: float = LEASE
    memory: str = ""
    is_settled: bool = True
    away: Sequence[tuple[str, Any]] = ()
    back: Sequence[tuple[str, Any]] = ()
    since: Sequence[tuple[str, Any, float]] = ()


class ProcessHoldings(NamedTuple):
    """A process's name, and the number of connections on each of its channels."""

    process: str
    channels: dict[str, int]


class Event(NamedTuple):
    """An encoded event to publish, its channel, and its facts."""

    channel: str
    payload: bytes
    facts: Facts = PLAIN


class Receiver(Protocol):
    """A hub, as brokers see it. Any thread may call these methods; they return at once, except throttle()."""

    # The name of the hub's process, unique over all processes and times.
    process: str

    def deliver(self, channel: str, sequence: int, item: Frame | Command) -> None:
        """Take an event's frame or a command, in ascending order of the sequences."""

    def on_position(self, sequence: int) -> None:
        """Note that everything up to a sequence was delivered, on all subscribed channels."""

    def on_gap(self, channel: str) -> None:
        """Have a channel's clients start anew: events between the last delivery and the next are lost."""

    def reset(self, epoch: str) -> None:
        """Have every client start anew: the sequences begin again, in another epoch."""

    def throttle(self) -> None:
        """Block a publisher in another thread for a bounded time while the hub is far behind."""

    async def athrottle(self) -> None:
        """Let the hub go on, while it is far behind, before a publisher on its loop does."""

    def on_presence(self, channel: str) -> None:
        """Render a channel's presence again: another process has other users on it now."""

    def on_tab_closed(self, user: Any, tab: str) -> None:
        """End the streams of a user's tab, and forget that it is hidden: its page is closed."""

    def users(self, channel: str) -> list[Any]:
        """Return the user of each open connection on a channel."""

    def parts(self, channel: str) -> list[UserPart]:
        """Return what the hub has of each user on a channel."""

    def part(self, channel: str, user: Any) -> UserPart | None:
        """Return what the hub has of a user on a channel, None where it has nothing."""

    def connections(self, channel: str) -> int:
        """Return the number of connections on a channel, anonymous ones included."""

    def channels(self) -> list[str]:
        """Return the channels that have a connection."""


class PresenceStore(ABC):
    """Keeps what each process tells about its users, for the others to see.

    What a process has told holds for a lease, in seconds, and is renewed three times in that time.
    """

    def __init__(self, lease: float = LEASE) -> None:
        self.lease = float(lease)

    @abstractmethod
    async def sync(
        self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float, memory: str | None
    ) -> PresenceDiff:
        """Store a hub's changes, extend its lease to `lease` seconds from now, and return the joins and leaves.

        `memory` is the PresenceDiff.memory that this hub heard last, None at first. Another than the store's proves
        that something is lost: joins and leaves wait from this call on, for `lease` seconds, once for each memory.

        Every other hub subscribed to a changed channel gets on_presence(). Processes whose lease has ended are removed
        by the next sync() of any process: their users have left, and hubs get on_presence() for their channels.

        For each user and channel joins and leaves alternate, and the last one tells whether the user is there: compare
        what was before all of a call with what is after it. Called on the hub's loop, one call at a time. Raises
        BrokerUnavailable.
        """

    @abstractmethod
    def online(self, channel: str, *, excluding: Collection[str] = ()) -> Iterable[tuple[Any, int]]:
        """Return each user on a channel with their connections there, process by process.

        Users online by grace have 0 connections. Leaves out the processes in `excluding`, and those whose lease has
        ended. Called in a thread; may block. Raises BrokerUnavailable.
        """

    def parts(self, channel: str, *, excluding: Collection[str] = ()) -> Iterable[UserPart]:
        """Return what each process has of each user on a channel: see online().

        Override it in a store that keeps Receiver.part() of the users in sync(), where it fills PresenceDiff.away, back
        and since too. By default others know of a user's connections, and of nothing else.
        """
        return [UserPart(user, others=connections) for user, connections in self.online(channel, excluding=excluding)]

    @abstractmethod
    def holdings(self, *, excluding: Collection[str] = ()) -> list[ProcessHoldings]:
        """Return what each process holds. See online()."""

    def tell_closed(self, user: Any, tab: str) -> None:  # noqa: B027
        """Have every hub get on_tab_closed(). Called in a thread; may block. Raises BrokerUnavailable.

        By default no hub is told: a tab that was closed while it was hidden is away until its time is over, unless the
        page's word reached the process that had its stream.
        """

    def remote_parts(self, receiver: Receiver, channel: str) -> Iterable[UserPart]:
        """Return what other processes than the hub's have of each user. See remote_users()."""
        return self.parts(channel, excluding=[receiver.process])

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        """Return the users online on a channel in other processes than the hub's. Called in a thread; may block."""
        return [user for user, _ in self.online(channel, excluding=[receiver.process])]


class Broker(ABC):
    """Carries events and commands from publishers to hubs, in one order, and keeps the newest of them.

    A sequence counts everything published, over all channels. `epoch` names one life of that counter: it must change
    when the counter begins anew, and when history was lost.

    Async twins have a default: run_sync() calls the sync method.
    """

    epoch: str
    # None where hubs share nothing: each tells for itself who joins and leaves.
    presence: PresenceStore | None = None

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        self.location = location
        self.options = options
        self.limits = history

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        """Run a sync method for its async twin, in a thread. Override it for calls that need a certain thread, or none.

        Runs in a copy of the caller's context.
        """
        return await asyncio.to_thread(function, *args)

    # Publishing: from any process and thread, with or without an event loop.

    @abstractmethod
    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        """Give an encoded event the next sequence, keep it with its facts, carry it to hubs; return the sequence.

        None inside an open transaction: the sequence is assigned at commit. Raises BrokerUnavailable within a bounded
        time.
        """

    async def apublish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        """See publish()."""
        return await self.run_sync(self.publish, channel, payload, facts)

    def publish_all(self, events: Sequence[Event]) -> None:
        """Publish several events in their order. Override it where one step for all saves time.

        Raises BrokerUnavailable; some events may have been published by then.
        """
        for event in events:
            self.publish(*event)

    async def apublish_all(self, events: Sequence[Event]) -> None:
        """See publish_all()."""
        await self.run_sync(self.publish_all, events)

    @abstractmethod
    def command(self, channel: str, command: Command) -> None:
        """Give a command the next sequence, keep it for commands(), and carry it to hubs like an event.

        A command on EVERYWHERE reaches every hub, whatever its subscriptions. A "kill" also drops the channel's
        history. Raises BrokerUnavailable.
        """

    async def acommand(self, channel: str, command: Command) -> None:
        """See command()."""
        await self.run_sync(self.command, channel, command)

    # Positions.

    @abstractmethod
    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        """Return the position of a client with this event id; without one it is at now.

        An id of another epoch, or one that this broker has not given out, is a gap on every channel. Raises
        BrokerUnavailable.
        """

    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Position:
        """See locate()."""
        return await self.run_sync(self.locate, channels, event_id)

    def cursor(self) -> str:
        """Return the event id of now. Raises BrokerUnavailable."""
        now = self.locate((), None)
        return format_id(now.epoch, now.granted)

    async def acursor(self) -> str:
        """See cursor()."""
        return await self.run_sync(self.cursor)

    # History: on the loop of a hub.

    @abstractmethod
    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        """Return every kept (sequence, frame) after `cursor`; raises Gap when some are gone."""

    def floor(self, channel: str) -> int:
        """Return the sequence up to which a channel's history is gone, as far as can be told without asking.

        A hub keeps no more than that: where both are in one memory, an event is there once.
        """
        return 0

    @abstractmethod
    async def commands(self, channels: Collection[str], seconds: float) -> list[GivenCommand]:
        """Return the commands of the last `seconds`, COMMANDS_KEPT at most, on these channels or EVERYWHERE, in order.

        A stream obeys what was said between the moment its request came in and its opening. Raises BrokerUnavailable.
        """

    def heard(self) -> int:
        """Return a sequence that was given out by now, as high as can be told without asking; 0 where none is known."""
        return 0

    def sweep(self) -> None:  # noqa: B027
        """Drop what is too old; a hub with open streams calls this about once a second. Returns at once."""

    # Hubs.

    @abstractmethod
    def receivers(self) -> Collection[Receiver]:
        """Return the attached hubs. Any thread may call this."""

    @abstractmethod
    def attach(self, receiver: Receiver) -> int:
        """Begin to carry to a hub, on whose loop this is called; return the newest sequence that it will not get."""

    @abstractmethod
    def detach(self, receiver: Receiver) -> None:
        """Stop carrying to a hub."""

    @abstractmethod
    async def subscribe(self, receiver: Receiver, channel: str) -> int:
        """Begin to carry a channel to a hub; return a sequence after which the hub will miss nothing on it."""

    @abstractmethod
    async def unsubscribe(self, receiver: Receiver, channel: str) -> None:
        """Stop carrying a channel to a hub."""

    # The whole cluster. The hubs of this process know better than the store, which may not have their latest changes.

    def users(self, channel: str) -> list[Any]:
        """Return the user of each open connection on a channel, in all processes. Raises BrokerUnavailable."""
        here = self.receivers()
        found = [user for receiver in here for user in receiver.users(channel)]
        if self.presence is not None:
            for user, connections in self.presence.online(channel, excluding=_processes(here)):
                found += [user] * connections
        return found

    async def ausers(self, channel: str) -> list[Any]:
        """See users()."""
        return await self.run_sync(self.users, channel)

    def present(self, channel: str) -> list[Present]:
        """Return each user on a channel, in all processes. Raises BrokerUnavailable."""
        here = self.receivers()
        parts = [part for receiver in here for part in receiver.parts(channel)]
        if self.presence is not None:
            parts += self.presence.parts(channel, excluding=_processes(here))
        return merged(parts)

    async def apresent(self, channel: str) -> list[Present]:
        """See present()."""
        return await self.run_sync(self.present, channel)

    def channels(self) -> list[str]:
        """Return the channels that have a connection, in all processes. Raises BrokerUnavailable."""
        return list(dict.fromkeys(name for each in self.holdings() for name in each.channels))

    async def achannels(self) -> list[str]:
        """See channels()."""
        return await self.run_sync(self.channels)

    def holdings(self) -> list[ProcessHoldings]:
        """Return what each process holds, those of this one first. Raises BrokerUnavailable."""
        here = self.receivers()
        found = [holdings_of(receiver) for receiver in here]
        return found if self.presence is None else found + self.presence.holdings(excluding=_processes(here))

    # Set-up.

    def check(self) -> list[CheckMessage]:
        """Return messages for `manage.py check` about the settings; uses no network."""
        return []

    def close(self) -> None:  # noqa: B027
        """Release all resources; the broker is not used after that."""


def sequence_of(event_id: str | None, epoch: str, newest: int) -> int | None:
    """Return the sequence in an id; None for one that this epoch, now at `newest`, has not given out."""
    parsed = parse_id(event_id) if event_id else (epoch, newest)
    if parsed is None or parsed[0] != epoch or parsed[1] > newest:
        return None
    return parsed[1]


def frame(epoch: str, sequence: int, payload: bytes, facts: Facts = PLAIN) -> Frame:
    """Return an encoded event as hubs take it: its id comes first."""
    return make_frame(format_id(epoch, sequence), payload, facts)


def holdings_of(receiver: Receiver) -> ProcessHoldings:
    """Return what a hub of this process holds."""
    return ProcessHoldings(receiver.process, {name: receiver.connections(name) for name in receiver.channels()})


def _processes(receivers: Iterable[Receiver]) -> list[str]:
    return [receiver.process for receiver in receivers]
