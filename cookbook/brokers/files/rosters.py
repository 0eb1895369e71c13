"""Who is there, in all processes: one small file, in which each has a part that holds for the time of its lease."""

import json
import time

from ds_broadcaster.brokers import GONE, PresenceDiff
from ds_broadcaster.brokers.packing import pack_user, unpack_user

from .journal import write


class Rosters:
    """What each process has told: its lease, and for each channel the connections and the users."""

    def __init__(self, folder):
        self._path = folder / "rosters"

    def sync(self, process, changes, lease):
        """Write down what a process tells, in its turn.

        Returns the PresenceDiff for it, and the channels whose users are others now, each with the process that had
        them.
        """
        now = time.time()
        rosters = self._read()
        before = _people(rosters)
        news = []
        for dead in [name for name, roster in rosters.items() if roster["ends"] <= now and name != process]:
            news += [(channel, dead) for channel in rosters.pop(dead)["users"]]
        is_forgotten = process not in rosters
        mine = rosters.setdefault(process, {"connections": {}, "users": {}})
        mine["ends"] = now + lease
        news += [(channel, process) for channel in _change(mine, changes)]
        write(self._path, json.dumps(rosters).encode())
        after = _people(rosters)
        next_end = min(roster["ends"] for roster in rosters.values()) - now
        return PresenceDiff(_plain(after - before), _plain(before - after), is_forgotten, next_end), news

    def living(self, but):
        """Return what the processes hold whose lease has not ended, but for some of them."""
        now = time.time()
        return {name: each for name, each in self._read().items() if each["ends"] > now and name not in but}

    def _read(self):
        try:
            return json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}


def _change(roster, changes):
    """Write changes into a part, and return the channels on which there are other users now."""
    users, connections = roster["users"], roster["connections"]
    news = {}
    for channel, user, count in changes:
        held, key = (connections, channel) if user is None else (users.setdefault(channel, {}), pack_user(user))
        if user is not None and (key in held) == (count == GONE):
            news[channel] = None
        if count == GONE:
            held.pop(key, None)
        else:
            held[key] = count
    roster["users"] = {channel: theirs for channel, theirs in users.items() if theirs}
    return news


def _people(rosters):
    """Return each user on each channel, once, in however many processes they are."""
    return {(name, user) for each in rosters.values() for name, users in each["users"].items() for user in users}


def _plain(people):
    return [(channel, unpack_user(user)) for channel, user in sorted(people)]
