"""The scripts in lua/: each runs on the server in one atomic step.

The keys; the braces in the prefix keep them in one slot of a cluster:

    {p}:state         epoch, seq (the newest sequence), forgotten (the newest event of any dropped history), total (the
                      bytes in all histories), and run (the run of a primary that wrote all this)
    {p}:last          channel -> its newest sequence
    {p}:floor         channel -> the newest sequence dropped from its history
    {p}:size          channel -> the bytes in its history
    {p}:times         channels by the time of their newest event
    {p}:refreshed     channel -> its newest refresh, or event of that kind
    {p}:commands      the commands of the last minute, each after its epoch and sequence, by their time
    {p}:processes     the processes that serve streams, by the end of their lease
    {p}:presence      the epoch, and settles (the time from which joins and leaves are told in it, in ms, or 0)
    {p}:owed          whose join or leave is still to be told: <the length of the channel>:<channel><user>
    {p}:r:<process>   what a process holds: channel -> its connections; without a channel, the epoch of that
    {p}:u:<process>:<channel>   user -> their connections, the time of their join in ms, whether they are away (0 or 1),
                      and their tabs, with a space between
    {p}:h:<channel>   the history: a stream whose ids are the sequences, with time and payload
    {p}:w:<channel>   what a later event may make superfluous: what it replaces -> its sequence and the tab left out,
                      for each of those; without a name, that of the newest event about elements, if it is a container

Every script takes the first five keys, and {p}:refreshed as its last one; its first argument is a fresh epoch.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "lua"


class Script(NamedTuple):
    """A script and its name on the server."""

    text: str
    sha: str


def _load(name: str) -> Script:
    begin = (_FOLDER / "begin.lua").read_text()
    text = begin + (_FOLDER / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH = _load("publish")
COMMAND = _load("command")
COMMANDS = _load("commands")
LOCATE = _load("locate")
READ = _load("read")
SHARE = _load("share")
ROSTER = _load("roster")
SWEEP = _load("sweep")
TAB = _load("tab")
