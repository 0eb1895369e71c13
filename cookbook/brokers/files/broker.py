"""The broker itself."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from contextvars import Context
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from ds_broadcaster import BrokerUnavailable
from ds_broadcaster.brokers import (
    COMMANDS_KEPT,
    EVERYWHERE,
    PLAIN,
    Broker,
    Command,
    Position,
    ProcessHoldings,
    frame,
    holdings_of,
    sequence_of,
)
from ds_broadcaster.brokers.packing import pack_command, pack_event, unpack_command, unpack_event, unpack_user
from ds_broadcaster.ids import format_id
from ds_broadcaster.log import Log

from .journal import Journal
from .rosters import Rosters

logger = logging.getLogger("ds_broadcaster")

# Seconds between two looks at the journal, and until the next where one failed.
POLL = 0.02
PAUSE = 1.0


class FileBroker(Broker):
    """Carries between the processes of one machine. LOCATION is a folder of its own, best one in memory."""

    def __init__(self, location, options, history):
        super().__init__(location, options, history)
        if not (isinstance(location, str) and location):
            raise ImproperlyConfigured("DS_BROADCASTER_BROKER['LOCATION'] must be the path of a folder.")
        self._journal, self._rosters = Journal(Path(location)), Rosters(Path(location))
        # What is known here: the journal up to `_position`, and of it what is kept. Behind `_floor` that is everything.
        self.epoch, self._position, self._floor = "", 0, 0
        self._logs = {}
        self._commands = deque()
        # The channels that each hub here wants, and the task that reads the journal for it.
        self._wanted = {}
        self._tasks = {}
        self._lock = threading.Lock()

    # --8<-- [start:publish]
    def publish(self, channel, payload, facts=PLAIN):
        return self._write(channel, "event", pack_event(payload, facts).decode("utf-8", "surrogateescape"))

    async def apublish(self, channel, payload, facts=PLAIN):
        return await asyncio.to_thread(self.publish, channel, payload, facts)

    def command(self, channel, command):
        self._write(channel, "command", pack_command(channel, command).decode())

    async def acommand(self, channel, command):
        await asyncio.to_thread(self.command, channel, command)

    def _write(self, channel, kind, text):
        with _asking(), self._journal.turn():
            return self._journal.append(channel, kind, text, self.limits.max_total_bytes)

    # --8<-- [end:publish]

    # --8<-- [start:catch_up]
    def _catch_up(self):
        """Read what is new in the journal, and hand it to the hubs here, in its order."""
        with _asking(), self._lock:
            head, records = self._journal.read(self.epoch, self._position)
            is_known = head.epoch == self.epoch
            if not is_known:
                self._begin_anew(head)
            elif head.base > self._position:
                self._skip_to(head.base)
            self._forget(head.base)
            for record in records:
                self._take(record, is_known)
            if records:
                self._position = records[-1].sequence
                for receiver in self._wanted:
                    receiver.on_position(self._position)

    def _take(self, record, is_news):
        sequence, channel, kind, at, text = record
        wanted_by = [receiver for receiver, channels in self._wanted.items() if is_news and channel in channels]
        if kind == "roster":
            for receiver in wanted_by:
                if receiver.process != text:
                    receiver.on_presence(channel)
            return
        if kind == "event":
            item = frame(self.epoch, sequence, *unpack_event(text.encode("utf-8", "surrogateescape")))
            self._logs.setdefault(channel, Log(self._floor)).append(sequence, item, at)
            self._log(channel)
        else:
            item = unpack_command(text)[1]
            self._commands.append((sequence, at, channel, item))
            if item.verb == "kill":
                self._logs[channel] = Log(sequence)
        for receiver in wanted_by:
            self._hand_over(receiver, channel, sequence, item)

    def _hand_over(self, receiver, channel, sequence, item):
        receiver.deliver(channel, sequence, item)

    # --8<-- [end:catch_up]

    # --8<-- [start:lost]
    def _begin_anew(self, head):
        """Take note that the sequences begin again: nothing can go on that was given before."""
        if self.epoch:
            for receiver in self._wanted:
                receiver.reset(head.epoch)
        self.epoch, self._position, self._floor = head.epoch, head.base, head.base
        self._logs.clear()
        self._commands.clear()

    def _skip_to(self, position):
        """Say that something is gone before it was read here, in a process that was stopped for a while."""
        self._position = position
        for receiver, channels in self._wanted.items():
            for channel in channels - {EVERYWHERE}:
                receiver.on_gap(channel)
                receiver.on_presence(channel)
            # There may have been commands. Whoever was to go is not let in again.
            receiver.deliver(EVERYWHERE, position, Command("recheck"))

    def _forget(self, base):
        """Let go of what the journal has let go of."""
        if base > self._floor:
            self._floor = base
            for log in self._logs.values():
                while log.oldest() <= base:
                    log.drop()
                log.floor = max(log.floor, base)

    def _log(self, channel):
        """Return a channel's history, without what is too much, too large or too old."""
        log = self._logs.get(channel)
        if log is None:
            return Log(self._floor)
        log.trim(self.limits, time.time())
        return log

    def sweep(self):
        with self._lock:
            while self._commands and self._commands[0][1] < time.time() - COMMANDS_KEPT:
                self._commands.popleft()
            for channel in list(self._logs):
                if not self._log(channel):
                    self._floor = max(self._floor, self._logs.pop(channel).last)

    # --8<-- [end:lost]

    # --8<-- [start:places]
    def cursor(self):
        return format_id(*self.locate((), None)[:2])

    async def acursor(self):
        return await asyncio.to_thread(self.cursor)

    def locate(self, channels, event_id):
        self._catch_up()
        with self._lock:
            newest = self._position
            cursor = sequence_of(event_id, self.epoch, newest)
            gaps = frozenset(name for name in channels if cursor is None or not self._log(name).covers(cursor))
            return Position(self.epoch, newest, newest if len(gaps) == len(channels) else cursor, gaps)

    async def alocate(self, channels, event_id):
        return await asyncio.to_thread(self.locate, channels, event_id)

    async def read(self, channel, cursor):
        await asyncio.to_thread(self._catch_up)
        with self._lock:
            return self._log(channel).after(cursor)

    async def commands(self, channel, after):
        await asyncio.to_thread(self._catch_up)
        names = (channel, EVERYWHERE)
        with self._lock:
            return [item for sequence, _, name, item in self._commands if sequence > after and name in names]

    # --8<-- [end:places]

    # --8<-- [start:hubs]
    def attach(self, receiver):
        # A new dict, because a thread may be going through the old one.
        self._wanted = {**self._wanted, receiver: {EVERYWHERE}}
        # Not in the context of the request that happens to be the first.
        self._tasks[receiver] = asyncio.get_running_loop().create_task(self._follow(), context=Context())
        return self._position

    def detach(self, receiver):
        self._wanted = {each: channels for each, channels in self._wanted.items() if each is not receiver}
        task = self._tasks.pop(receiver, None)
        if task is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self):
        for receiver in self._wanted:
            self.detach(receiver)

    async def _follow(self):
        while True:
            try:
                await asyncio.to_thread(self._catch_up)
            except Exception:
                logger.exception("The journal could not be read, and will be tried again.")
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(POLL)

    async def subscribe(self, receiver, channel):
        await asyncio.to_thread(self._catch_up)
        with self._lock:
            self._wanted[receiver].add(channel)
            # The caller takes note of it before its loop has a turn, and so before what comes next.
            return self._position

    async def unsubscribe(self, receiver, channel):
        with self._lock:
            self._wanted.get(receiver, set()).discard(channel)

    # --8<-- [end:hubs]

    # --8<-- [start:rosters]
    async def sync(self, receiver, changes, lease):
        return await asyncio.to_thread(self._sync, receiver.process, changes, lease)

    def _sync(self, process, changes, lease):
        with _asking(), self._journal.turn():
            answer, news = self._rosters.sync(process, changes, lease)
            for channel, whose in news:
                self._journal.append(channel, "roster", whose, self.limits.max_total_bytes)
            return answer

    def remote_users(self, receiver, channel):
        others = self._living([receiver.process]).values()
        return [unpack_user(user) for each in others for user in each["users"].get(channel, ())]

    def users(self, channel):
        found = [user for receiver in self._wanted for user in receiver.users(channel)]
        for each in self._living(self._here()).values():
            for user, count in each["users"].get(channel, {}).items():
                found += [unpack_user(user)] * count
        return found

    async def ausers(self, channel):
        return await asyncio.to_thread(self.users, channel)

    def channels(self):
        return list(dict.fromkeys(channel for share in self.holdings() for channel in share.channels))

    async def achannels(self):
        return await asyncio.to_thread(self.channels)

    def holdings(self):
        others = self._living(self._here()).items()
        return [holdings_of(receiver) for receiver in self._wanted] + [
            ProcessHoldings(name, {channel: count for channel, count in each["connections"].items() if count})
            for name, each in others
        ]

    def _living(self, but):
        with _asking():
            return self._rosters.living(but)

    def _here(self):
        return [receiver.process for receiver in self._wanted]

    # --8<-- [end:rosters]


@contextlib.contextmanager
def _asking():
    """Raise BrokerUnavailable for what the file system refuses."""
    try:
        yield
    except BrokerUnavailable:  # Which is an OSError as well.
        raise
    except OSError as error:
        raise BrokerUnavailable(f"The broker's files could not be used: {error}") from error
