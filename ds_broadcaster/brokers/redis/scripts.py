"""The scripts in lua/: each runs on the server in one atomic step.

The keys; the braces in the prefix keep them in one slot of a cluster:

    {p}:state         four doubles: the newest sequence, the newest event of any dropped history, the bytes in all
                      histories, and the time of the last look at the run; then the epoch and, after a space, the run of
                      the primary that wrote all this
    {p}:channels      channel -> eight doubles: its newest sequence, the newest one dropped from its history, the bytes
                      and the number of the history's events, the times of the newest event and of the last PEXPIRE, the
                      newest refresh, or event of that kind, and the number of names in {p}:w:<channel>; then what the
                      newest event about elements replaces, if that is a container. Without a channel, a mark
    {p}:times         channels by the time of their newest event, or of one up to a tenth of max_age before; without a
                      channel, a mark
    {p}:commands      the commands of the last minute, each after its epoch and sequence, by their time
    {p}:processes     the processes that serve streams, by the end of their lease
    {p}:presence      the epoch, and settles (the time from which joins and leaves are told in it, in ms, or 0)
    {p}:owed          whose join or leave is still to be told: <the length of the channel>:<channel><user>
    {p}:r:<process>   what a process holds: channel -> its connections; without a channel, the epoch of that
    {p}:u:<process>:<channel>   user -> their connections, the time of their join in ms, whether they are away (0 or 1),
                      and their tabs, with a space between
    {p}:h:<channel>   the history: a stream whose ids are the sequences, with time and payload
    {p}:w:<channel>   what a later event may make superfluous: what it replaces -> its sequence, its size and the tab it
                      leaves out, for each of those

Every script takes the first three keys; its first argument is a fresh epoch.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "lua"


class Script(NamedTuple):
    """A script and its name on the server."""

    text: str
    sha: str


def load(*names: str, trusted_for: int = 0) -> Script:
    """Return a script of several files. It trusts what it knows of the server's run for so many milliseconds."""
    texts = [(_FOLDER / f"{name}.lua").read_text() for name in ("begin", *names)]
    text = f"local trusted_for = {trusted_for}\n" + "".join(texts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH = load("history", "publish", trusted_for=10)
COMMAND = load("history", "command")
COMMANDS = load("commands")
LOCATE = load("history", "cover", "locate")
READ = load("history", "cover", "read")
SHARE = load("share")
ROSTER = load("roster")
SWEEP = load("history", "sweep")
TAB = load("tab")
