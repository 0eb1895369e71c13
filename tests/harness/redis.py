"""A Redis server of one's own."""

import contextlib
import subprocess
import tempfile
import time
from typing import Any

import redis

from tests.harness.requirements import require_redis
from tests.harness.server import free_port


class RedisServer:
    """A redis-server process on a free port, which keeps nothing on disk unless `persistent` says so."""

    def __init__(self, *, persistent: bool = False) -> None:
        self._program = require_redis()
        self._folder = tempfile.TemporaryDirectory()
        self._persistence = ["--appendonly", "yes", "--appendfsync", "always"] if persistent else ["--appendonly", "no"]
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a project whose broker this is."""
        backend = "ds_broadcaster.brokers.redis.RedisBroker"
        return {"DS_BROADCASTER_BROKER": {"BACKEND": backend, "LOCATION": self.url}}

    def start(self) -> "RedisServer":
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder.name]
        self._process = subprocess.Popen([self._program, *arguments, *self._persistence], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                self.call("ping")
                return self
            assert time.monotonic() < deadline, "redis-server does not answer."
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def call(self, command: str, *arguments: Any) -> Any:
        """Send one command."""
        with contextlib.closing(redis.Redis.from_url(self.url)) as client:
            return client.execute_command(command, *arguments)

    def cut(self) -> None:
        """Cut every connection that somebody has to it."""
        self.call("client", "kill", "type", "pubsub")
        self.call("client", "kill", "type", "normal", "skipme", "yes")

    def __enter__(self) -> "RedisServer":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._folder.cleanup()
