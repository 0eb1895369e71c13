"""The broker itself."""

import asyncio
import logging
import threading
import time
from collections import deque
from contextvars import Context
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from ds_broadcaster.brokers import (
    COMMANDS_KEPT,
    EVERYWHERE,
    LEASE,
    PLAIN,
    Broker,
    Command,
    GivenCommand,
    Position,
    frame,
    sequence_of,
)
from ds_broadcaster.brokers.packing import pack_command, pack_event, unpack_command, unpack_event
from ds_broadcaster.log import Log

from .journal import Journal, asking
from .presence import FilePresence

logger = logging.getLogger("ds_broadcaster")

# Seconds between two looks at the journal, and after a failed one.
POLL = 0.02
PAUSE = 1.0


class FileBroker(Broker):
    """Carries between the processes of one machine. LOCATION is a folder of its own, best in memory."""

    def __init__(self, location, options, history):
        super().__init__(location, options, history)
        if not (isinstance(location, str) and location):
            raise ImproperlyConfigured("DS_BROADCASTER_BROKER['LOCATION'] must be the path of a folder.")
        self._journal = Journal(Path(location))
        self.presence = FilePresence(self._journal, history.max_total_bytes, options.get("lease", LEASE))
        # The journal is known up to `_position`; what is kept of it is complete after `_floor`.
        self.epoch, self._position, self._floor = "", 0, 0
        self._logs = {}
        self._commands = deque()
        # The channels of each attached hub, and the task that reads the journal for it.
        self._subscribed = {}
        self._tasks = {}
        self._lock = threading.Lock()

    # section: publish
    def publish(self, channel, payload, facts=PLAIN):
        return self._write(channel, "event", pack_event(payload, facts).decode("utf-8", "surrogateescape"))

    def command(self, channel, command):
        self._write(channel, "command", pack_command(channel, command).decode())

    def _write(self, channel, kind, text):
        with asking(), self._journal.turn():
            return self._journal.append(channel, kind, text, self.limits.max_total_bytes)

    # end: publish

    # section: catch_up
    def _catch_up(self):
        """Read new records, and deliver them to the attached hubs in their order."""
        with asking(), self._lock:
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
                for receiver in self._subscribed:
                    receiver.on_position(self._position)

    def _take(self, record, is_new):
        sequence, channel, kind, at, text = record
        receivers = [each for each, channels in self._subscribed.items() if is_new and channel in channels]
        if kind == "presence":
            for receiver in receivers:
                if receiver.process != text:
                    receiver.on_presence(channel)
            return
        if kind == "event":
            item = frame(self.epoch, sequence, *unpack_event(text.encode("utf-8", "surrogateescape")))
            if not item.facts.is_transient:
                # The log drops what this event makes superfluous.
                self._logs.setdefault(channel, Log(self._floor)).append(sequence, item, at)
                self._log(channel)
        else:
            item = unpack_command(text)[1]
            self._commands.append((sequence, at, channel, item))
            if item.verb == "kill":
                self._logs[channel] = Log(sequence)
        for receiver in receivers:
            receiver.deliver(channel, sequence, item)

    # end: catch_up

    # section: lost
    def _begin_anew(self, head):
        """Start over: the sequences begin again."""
        if self.epoch:
            for receiver in self._subscribed:
                receiver.reset(head.epoch)
        self.epoch, self._position, self._floor = head.epoch, head.base, head.base
        self._logs.clear()
        self._commands.clear()

    def _skip_to(self, position):
        """Tell hubs of records that were cut before this process read them: it was stopped for a while."""
        self._position = position
        for receiver, channels in self._subscribed.items():
            for channel in channels - {EVERYWHERE}:
                receiver.on_gap(channel)
                receiver.on_presence(channel)
            # There may have been commands. A recheck refuses the users whom they would have put out.
            receiver.deliver(EVERYWHERE, position, Command("recheck"))

    def _forget(self, base):
        """Drop what the journal has dropped."""
        if base > self._floor:
            self._floor = base
            for log in self._logs.values():
                while log.oldest() <= base:
                    log.drop()
                log.floor = max(log.floor, base)

    def _log(self, channel):
        """Return a channel's history, trimmed to the limits."""
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

    # end: lost

    # section: positions
    def locate(self, channels, event_id):
        self._catch_up()
        with self._lock:
            newest = self._position
            cursor = sequence_of(event_id, self.epoch, newest)
            if cursor is None:
                return Position(self.epoch, newest, newest, frozenset(channels))
            gaps = frozenset(name for name in channels if not self._log(name).covers(cursor))
            refreshed = frozenset(name for name in channels if self._log(name).refreshed_at > cursor)
            return Position(self.epoch, newest, newest if len(gaps) == len(channels) else cursor, gaps, refreshed)

    async def read(self, channel, cursor):
        await asyncio.to_thread(self._catch_up)
        with self._lock:
            return self._log(channel).after(cursor)

    async def commands(self, channels, seconds):
        await asyncio.to_thread(self._catch_up)
        names, now = {*channels, EVERYWHERE}, time.time()
        with self._lock:
            kept = [
                GivenCommand(item, sequence, now - at) for sequence, at, name, item in self._commands if name in names
            ]
        return [given for given in kept if given.age <= seconds]

    # end: positions

    # section: hubs
    def receivers(self):
        return list(self._subscribed)

    def attach(self, receiver):
        # A new dict: a thread may be iterating over the old one.
        self._subscribed = {**self._subscribed, receiver: {EVERYWHERE}}
        # Not in the context of the request that happens to be the first.
        self._tasks[receiver] = asyncio.get_running_loop().create_task(self._follow(), context=Context())
        return self._position

    def detach(self, receiver):
        self._subscribed = {each: channels for each, channels in self._subscribed.items() if each is not receiver}
        task = self._tasks.pop(receiver, None)
        if task is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self):
        for receiver in self.receivers():
            self.detach(receiver)

    async def _follow(self):
        while True:
            try:
                await asyncio.to_thread(self._catch_up)
            except Exception:
                logger.exception("The journal could not be read; trying again.")
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(POLL)

    async def subscribe(self, receiver, channel):
        await asyncio.to_thread(self._catch_up)
        with self._lock:
            self._subscribed[receiver].add(channel)
            # The caller notes it before its loop takes another turn, and so before what comes next.
            return self._position

    async def unsubscribe(self, receiver, channel):
        with self._lock:
            self._subscribed.get(receiver, set()).discard(channel)

    # end: hubs
