"""What every broker does: carry, order, keep. Dispatching to clients is the hub's work, never the broker's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from django.core.checks import CheckMessage

from ..conf import History
from ..ids import format_id, parse_id
from ..sse import PLAIN, Facts, Frame, make_frame

# Seconds between a view that grants a stream and its opening, at the most: Django's middleware is all there is.
COMMANDS_KEPT = 60
# Seconds for which holds what a process says about who is there, so that one that dies leaves no ghosts. OPTIONS may
# name another number as "lease".
LEASE = 15.0

# The name, which no channel can have, under which a command goes out that concerns every channel.
EVERYWHERE = ""


class Command(NamedTuple):
    """A control message: the verb "disconnect" (with a user), "kill", or "recheck" (of a user, or of all)."""

    verb: str
    user_id: Any = None

    def concerns(self, user_id: Any) -> bool:
        """Tell whether this is about the connections of a user (None: of somebody anonymous)."""
        if self.verb == "kill" or (self.verb == "recheck" and self.user_id is None):
            return True
        return user_id is not None and bool(user_id == self.user_id)


class Position(NamedTuple):
    """Where a client stands, by the id that it brought.

    It is at `cursor`; channels in `gaps` cannot serve it from there and begin at `granted`, the newest sequence. Both
    are of this `epoch`.
    """

    epoch: str
    granted: int
    cursor: int
    gaps: frozenset[str] = frozenset()


class PresenceChange(NamedTuple):
    """What a hub tells of one user on one of its channels: the connections that the user has there now.

    0 is for somebody who is online by grace alone, and GONE for whoever no longer is. With a `user` of None it is
    about all of the channel's connections together, anonymous ones too, and GONE when there is none.
    """

    channel: str
    user: Any
    connections: int


# The connections of somebody whom a hub no longer counts as online.
GONE = -1


class PresenceDiff(NamedTuple):
    """What a hub learns when it has told who is there.

    Those who `joined` a channel were on it in no process before, and those who `left` are on it in none any more: each
    as (channel, user), and each told to one hub of all. `is_forgotten` when nothing was known of this hub, so that it
    has to tell everything again; `next_end` are the seconds until the next lease of a process ends, should it not be
    renewed.
    """

    joined: list[tuple[str, Any]]
    left: list[tuple[str, Any]]
    is_forgotten: bool = False
    next_end: float = LEASE


class ProcessHoldings(NamedTuple):
    """What one process holds: its name, and the connections on each of its channels."""

    process: str
    channels: dict[str, int]


class Event(NamedTuple):
    """What is published: an encoded event, its channel, and its facts."""

    channel: str
    payload: bytes
    facts: Facts = PLAIN


class Receiver(Protocol):
    """What a broker sees of a hub. Each method may be called from any thread and returns at once, unless said."""

    # The name of the process, which no other has or had.
    process: str

    def deliver(self, channel: str, sequence: int, item: Frame | Command) -> None:
        """Take an event's frame, or a command, in the order of the sequences."""

    def on_position(self, sequence: int) -> None:
        """Take note that everything up to a sequence, on each channel that is carried here, was delivered."""

    def on_gap(self, channel: str) -> None:
        """Have clients of a channel start anew: between what was delivered and what comes next some events are gone."""

    def reset(self, epoch: str) -> None:
        """Have every client start anew: the sequences begin again, in another epoch."""

    def throttle(self) -> None:
        """Make a publisher in another thread wait, a bounded time, while the hub is far behind."""

    def on_presence(self, channel: str) -> None:
        """Show again who is there: the users that another process has on the channel changed."""

    def users(self, channel: str) -> list[Any]:
        """Return the user of each open connection on a channel."""

    def connections(self, channel: str) -> int:
        """Return how many connections a channel has, anonymous ones included."""

    def channels(self) -> list[str]:
        """Return the channels that have a connection."""


class Broker(ABC):
    """Carries events and commands between publishers and hubs.

    A sequence counts everything published, over all channels. `epoch` names the life of that counter: when the
    counter begins anew, or history was lost, the epoch must change.
    """

    epoch: str
    # Whether hubs in other processes share the channels. Where they do not, each tells for itself who joins and leaves.
    is_shared = True

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        self.location = location
        self.options = options
        self.limits = history
        self.lease = float(options.get("lease", LEASE))

    @property
    def presence(self) -> "Broker | None":
        """The store of the cluster's presence, None where hubs share nothing."""
        return self if self.is_shared else None

    # Publishing: from any process and thread, with or without an event loop.

    @abstractmethod
    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        """Give an encoded event the next sequence, keep it, and carry it to every hub; return the sequence.

        Its facts are kept and carried with it.

        None where a transaction that has not ended decides whether, and where, it takes its place. Raises
        BrokerUnavailable, within a bounded time, when that is not possible.
        """

    @abstractmethod
    async def apublish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int | None:
        """See publish()."""

    def publish_all(self, events: Sequence[Event]) -> None:
        """Publish one event after the other, as publish() would; in fewer steps where that saves time.

        Raises BrokerUnavailable, and some of them may be out.
        """
        for event in events:
            self.publish(*event)

    @abstractmethod
    def command(self, channel: str, command: Command) -> None:
        """Give a command the next sequence, keep it for commands(), and carry it to every hub like an event.

        With EVERYWHERE in place of a channel it reaches every hub, whatever that is subscribed to. A "kill" also
        drops the channel's history. Raises BrokerUnavailable.
        """

    @abstractmethod
    async def acommand(self, channel: str, command: Command) -> None:
        """See command()."""

    @abstractmethod
    async def commands(self, channel: str, after: int) -> list[Command]:
        """Return the commands of the last COMMANDS_KEPT seconds, on this channel or EVERYWHERE, after a sequence.

        A stream opens some time after its view granted it, and what was said about it meanwhile holds.
        """

    # Where clients stand.

    @abstractmethod
    def cursor(self) -> str:
        """Return the id of now. Raises BrokerUnavailable."""

    @abstractmethod
    async def acursor(self) -> str:
        """See cursor()."""

    @abstractmethod
    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        """Return where a client stands that comes with this id; without one, or with a foreign one, it stands at now.

        An id of another epoch, or of what this broker has not given out, is a gap on every channel. Raises
        BrokerUnavailable.
        """

    @abstractmethod
    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Position:
        """See locate()."""

    @abstractmethod
    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        """Return every (sequence, frame) after `cursor` that is kept; raises Gap when some are gone."""

    def sweep(self) -> None:  # noqa: B027
        """Drop what is too old; called about once a second by a hub that serves streams."""

    # Hubs.

    @abstractmethod
    def attach(self, receiver: Receiver) -> int:
        """Begin to carry to a hub; return the newest sequence that it will not be given."""

    @abstractmethod
    def detach(self, receiver: Receiver) -> None:
        """Stop carrying to a hub."""

    @abstractmethod
    async def subscribe(self, receiver: Receiver, channel: str) -> int:
        """Begin to carry a channel to a hub; return a sequence after which nothing on it will be missed."""

    @abstractmethod
    async def unsubscribe(self, receiver: Receiver, channel: str) -> None:
        """Stop carrying a channel to a hub."""

    async def sync(self, receiver: Receiver, changes: Sequence[PresenceChange], lease: float) -> PresenceDiff:
        """Write down what changed on a hub, and that what it has told holds for `lease` seconds from now.

        Every other hub that carries one of these channels is told by on_presence(). What a process had whose lease
        ended is gone for everybody: with the next sync() of any process its users have left, and hubs are told.
        Called on the hub's loop, one call at a time, three times in a lease or more often. Raises BrokerUnavailable.
        """
        return PresenceDiff([], [])

    def remote_users(self, receiver: Receiver, channel: str) -> list[Any]:
        """Return the users that other hubs have told of as online on a channel. Called in a thread; may wait."""
        return []

    def holdings(self) -> list[ProcessHoldings]:
        """Return what each process holds, in all of them."""
        return []

    def check(self) -> list[CheckMessage]:
        """Return what `manage.py check` says about how this broker is set up; asks nobody over a network."""
        return []

    def close(self) -> None:  # noqa: B027
        """Let go of what was opened; the broker is not used after that."""

    @abstractmethod
    def users(self, channel: str) -> list[Any]:
        """Return the user of each open connection on a channel, in all processes."""

    @abstractmethod
    async def ausers(self, channel: str) -> list[Any]:
        """See users()."""

    @abstractmethod
    def channels(self) -> list[str]:
        """Return the channels that have a connection, in all processes."""

    @abstractmethod
    async def achannels(self) -> list[str]:
        """See channels()."""


def sequence_of(event_id: str | None, epoch: str, newest: int) -> int | None:
    """Return the sequence that an id stands for; None when this epoch, which has come to `newest`, did not give it."""
    parsed = parse_id(event_id) if event_id else (epoch, newest)
    if parsed is None or parsed[0] != epoch or parsed[1] > newest:
        return None
    return parsed[1]


def frame(epoch: str, sequence: int, payload: bytes, facts: Facts = PLAIN) -> Frame:
    """Return an encoded event as hubs know it: its id comes first."""
    return make_frame(format_id(epoch, sequence), payload, facts)


def holdings_of(receiver: Receiver) -> ProcessHoldings:
    """Return what a hub of this process holds."""
    return ProcessHoldings(receiver.process, {name: receiver.connections(name) for name in receiver.channels()})
