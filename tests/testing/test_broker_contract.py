"""The contract notices mistakes: each broker here makes one."""

from pathlib import Path

import pytest

from cookbook.brokers.files import FileBroker
from cookbook.brokers.files.presence import FilePresence
from ds_broadcaster.brokers import GONE, PLAIN, Frame
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract
from ds_broadcaster.testing.brokers import cluster, events, receiver


class LosesOrder(FileBroker):
    """Delivers each second record after the one that follows it."""

    held = None

    def _take(self, record, is_new):
        if self.held is None:
            self.held = record
            return
        held, self.held = self.held, None
        super()._take(record, is_new)
        super()._take(held, is_new)


class Doubles(FileBroker):
    """Writes twice, as a client that retries without knowing the first result."""

    def _write(self, channel, kind, text):
        super()._write(channel, kind, text)
        return super()._write(channel, kind, text)


class ForgetsHistory(FileBroker):
    """Serves a returning client what is left, and does not tell it that something is missing."""

    def locate(self, channels, event_id):
        return super().locate(channels, event_id)._replace(gaps=frozenset())


class DropsCommands(FileBroker):
    """Commands reach no hub."""

    def command(self, channel, command):
        pass


class LosesFactsInPublishing(FileBroker):
    """Writes events without their facts."""

    def publish(self, channel, payload, facts=PLAIN):
        return super().publish(channel, payload)


class LosesFactsInHistory(FileBroker):
    """Replays events without their facts."""

    async def read(self, channel, cursor):
        return [(sequence, Frame(frame.data)) for sequence, frame in await super().read(channel, cursor)]


class LosesFactsInDelivery(FileBroker):
    """Delivers events without their facts."""

    def attach(self, receiver):
        deliver = receiver.deliver

        def deliver_bytes(channel, sequence, item):
            deliver(channel, sequence, Frame(item.data) if isinstance(item, Frame) else item)

        receiver.deliver = deliver_bytes
        return super().attach(receiver)


class WithPresence(FileBroker):
    """The file broker with another presence store."""

    Store = FilePresence

    def __init__(self, location, options, history):
        super().__init__(location, options, history)
        self.presence = self.Store(self._journal, history.max_total_bytes, self.presence.lease)


class LeaksUsers(WithPresence):
    """Users who leave stay online."""

    class Store(FilePresence):
        async def sync(self, receiver, changes, lease, memory):
            return await super().sync(receiver, [each for each in changes if each.connections != GONE], lease, memory)


class NeverExpires(WithPresence):
    """What a dead process has told holds for ever."""

    class Store(FilePresence):
        async def sync(self, receiver, changes, lease, memory):
            return await super().sync(receiver, changes, 1_000_000, memory)


class ForgetsUsers(WithPresence):
    """Each sync() loses what the other processes have told."""

    class Store(FilePresence):
        def _sync(self, process, changes, lease, memory):
            self._path.unlink(missing_ok=True)
            return super()._sync(process, changes, lease, memory)


class HidesThatItForgot(WithPresence):
    """A process that was taken for dead is not told to tell everything again."""

    class Store(FilePresence):
        async def sync(self, receiver, changes, lease, memory):
            return (await super().sync(receiver, changes, lease, memory))._replace(is_forgotten=False)


class WaitsWithoutALoss(WithPresence):
    """A store that no process knew before waits for those who might have."""

    class Store(FilePresence):
        def _sync(self, process, changes, lease, memory):
            return super()._sync(process, changes, lease, memory or "lost")


class HearsOfNoLoss(WithPresence):
    """A store that lost its memory goes on as if it had none before."""

    class Store(FilePresence):
        def _sync(self, process, changes, lease, memory):
            return super()._sync(process, changes, lease, None)


class TellsAgain(WithPresence):
    """A store that lost its memory takes what it is told again for new."""

    class Store(FilePresence):
        async def sync(self, receiver, changes, lease, memory):
            changes = [each._replace(is_known=False) for each in changes]
            return await super().sync(receiver, changes, lease, memory)


class KeepsItsNameForAnotherMemory(WithPresence):
    """A store that lost its memory says that it did not."""

    class Store(FilePresence):
        async def sync(self, receiver, changes, lease, memory):
            return (await super().sync(receiver, changes, lease, memory))._replace(memory="")


class TellsChangeByChange(WithPresence):
    """Each dead process, and then the changes, are told for themselves."""

    class Store(FilePresence):
        def _sync(self, process, changes, lease, memory):
            buried = super()._sync("gravedigger", [], 0, None)
            diff = super()._sync(process, changes, lease, memory)
            return diff._replace(joined=buried.joined + diff.joined, left=buried.left + diff.left)


class CountsGraceAsConnection(WithPresence):
    """Users online by grace alone have a connection."""

    class Store(FilePresence):
        def online(self, channel, *, excluding=()):
            return [(user, max(count, 1)) for user, count in super().online(channel, excluding=excluding)]


class CountsItselfAsRemote(WithPresence):
    """The processes to leave out are asked too."""

    class Store(FilePresence):
        def online(self, channel, *, excluding=()):
            return super().online(channel)


class HasNoPresence(FileBroker):
    """Hubs share events, and each tells for itself who is online."""

    def __init__(self, location, options, history):
        super().__init__(location, options, history)
        self.presence = None


class OnFiles(BrokerContract):
    """The contract, on a broker of this class in this folder."""

    def __init__(self, broker_class, folder):
        self.broker_class, self.folder, self.brokers = broker_class, folder, []

    def make_broker(self, **history):
        broker = self.broker_class(str(self.folder), {}, History(**history))
        self.brokers.append(broker)
        return broker

    def forget(self):
        (self.folder / "presence").unlink()


TESTS = [name for name in dir(BrokerContract) if name.startswith("test_")]


def failures(broker_class, folder: Path, names=TESTS):
    """Return the tests of the contract that a broker fails."""
    failed = set()
    for name in names:
        contract = OnFiles(broker_class, folder / name)
        try:
            getattr(contract, name)()
        except Exception:
            failed.add(name)
        finally:
            for broker in contract.brokers:
                broker.close()
    return failed


@pytest.fixture(autouse=True)
def _impatience(monkeypatch):
    for module in (receiver, events, cluster):
        monkeypatch.setattr(module, "PATIENCE", 0.3)


@pytest.mark.parametrize(
    "broken,noticed_by",
    [
        (LosesOrder, "test_threads_and_processes_publish_without_losing_or_doubling"),
        (Doubles, "test_subscriber_hears_everything_after_the_sequence_it_was_told"),
        (ForgetsHistory, "test_cursor_before_the_history_is_a_gap"),
        (DropsCommands, "test_command_comes_after_what_was_published_before_it"),
        (LosesFactsInPublishing, "test_facts_are_carried_and_kept_beside_the_bytes"),
        (LosesFactsInHistory, "test_facts_are_carried_and_kept_beside_the_bytes"),
        (LosesFactsInDelivery, "test_facts_are_carried_and_kept_beside_the_bytes"),
        (LeaksUsers, "test_joins_and_leaves_are_told_once_in_all_processes"),
        (NeverExpires, "test_dead_process_leaves_no_ghosts_longer_than_its_lease"),
        (ForgetsUsers, "test_joins_and_leaves_are_told_once_in_all_processes"),
        (HidesThatItForgot, "test_process_taken_for_dead_tells_everything_again"),
        (WaitsWithoutALoss, "test_new_store_tells_a_join_in_the_very_call"),
        (HearsOfNoLoss, "test_store_that_lost_its_memory_waits_from_when_a_process_says_so"),
        (TellsAgain, "test_store_that_lost_its_memory_tells_nobody_again"),
        (KeepsItsNameForAnotherMemory, "test_store_that_lost_its_memory_tells_nobody_again"),
        (
            TellsChangeByChange,
            "test_user_who_returns_in_the_call_that_removes_their_dead_process_neither_joins_nor_leaves",
        ),
        (CountsGraceAsConnection, "test_user_online_by_grace_is_remote_but_has_no_connection"),
        (CountsItselfAsRemote, "test_users_and_channels_are_those_of_the_hubs"),
    ],
)
def test_contract_fails_on_a_broker_that(broken, noticed_by, tmp_path):
    assert failures(broken, tmp_path, [noticed_by]) == {noticed_by}


def test_contract_passes_on_the_broker_that_these_break(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert failures(FileBroker, tmp_path) == set()


def test_contract_asks_nothing_about_presence_of_a_broker_that_has_none(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert failures(HasNoPresence, tmp_path) == set()
