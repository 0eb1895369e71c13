"""The contract notices what is wrong: each broker here breaks it in one way."""

from pathlib import Path

import pytest

from cookbook.brokers.files import FileBroker
from ds_broadcaster.brokers import GONE
from ds_broadcaster.conf import History
from ds_broadcaster.testing import BrokerContract, events
from ds_broadcaster.testing import receiver as ear


class LosesOrder(FileBroker):
    """Each second event is handed over behind the one that follows it."""

    held = None

    def _hand_over(self, receiver, channel, sequence, item):
        if self.held is None:
            self.held = (receiver, channel, sequence, item)
            return
        held, self.held = self.held, None
        super()._hand_over(receiver, channel, sequence, item)
        super()._hand_over(*held)


class Doubles(FileBroker):
    """What is written is written twice, as by a client that tries again without knowing."""

    def _write(self, channel, kind, text):
        super()._write(channel, kind, text)
        return super()._write(channel, kind, text)


class ForgetsHistory(FileBroker):
    """Whoever returns is served what is left, and not told that something is missing."""

    def locate(self, channels, event_id):
        return super().locate(channels, event_id)._replace(gaps=frozenset())


class LeaksRoster(FileBroker):
    """Those who leave stay in the roster."""

    async def sync(self, receiver, changes, lease):
        return await super().sync(receiver, [each for each in changes if each.connections != GONE], lease)


class DropsControls(FileBroker):
    """Commands reach nobody."""

    def command(self, channel, command):
        pass


class NeverExpires(FileBroker):
    """What a dead process has told holds for ever."""

    async def sync(self, receiver, changes, lease):
        return await super().sync(receiver, changes, 1_000_000)


class OnFiles(BrokerContract):
    """The contract, on a broker of this class in this folder."""

    def __init__(self, broker_class, folder):
        self.broker_class, self.folder, self.brokers = broker_class, folder, []

    def make_broker(self, **history):
        broker = self.broker_class(str(self.folder), {}, History(**history))
        self.brokers.append(broker)
        return broker


def failures(broker_class, folder: Path):
    """Return the tests of the contract that a broker fails."""
    failed = set()
    for name in dir(BrokerContract):
        if name.startswith("test_"):
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
    for module in (ear, events):
        monkeypatch.setattr(module, "PATIENCE", 0.3)


@pytest.mark.parametrize(
    "broken,noticed_by",
    [
        (LosesOrder, "test_threads_and_processes_publish_without_losing_or_doubling"),
        (Doubles, "test_subscriber_hears_everything_after_the_sequence_it_was_told"),
        (ForgetsHistory, "test_cursor_before_the_history_is_a_gap"),
        (LeaksRoster, "test_joins_and_leaves_are_told_once_in_all_processes"),
        (DropsControls, "test_command_comes_behind_what_was_published_before_it"),
        (NeverExpires, "test_dead_process_leaves_no_ghosts_longer_than_its_lease"),
    ],
)
def test_contract_fails_on_a_broker_that(broken, noticed_by, tmp_path):
    assert noticed_by in failures(broken, tmp_path)


def test_contract_passes_on_the_broker_that_these_break(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert failures(FileBroker, tmp_path) == set()
