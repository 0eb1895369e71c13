"""Programs that tests start: each in a folder of its own, and both are gone at the end."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.harness import selection
from tests.harness.server import descendants, free_port


def wait_until(condition: Callable[[], object], what: str, timeout: float = 10) -> Any:
    """Return what the condition returns as soon as that is true; it is asked again and again."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"Waited {timeout} s for {what}."
        time.sleep(0.02)
    return result


def running_as(user: str | None) -> dict[str, Any]:
    """Return the options of subprocess that make a program this user's, for one that refuses to run as root."""
    if user is None or os.geteuid() != 0:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


class Program:
    """One process and its children, on a free port of the loopback interface.

    A class says how it is called (`command`), and tells by `ping` whether it answers, or raises one of `refusals`
    if it does not yet. The port stays the same when it is started again, and so do its files.
    """

    # Who runs it where the tests run as root, if it refuses to run as root.
    user: str | None = None
    refusals: tuple[type[Exception], ...] = (ConnectionError,)
    # How it ends without finishing what it does, but with time to take away what it holds outside its folder.
    crash = signal.SIGKILL
    # How it ends in good order.
    shutdown = signal.SIGTERM

    def __init__(self) -> None:
        selection.needs("brokers")
        self._folder = tempfile.TemporaryDirectory(prefix="ds-broadcaster-")
        self.folder = Path(self._folder.name)
        self.port = free_port()
        self.frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        if running_as(self.user):
            shutil.chown(self.folder, self.user, self.user)

    def command(self) -> list[str]:
        raise NotImplementedError

    def ping(self) -> None:
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what it printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, timeout: float = 20) -> Self:
        """Start it and return when it answers."""
        assert not self.alive, f"{self.command()[0]} is running already."
        with (self.folder / "log").open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = subprocess.Popen(self.command(), cwd=self.folder, **streams, **running_as(self.user))
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(*self.refusals):
                self.ping()
                return self
            # Waiting for it to end is the pause between two tries.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(0.02)
                raise AssertionError(f"{self._process.args[0]} ended with status {status}:\n{self.log()}")
            assert time.monotonic() < deadline, f"{self._process.args[0]} does not answer:\n{self.log()}"

    def stop(self, number: int | None = None, timeout: float = 30) -> None:
        """End it, as a crash would if no signal is given."""
        if not self.alive:
            return
        self.thaw()
        self._process.send_signal(number or self.crash)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._process.args[0]} did not end:\n{self.log()}") from None

    def restart(self) -> Self:
        """End it in good order and start it again."""
        self.stop(self.shutdown)
        return self.start()

    def kill(self) -> None:
        """End it and its children at once with SIGKILL, as when the power goes."""
        if not self.alive:
            return
        with contextlib.ExitStack() as stack:
            ends = []
            for pid in self._freeze():
                with contextlib.suppress(ProcessLookupError):
                    ends.append(os.pidfd_open(pid))
                    stack.callback(os.close, ends[-1])
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self.frozen = False
            # Its children are not ours to wait for; their descriptors become readable when they have ended.
            for end in ends:
                assert select.select([end], [], [], 10)[0], "A child outlives SIGKILL."

    def freeze(self) -> None:
        """Stop it and its children where they are: connections stay open, without an answer."""
        self._freeze()
        self.frozen = True

    def _freeze(self) -> list[int]:
        # The parent first: then it starts no further, unknown children.
        os.kill(self._process.pid, signal.SIGSTOP)
        pids = descendants(self._process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self) -> None:
        """Let it go on after freeze()."""
        for pid in descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.frozen = False

    def close(self) -> None:
        """End it and take its folder away."""
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.close()
