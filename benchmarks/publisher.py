"""A process that publishes and serves nothing: python -m benchmarks.publisher WAY, told what to send on its stdin.

Each line on stdin, {"events": ..., "rate": ..., "size": ...}, is answered with one on stdout when all is published:
the `seconds` and the `cpu` seconds that it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .apps.payload import addressed, distinct, plan, stamped
from .machine import CannotMeasure, cores, cpu_of, end_client, pinned
from .servers import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .servers import Running, Server

TIMEOUT = 120.0
# Threads or coroutines that publish at once, where several do.
AT_ONCE = 50


class Publisher:
    """Such a process, started for the length of a `with` block."""

    def __init__(self, server: Server, env: Mapping[str, str]) -> None:
        """Prepare one that publishes as this server's applications would, to the store or the port in `env`."""
        self._server = server
        self._command = pinned([sys.executable, "-m", "benchmarks.publisher", server.publisher], cores()[1])
        self._env = environment(server, env)

    def __enter__(self) -> Publisher:
        """Start it, and wait until it has published once, to an empty channel."""
        self._process = subprocess.Popen(
            self._command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._watchdog = threading.Timer(TIMEOUT, self._process.kill)
        self._watchdog.start()
        try:
            self.begin(1)
            self.end()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Kill it."""
        self._kill()

    def begin(self, events: int, rate: float = 0.0, size: int = 200, channels: int = 0) -> None:
        """Have it publish so many events, `rate` a second by the clock (0: back to back), of `size` bytes each.

        nchan's knows `channels`, see Load.
        """
        stdin = self._process.stdin
        assert stdin is not None
        wanted = {"events": events, "rate": rate, "size": size, "channels": channels}
        print(json.dumps(wanted), file=stdin, flush=True)

    def end(self) -> dict[str, float]:
        """Wait until it has; return its figures."""
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise CannotMeasure(f"{self._server.title}: the publisher has ended, see above.")
        figures: dict[str, float] = json.loads(line)
        return figures

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that it has used."""
        return cpu_of(self._process.pid)

    def _kill(self) -> None:
        self._watchdog.cancel()
        end_client(self._process)


def publisher_of(running: Running) -> AbstractContextManager[Publisher | None]:
    """Return the publisher of a server that is told its events from outside; None if it makes them itself."""
    if not running.server.publisher:
        return contextlib.nullcontext()
    return Publisher(running.server, {"BENCH_PORT": str(running.port)})


def main() -> None:
    """Publish what each line asks for."""
    if "DJANGO_SETTINGS_MODULE" in os.environ:
        import django

        django.setup()
    publish_all = WAYS[sys.argv[1]]()
    for line in sys.stdin:
        cpu, start = time.process_time(), time.monotonic()
        publish_all(json.loads(line))
        figures = {"cpu": time.process_time() - cpu, "seconds": time.monotonic() - start}
        print(json.dumps(figures), flush=True)


def ours() -> Callable[[dict[str, Any]], None]:
    """broadcast(), as a command, a cron job or a Celery task calls it."""
    from ds_broadcaster import broadcast

    return _one_by_one(lambda html: broadcast("bench", html))


def ours_threads() -> Callable[[dict[str, Any]], None]:
    """broadcast() in AT_ONCE threads, as a server's threads call it: they stay, and so do their connections."""
    from ds_broadcaster import broadcast

    threads = ThreadPoolExecutor(AT_ONCE)
    together = threading.Barrier(AT_ONCE)  # So that each thread has a share.

    def publish_all(wanted: dict[str, Any]) -> None:
        def publish(first: int) -> None:
            together.wait()
            for number in range(first, wanted["events"], AT_ONCE):
                broadcast("bench", distinct(wanted["size"], number))

        list(threads.map(publish, range(AT_ONCE)))

    return publish_all


def ours_coroutines(at_once: int = AT_ONCE) -> Callable[[dict[str, Any]], None]:
    """The async twin in so many coroutines of one loop, as async views call it."""
    from ds_broadcaster import broadcast

    runner = asyncio.Runner()

    async def publish_all(wanted: dict[str, Any]) -> None:
        async def publish(first: int) -> None:
            for number in range(first, wanted["events"], at_once):
                await broadcast.aelements("bench", distinct(wanted["size"], number))

        await asyncio.gather(*[publish(first) for first in range(at_once)])

    return lambda wanted: runner.run(publish_all(wanted))


def ours_coroutine() -> Callable[[dict[str, Any]], None]:
    """The async twin, one event after the other."""
    return ours_coroutines(1)


def redis_py() -> Callable[[dict[str, Any]], None]:
    """PUBLISH by redis-py's client: no history, no ids, and no JSON or SSE around the HTML."""
    import redis

    client = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    return _one_by_one(lambda html: client.publish("bench", html))


def nchan() -> Callable[[dict[str, Any]], None]:
    """POST to nchan's publisher over one connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["BENCH_PORT"]))

    def publish_all(wanted: dict[str, Any]) -> None:
        for number, (delay, size) in enumerate(plan(wanted)):
            if delay:
                time.sleep(delay)
            channel, place = addressed(number, wanted["channels"])
            path = f"/publish?channel={channel.removeprefix('bench')}"
            connection.request("POST", path, f"elements {stamped(size, place)}")
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (201, 202):
                raise CannotMeasure(f"nchan answers {answer.status} {answer.reason}.")

    return publish_all


def channels_sync() -> Callable[[dict[str, Any]], None]:
    """group_send() within async_to_sync, as the documentation of Channels has it for sync code."""
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    send = async_to_sync(get_channel_layer().group_send)
    return _one_by_one(lambda html: send("bench", {"type": "bench.event", "html": html}))


def channels() -> Callable[[dict[str, Any]], None]:
    """group_send() on one loop that stays: the least that it can cost."""
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    runner = asyncio.Runner()

    async def publish_all(wanted: dict[str, Any]) -> None:
        for number, (delay, size) in enumerate(plan(wanted)):
            if delay:
                await asyncio.sleep(delay)
            await layer.group_send("bench", {"type": "bench.event", "html": distinct(size, number)})

    return lambda wanted: runner.run(publish_all(wanted))


def _one_by_one(publish: Callable[[str], object]) -> Callable[[dict[str, Any]], None]:
    def publish_all(wanted: dict[str, Any]) -> None:
        for number, (delay, size) in enumerate(plan(wanted)):
            if delay:
                time.sleep(delay)
            publish(distinct(size, number))

    return publish_all


WAYS = {
    "ours": ours,
    "ours-threads": ours_threads,
    "ours-coroutines": ours_coroutines,
    "ours-coroutine": ours_coroutine,
    "redis-py": redis_py,
    "nchan": nchan,
    "channels": channels,
    "channels-sync": channels_sync,
}

if __name__ == "__main__":
    main()
