"""The load: many streams, opened by the C client and measured there."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from .machine import CannotMeasure, compile_tool, cores, end_client, pinned

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .publisher import Publisher
    from .servers import Running


class Load:
    """Open streams to a running server, for the length of a `with` block."""

    def __init__(
        self,
        running: Running,
        streams: int,
        *,
        path: str = "/stream",
        header: str = "",
        is_page: bool = False,
        stalled: int = 0,
        events: int = 0,
        rate: float = 0,
        size: int = 200,
        channels: int = 0,
        make: str = "",
        expected: int | None = None,
        quiet: float = 3.0,
        timeout: float = 60.0,
        publisher: Publisher | None = None,
        trigger: str | None = None,
    ) -> None:
        """Prepare a load of this many streams.

        `events` are published at `rate` a second (0: back to back), each with `size` bytes of HTML of the kind
        `make` (see apps/payload.py), when measure() is called: by `publisher`, a process of its own, or else by the
        server, which is asked for `trigger`. With `channels`, the streams are spread over as many and each event
        goes to one of them, in turn. `header` is a line that each request has; with `is_page` the requests are those of
        a browser for a page. `stalled` streams are never read.
        The measurement ends with the last of the `expected` events, or after `quiet` seconds without one. After
        `timeout` seconds it fails.
        """
        self.running, self.streams, self.timeout = running, streams, timeout
        self.expected = events * (streams - stalled) // (channels or 1) if expected is None else expected
        self._publisher, self._wanted = publisher, (events, rate, size, channels)
        if channels:
            path += "?channel={n}"
        options = {
            "--port": running.port,
            "--path": path,
            "--streams": streams,
            "--stalled": stalled,
            "--expect": self.expected,
            "--quiet": quiet,
            "--timeout": timeout,
        }
        if events and publisher is None:
            options["--trigger"] = (
                trigger or f"/publish?events={events}&rate={rate}&size={size}&channels={channels}&make={make}"
            )
        if channels:
            options["--spread"] = channels
        if header:
            options["--header"] = header
        words = [str(word) for option in options.items() for word in option]
        if is_page:
            words.append("--page")
        if running.server.websocket:
            words.append("--websocket")
        self._command = pinned([str(compile_tool("sseload")), *words], cores()[1])

    def __enter__(self) -> Load:
        """Open the streams and wait until the server has answered all of them."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # The client ends itself in time; this is for a machine so busy that it does not get to it.
        self._watchdog = threading.Timer(self.timeout + 10, self._process.kill)
        self._watchdog.start()
        try:
            self.opened_in = float(self._next("open")["seconds"])
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close all streams."""
        self._kill()

    def measure(self, wait: Callable[[], object] | None = None) -> dict[str, Any]:
        """Have the events published, wait for them at all streams, and return what the client saw.

        `wait` returns when all is over, where the client cannot know.

        Beside the client's own figures: `expected` deliveries, the `cpu` seconds the server spent, and what
        the publishing process says as `published`, if there is one.
        """
        before = self.running.cpu_seconds()
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(b"g")
        stdin.flush()
        if self._publisher is not None:
            self._publisher.begin(*self._wanted)
            published = self._publisher.end()
        if wait is not None:
            wait()
            stdin.write(b"e")
            stdin.flush()
        seen = self._next("done")
        if self._publisher is not None:
            seen["published"] = published
        return {**seen, "expected": self.expected, "cpu": self.running.cpu_seconds() - before}

    def _next(self, phase: str) -> dict[str, Any]:
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        line = stdout.readline()
        if not line:
            said = stderr.read().decode(errors="replace").strip()
            raise CannotMeasure(f"{self.running.server.title}: {said}\n{self.running.log()}")
        message: dict[str, Any] = json.loads(line)
        if message["phase"] != phase:
            raise CannotMeasure(f"The load client says {message['phase']}, not {phase}.")
        return message

    def _kill(self) -> None:
        self._watchdog.cancel()
        end_client(self._process)


def warm_up(running: Running, publisher: Publisher | None = None) -> None:
    """Open and close some streams, so that imports and caches are not charged to the streams that follow."""
    with Load(running, 50, events=5, quiet=1, timeout=30, publisher=publisher) as load:
        load.measure()
    running.settle()
