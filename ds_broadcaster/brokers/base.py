"""What every broker does: carry, order, keep. Dispatching to clients is the hub's work, never the broker's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..conf import History
from ..ids import parse_id

# Seconds between a view that grants a stream and its opening, at the most: Django's middleware is all there is.
COMMANDS_KEPT = 60


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


class Place(NamedTuple):
    """Where a client stands, by the id that it brought.

    It is at `cursor`; channels in `gaps` cannot serve it from there and begin at `granted`, the newest sequence.
    """

    granted: int
    cursor: int
    gaps: frozenset[str] = frozenset()


class Receiver(Protocol):
    """What a broker sees of a hub. Each method may be called from any thread and returns at once, unless said."""

    def deliver(self, channel: str, sequence: int, item: bytes | Command) -> None:
        """Take an event's frame, or a command, in the order of the sequences."""

    def missed(self, channel: str) -> None:
        """Have clients of a channel start anew: between what was delivered and what comes next some events are gone."""

    def reset(self) -> None:
        """Have every client start anew: the sequences begin again."""

    def throttle(self) -> None:
        """Make a publisher in another thread wait, a bounded time, while the hub is far behind."""

    def attended(self, channel: str) -> None:
        """Show again who is there: the users that another process has on the channel changed."""

    def users(self, channel: str) -> list[Any]:
        """Return the user of each open connection on a channel."""

    def graced(self, channel: str) -> list[Any]:
        """Return the users who have no connection on a channel, but are shown as online still."""

    def channels(self) -> list[str]:
        """Return the channels that have a connection."""


class Broker(ABC):
    """Carries events and commands between publishers and hubs.

    A sequence counts everything published, over all channels. `epoch` names the life of that counter: when the
    counter begins anew, or history was lost, the epoch must change.
    """

    epoch: str

    def __init__(self, location: str | Sequence[str], options: Mapping[str, Any], history: History) -> None:
        self.location = location
        self.options = options
        self.limits = history

    # Publishing: from any process and thread, with or without an event loop.

    @abstractmethod
    def publish(self, channel: str, payload: bytes) -> int:
        """Give an encoded event the next sequence, keep it, and carry it to every hub; return the sequence.

        Raises BrokerUnavailable, within a bounded time, when that is not possible.
        """

    @abstractmethod
    async def apublish(self, channel: str, payload: bytes) -> int:
        """See publish()."""

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
    def locate(self, channels: Sequence[str], event_id: str | None) -> Place:
        """Return where a client stands that comes with this id; without one, or with a foreign one, it stands at now.

        An id of another epoch, or of what this broker has not given out, is a gap on every channel. Raises
        BrokerUnavailable.
        """

    @abstractmethod
    async def alocate(self, channels: Sequence[str], event_id: str | None) -> Place:
        """See locate()."""

    @abstractmethod
    async def read(self, channel: str, cursor: int) -> list[tuple[int, bytes]]:
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
    async def subscribe(self, channel: str) -> int:
        """Begin to carry this channel here; return a sequence after which nothing on it will be missed."""

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Stop carrying this channel here."""

    def changed(self, channel: str) -> None:  # noqa: B027
        """Take note that other users are on a channel of a hub; called on the hub's loop."""

    def elsewhere(self, channel: str) -> list[Any]:
        """Return the users that other processes show as online on a channel. Called in a thread; may wait."""
        return []

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
