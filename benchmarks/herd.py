"""Many streams at several workers: the processes of the C client sseherd share them, and tell what they saw."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from .machine import CannotMeasure, compile_tool, end_client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType


class Herd:
    """Open streams at all of these ports, for the length of a `with` block.

    `streams` are shared by so many `processes`, each with a loopback address of its own. A "{c}" in `path` becomes the
    number of one of the `channels`; see native/sseherd.c for who goes where.
    """

    def __init__(self, ports: Sequence[int], path: str, streams: int, *, channels: int = 1, processes: int = 1) -> None:
        """Prepare them; nothing runs yet."""
        self.streams = streams
        self._processes: list[subprocess.Popen[str]] = []
        tool = str(compile_tool("sseherd"))
        bounds = [streams * number // processes for number in range(processes + 1)]
        self._commands = []
        for number, (first, end) in enumerate(itertools.pairwise(bounds)):
            options = {
                "--ports": ",".join(map(str, ports)),
                "--path": path,
                "--first": first,
                "--streams": end - first,
                "--channels": channels,
                "--source": f"127.0.0.{2 + number}",
            }
            self._commands.append([tool, *(str(word) for option in options.items() for word in option)])

    def __enter__(self) -> Herd:
        """Begin to open the streams."""
        try:
            for command in self._commands:
                pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
                self._processes.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close all streams."""
        self._kill()

    @property
    def pids(self) -> list[int]:
        """The ids of the client's processes."""
        return [process.pid for process in self._processes]

    def status(self) -> Counter[str]:
        """Return what has happened so far, all processes together.

        `open`, `waiting` and `asking` streams; `opened` counts answers, `lost` streams that broke, `refused` those
        that were answered with 503, `broken_off` those that were answered with 200 and ended before they began, and
        `unreachable` those that found no listener; `events` that came, of which `missed` were left out by one that
        came, and `repeated` came again.
        """
        total: Counter[str] = Counter()
        for answer in self._ask("status"):
            total.update(answer)
        return total

    def count(self, number: int) -> int:
        """Return how many streams have had the event of this number."""
        return sum(answer["streams"] for answer in self._ask(f"count {number}"))

    def round(self, number: int) -> Counter[int]:
        """Return how many streams got the event of this number in each millisecond since its round began."""
        times: Counter[int] = Counter()
        for answer in self._ask(f"round {number}"):
            times.update(dict(answer["histogram"]))
        return times

    def wait(self, is_done: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait until a condition holds, which is asked twenty times a second."""
        deadline = time.monotonic() + timeout
        while not is_done():
            if time.monotonic() > deadline:
                raise CannotMeasure(f"Waited {timeout:.0f} s for {what}: {dict(self.status())}")
            time.sleep(0.05)

    def wait_open(self, timeout: float) -> None:
        """Wait until every stream is open."""
        self.wait(lambda: self.status()["open"] == self.streams, "all streams to open", timeout)

    def wait_round(self, number: int, timeout: float) -> Counter[int]:
        """Wait until every stream has the event of this number; return round(number)."""
        self.wait(lambda: self.count(number) == self.streams, f"the event {number} at all streams", timeout)
        return self.round(number)

    def _ask(self, command: str) -> list[Any]:
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{command}\n")
                process.stdin.flush()
        return [self._answer(process) for process in self._processes]

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            raise CannotMeasure(process.stderr.read().strip() or "The load client has ended.")
        return json.loads(line)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()  # All of them first.
        for process in self._processes:
            end_client(process)
