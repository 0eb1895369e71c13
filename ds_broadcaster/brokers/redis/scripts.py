"""What the Redis broker does on the server, each in one atomic step: the scripts in lua/.

The keys, in one slot of a cluster because of the braces in the prefix:

    {p}:state         epoch, seq (the newest sequence), forgotten (the newest event of all histories that are gone),
                      total (the bytes in all histories), run (the server that all this was written on),
                      and what the last change of servers may have lost: lost_from, lost_to, and unsure
    {p}:last          channel -> its newest sequence
    {p}:floor         channel -> the newest sequence that its history no longer holds
    {p}:size          channel -> the bytes in its history
    {p}:times         channels by the time of their newest event
    {p}:commands      commands of the last minute, by their sequence
    {p}:processes     the processes that serve streams, by the end of their lease
    {p}:r:<process>   what one of them holds: channel -> its connections
    {p}:u:<process>:<channel>   user -> their connections
    {p}:h:<channel>   the history: a stream whose ids are the sequences, with time and payload

Every script takes the first five keys, and as its first argument a fresh epoch.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

# Events that one server may have given out and another, which took its place, not know of.
JUMP = 1_000_000

_FOLDER = Path(__file__).parent / "lua"


class Script(NamedTuple):
    """A script and the name that the server knows it by."""

    text: str
    sha: str


def _load(name: str) -> Script:
    begin = (_FOLDER / "begin.lua").read_text().replace("JUMP", str(JUMP))
    text = begin + (_FOLDER / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH = _load("publish")
COMMAND = _load("command")
LOCATE = _load("locate")
READ = _load("read")
SHARE = _load("share")
ROSTER = _load("roster")
SWEEP = _load("sweep")
