"""The embedded broker: one process, nothing to install."""

import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from django.core.handlers.asgi import ASGIHandler

from ..conf import History
from ..ids import format_id, new_epoch
from ..log import CUT_TO, LOG_OVERHEAD, Log, drop_oldest
from ..sse import PLAIN, Facts, Frame, make_frame
from .base import COMMANDS_KEPT, EVERYWHERE, Broker, Command, GivenCommand, Position, Receiver, T, sequence_of

logger = logging.getLogger("ds_broadcaster")

WHAT_TO_SET = (
    'For several processes set DS_BROADCASTER_BROKER to {"BACKEND": "ds_broadcaster.brokers.redis.RedisBroker", '
    '"LOCATION": "redis://..."}, or to the PostgreSQL broker.'
)

_WORKERS = re.compile(r"(?:^|\s)(?:--workers[= ]|-w[= ]?)(\d+)")


def worker_count() -> int:
    """Return the number of worker processes that this server was told to run; 1 where nothing says so.

    uvicorn, gunicorn, hypercorn and granian all take `--workers`, and a worker has its parent's arguments.
    """
    told = _WORKERS.search(" ".join(sys.argv[1:]))
    number = told[1] if told is not None else os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdigit() else 1


class _KeptCommand(NamedTuple):
    channel: str
    sequence: int
    given: float
    command: Command


class MemoryBroker(Broker):
    """Carries within one process and keeps history in its memory.

    One lock orders everything: hubs get events in the order of their sequences. `clock` gives monotonic seconds.
    """

    # True after the first ASGI request. A shell, a cron job or a Celery worker has no clients, and never will.
    serves = False
    # Whether it warns where the server runs more than one process.
    warns_of_workers = True

    def __init__(
        self,
        location: str | Sequence[str],
        options: Mapping[str, Any],
        history: History,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(location, options, history)
        self.epoch = new_epoch()
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence = 0
        self._logs: dict[str, Log] = {}
        self._size = 0
        # The newest event in any dropped log: a channel without a log is complete only from here on.
        self._forgotten = 0
        self._receivers: list[Receiver] = []
        self._commands: deque[_KeptCommand] = deque()
        self._warned = False
        self._swept = clock()

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)  # Nothing here blocks.

    def publish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int:
        with self._lock:
            now = self._clock()
            self._sequence = sequence = self._sequence + 1
            frame = make_frame(format_id(self.epoch, sequence), payload, facts)
            if not facts.is_transient:
                self._keep(channel, sequence, frame, now)
            for receiver in self._receivers:
                receiver.deliver(channel, sequence, frame)
            receivers = self._receivers
        if not receivers and not self.serves and not self._warned:
            self._warned = True
            logger.warning(
                "Sent to channel %r, but this process serves no pages, and the memory broker reaches only clients "
                "of its own process. %s This is logged once.",
                channel,
                WHAT_TO_SET,
            )
        for receiver in receivers:
            receiver.throttle()
        return sequence

    async def apublish(self, channel: str, payload: bytes, facts: Facts = PLAIN) -> int:
        sequence = self.publish(channel, payload, facts)
        for receiver in self._receivers:
            await receiver.athrottle()
        return sequence

    def command(self, channel: str, command: Command) -> None:
        with self._lock:
            now = self._clock()
            self._sequence += 1
            if command.verb == "kill":
                self._forget(channel)
            while self._commands and self._commands[0].given < now - COMMANDS_KEPT:
                self._commands.popleft()
            self._commands.append(_KeptCommand(channel, self._sequence, now, command))
            for receiver in self._receivers:
                receiver.deliver(channel, self._sequence, command)

    async def commands(self, channels: Collection[str], seconds: float) -> list[GivenCommand]:
        names = {*channels, EVERYWHERE}
        with self._lock:
            now = self._clock()
            # The newest are last, and few streams take long to open.
            newer = takewhile(lambda each: each.given >= now - seconds, reversed(self._commands))
            found = [
                GivenCommand(each.command, each.sequence, now - each.given) for each in newer if each.channel in names
            ]
            return found[::-1]

    def heard(self) -> int:
        return self._sequence

    def cursor(self) -> str:
        return format_id(self.epoch, self._sequence)

    def locate(self, channels: Sequence[str], event_id: str | None) -> Position:
        granted = self._sequence
        cursor = sequence_of(event_id, self.epoch, granted)
        if cursor is None:
            return Position(self.epoch, granted, granted, frozenset(channels))
        gaps = frozenset(name for name in channels if not self.covers(name, cursor))
        refreshed = frozenset(name for name in channels if self._refreshed_at(name) > cursor)
        return Position(self.epoch, granted, granted if len(gaps) == len(channels) else cursor, gaps, refreshed)

    def _refreshed_at(self, channel: str) -> int:
        log = self._logs.get(channel)
        return 0 if log is None else log.refreshed_at

    def covers(self, channel: str, cursor: int) -> bool:
        """Tell whether a channel still has everything after `cursor`."""
        with self._lock:
            log = self._fresh_log(channel)
            return cursor >= self._forgotten if log is None else log.covers(cursor)

    def floor(self, channel: str) -> int:
        with self._lock:
            log = self._logs.get(channel)
            return self._forgotten if log is None else log.floor

    async def read(self, channel: str, cursor: int) -> list[tuple[int, Frame]]:
        with self._lock:
            log = self._fresh_log(channel)
            return (Log(self._forgotten) if log is None else log).after(cursor)

    def sweep(self) -> None:
        now = self._clock()
        # A sweep visits every channel, so it runs at a fraction of the age it looks for.
        if now - self._swept < min(self.limits.max_age / 10, 30):
            return
        with self._lock:
            self._swept = now
            for channel in list(self._logs):
                if self._fresh_log(channel, now) is not None and not self._logs[channel]:
                    self._forget(channel)

    def receivers(self) -> Collection[Receiver]:
        return self._receivers

    def attach(self, receiver: Receiver) -> int:
        if self.warns_of_workers and (workers := worker_count()) > 1:
            logger.warning(
                "This is one of %d worker processes, and the memory broker reaches only clients of the process that "
                "sends: the others go without. %s Or run one worker.",
                workers,
                WHAT_TO_SET,
            )
        with self._lock:
            # A new list: publish() iterates over the old one after releasing the lock.
            self._receivers = [*self._receivers, receiver]
            return self._sequence

    def detach(self, receiver: Receiver) -> None:
        with self._lock:
            self._receivers = [each for each in self._receivers if each is not receiver]

    async def subscribe(self, receiver: Receiver, channel: str) -> int:
        return self._sequence

    async def unsubscribe(self, receiver: Receiver, channel: str) -> None:
        pass

    def _keep(self, channel: str, sequence: int, frame: Frame, now: float) -> None:
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = Log(self._forgotten)
            self._size += LOG_OVERHEAD
        before = log.size
        log.append(sequence, frame, now)
        log.trim(self.limits, now)
        self._size += log.size - before
        if self._size > self.limits.max_total_bytes:
            self._cut()

    def _fresh_log(self, channel: str, now: float | None = None) -> Log | None:
        """Return a channel's log, trimmed to the limits."""
        log = self._logs.get(channel)
        if log is not None:
            self._size -= log.trim(self.limits, self._clock() if now is None else now)
        return log

    def _forget(self, channel: str) -> None:
        """Drop a channel's log: older cursors become gaps."""
        log = self._logs.pop(channel, None)
        if log is not None:
            self._size -= log.size + LOG_OVERHEAD
            self._forgotten = max(self._forgotten, log.last)

    def _cut(self) -> None:
        """Drop the oldest events of all channels until they fit the cap."""
        self._forget_empty()
        while self._logs and (excess := self._size - int(self.limits.max_total_bytes * CUT_TO)) > 0:
            self._size -= drop_oldest(self._logs.values(), excess)
            self._forget_empty()

    def _forget_empty(self) -> None:
        for channel in [channel for channel, log in self._logs.items() if not log]:
            self._forget(channel)


def notice_request(sender: type, **kwargs: Any) -> None:
    """Note that this process serves pages; receives Django's request_started."""
    if issubclass(sender, ASGIHandler):
        MemoryBroker.serves = True
