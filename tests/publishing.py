"""A thread that keeps publishing while the broker comes and goes."""

import threading
import time
from typing import Self

from django.db import close_old_connections, connections

from ds_broadcaster.brokers import Broker
from ds_broadcaster.exceptions import BrokerUnavailable
from tests.harness.programs import wait_until


class Publisher(threading.Thread):
    """Publishes until the block ends, and keeps trying while the broker is away.

    `acknowledged` has the sequences of published events; `refused` counts the others.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.acknowledged: list[int | None] = []
        self.refused = 0
        self._broker = broker
        self._done = threading.Event()

    def run(self) -> None:
        try:
            while not self._done.is_set():
                try:
                    self.acknowledged.append(self._broker.publish("a", b"x\n\n"))
                except BrokerUnavailable:
                    self.refused += 1
                    close_old_connections()
                    time.sleep(0.01)
        finally:
            connections.close_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join()

    def goes_on(self, count: int = 50) -> None:
        """Wait for so many more acknowledged events."""
        goal = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= goal, "more acknowledged events", 20)
