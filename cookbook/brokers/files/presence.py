"""Who is online, in all processes: one small file with a part for each process, which holds for its lease."""

import asyncio
import json
import time

from ds_broadcaster.brokers import GONE, PresenceDiff, PresenceStore, ProcessHoldings
from ds_broadcaster.brokers.packing import pack_user, unpack_user
from ds_broadcaster.ids import new_epoch

from .journal import asking, write


class FilePresence(PresenceStore):
    """Writes in its turn, like a publisher, and tells the others of changes in the journal."""

    def __init__(self, journal, max_journal_bytes, lease):
        super().__init__(lease)
        self._journal, self._limit = journal, max_journal_bytes
        self._path = journal.folder / "presence"

    async def sync(self, receiver, changes, lease, memory):
        return await asyncio.to_thread(self._sync, receiver.process, changes, lease, memory)

    def _sync(self, process, changes, lease, memory):
        with asking(), self._journal.turn():
            now = time.time()
            state = self._read() or {"memory": new_epoch(), "settles": 0, "processes": {}, "owed": []}
            # A process from before proves that something is lost: for a lease, others from before may follow.
            if memory not in (None, state["memory"]) and not state["settles"]:
                state["settles"] = now + lease
            processes = state["processes"]
            # What the cluster was told: who is online, but for the joins and leaves that still wait.
            told = _online(processes) ^ {tuple(pair) for pair in state["owed"]}
            told |= {(each.channel, pack_user(each.user)) for each in changes if each.is_known}
            news = []
            for dead in [name for name, each in processes.items() if each["ends"] <= now and name != process]:
                news += [(channel, dead) for channel in processes.pop(dead)["users"]]
            is_forgotten = process not in processes
            mine = processes.setdefault(process, {"connections": {}, "users": {}})
            mine["ends"] = now + lease
            news += [(channel, process) for channel in _apply(changes, mine)]
            online = _online(processes)
            is_settled = state["settles"] <= now
            joined, left = (online - told, told - online) if is_settled else (set(), set())
            state["owed"] = [] if is_settled else sorted(online ^ told)
            write(self._path, json.dumps(state).encode())
            for channel, whose in news:
                self._journal.append(channel, "presence", whose, self._limit)
        ends = [each["ends"] for each in processes.values()] + ([] if is_settled else [state["settles"]])
        return PresenceDiff(
            _unpacked(joined), _unpacked(left), is_forgotten, min(ends) - now, state["memory"], is_settled
        )

    def online(self, channel, *, excluding=()):
        for _, each in self._living(excluding):
            for user, connections in each["users"].get(channel, {}).items():
                yield unpack_user(user), connections

    def holdings(self, *, excluding=()):
        return [
            ProcessHoldings(name, {channel: count for channel, count in each["connections"].items() if count})
            for name, each in self._living(excluding)
        ]

    def _living(self, excluding):
        with asking():
            now, state = time.time(), self._read()
        processes = state["processes"].items() if state else ()
        return [(name, each) for name, each in processes if each["ends"] > now and name not in excluding]

    def _read(self):
        try:
            return json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None


def _apply(changes, part):
    """Write changes into a process's part, and return the channels that have other users now."""
    users, connections = part["users"], part["connections"]
    news = {}
    for channel, user, count, _ in changes:
        held, key = (connections, channel) if user is None else (users.setdefault(channel, {}), pack_user(user))
        if user is not None and (key in held) == (count == GONE):
            news[channel] = None
        if count == GONE:
            held.pop(key, None)
        else:
            held[key] = count
    part["users"] = {channel: theirs for channel, theirs in users.items() if theirs}
    return news


def _online(processes):
    """Return each user on each channel, once, however many processes they are on."""
    return {(name, user) for each in processes.values() for name, users in each["users"].items() for user in users}


def _unpacked(users):
    return [(channel, unpack_user(user)) for channel, user in sorted(users)]
