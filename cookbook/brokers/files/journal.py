"""The file that all processes append to."""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from ds_broadcaster import BrokerUnavailable
from ds_broadcaster.ids import new_epoch

# Seconds to wait for another writer.
PATIENCE = 1.5
# Bytes of the first line.
HEAD = 100

# The id of the machine's last start, where it has one.
_boot = Path("/proc/sys/kernel/random/boot_id")
BOOT = _boot.read_text().strip() if _boot.exists() else ""


class Head(NamedTuple):
    """The first line: the epoch, the machine's start, and the bytes of records cut from this file so far."""

    epoch: str
    boot: str
    base: int


class Record(NamedTuple):
    """Any other line: an "event", a "command", or a change of "presence"; `at` is the time of writing."""

    sequence: int
    channel: str
    kind: str
    at: float
    text: str


class Journal:
    """Records in the order of writing. A record's sequence is the number of bytes up to its end."""

    def __init__(self, folder):
        self.folder = folder
        self._path = folder / "journal"

    # section: write
    @contextlib.contextmanager
    def turn(self):
        """Let one thread of one process write at a time; raises BrokerUnavailable after PATIENCE seconds."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        # Closing the file ends the turn, and so does the end of the process, however it ends.
        with (self.folder / "lock").open("w") as lock:
            while not _is_locked(lock):
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"Another process does not release {lock.name}.")
                time.sleep(0.001)
            self._mend()
            yield

    def append(self, channel, kind, text, limit):
        """Write a record in a turn(), and return its sequence. A file over the limit loses its older half."""
        line = json.dumps([channel, kind, time.time(), text]).encode() + b"\n"
        if self._path.stat().st_size > limit:
            self._cut()
        with self._path.open("r+b", buffering=0) as file:
            base = _head(file).base
            end = file.seek(0, os.SEEK_END) + len(line)
            if file.write(line) < len(line):
                raise OSError(f"{self._path} cannot grow: the disk is full.")
        return base + end - HEAD

    def _mend(self):
        """Repair or create the file, so that it can be appended to."""
        with contextlib.suppress(FileNotFoundError), self._path.open("r+b") as file:
            # A loss of power may lose the last records, whose sequences must not be given again.
            if _head(file).boot == BOOT:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # A process died while writing. No process has read it.
                    file.seek(0)
                    file.truncate(file.read().rindex(b"\n") + 1)
                return
        self._replace(Head(new_epoch(), BOOT, 0), b"")

    def _cut(self):
        with self._path.open("rb") as file:
            head, records = _head(file), file.read()
        kept = records[len(records) // 2 :].partition(b"\n")[2]
        self._replace(head._replace(base=head.base + len(records) - len(kept)), kept)

    def _replace(self, head, records):
        write(self._path, json.dumps(head).encode().ljust(HEAD - 1) + b"\n" + records)

    # end: write

    # section: read
    def read(self, epoch, position):
        """Return the head and the records after a position; all records when the epoch is another by now."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            head = _head(file)
            if head.boot == BOOT:
                begin = max(position, head.base) if epoch == head.epoch else head.base
                file.seek(HEAD + begin - head.base)
                # After the last line break comes a record that is being written.
                return head, list(_records(begin, file.read().split(b"\n")[:-1]))
        with self.turn():  # Creates the file.
            pass
        return self.read(epoch, position)

    # end: read


@contextlib.contextmanager
def asking():
    """Raise BrokerUnavailable for what the file system refuses."""
    try:
        yield
    except BrokerUnavailable:  # An OSError too.
        raise
    except OSError as error:
        raise BrokerUnavailable(f"The broker's files could not be used: {error}") from error


def write(path, content):
    """Replace a file's content, in one step for readers."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def _is_locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _head(file):
    return Head(*json.loads(file.read(HEAD)))


def _records(position, lines):
    for line in lines:
        position += len(line) + 1
        yield Record(position, *json.loads(line))
