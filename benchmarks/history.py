"""What a history of 10,000 events costs a publisher: python -m benchmarks.history."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.conf import settings

settings.configure()

from ds_broadcaster.brokers.memory import MemoryBroker  # noqa: E402
from ds_broadcaster.compaction import ELEMENT, replaces_of  # noqa: E402
from ds_broadcaster.conf import History  # noqa: E402
from ds_broadcaster.sse import PLAIN, Facts, encode_elements  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 10_000
EVENTS = 5000
PAYLOAD = encode_elements('<progress id="bar" value="3" max="5"></progress>')

# What each event says beside its bytes, by its number.
EVENTS_OF: dict[str, Callable[[int], Facts]] = {
    "replaces none": lambda number: PLAIN,
    "replaces the newest": lambda number: Facts(replaces=ELEMENT + "bar"),
    "replaces the oldest": lambda number: Facts(replaces=f"{ELEMENT}{number % KEPT}"),
    "transient": lambda number: Facts(is_transient=True),
}


def publish(facts_of: Callable[[int], Facts], kept: int) -> float:
    """Return the microseconds of CPU of an event, on a channel with so many events in its history."""
    MemoryBroker.serves = True
    broker = MemoryBroker("", {}, History(max_events=kept, max_bytes=1 << 30, max_total_bytes=1 << 31))
    for number in range(kept):
        broker.publish("a", PAYLOAD, Facts(replaces=f"{ELEMENT}{number}"))
    begin = time.process_time()
    for number in range(EVENTS):
        broker.publish("a", PAYLOAD, facts_of(number))
    return (time.process_time() - begin) / EVENTS * 1e6


def main() -> None:
    for title, facts_of in EVENTS_OF.items():
        few, many = (min(publish(facts_of, kept) for _ in range(3)) for kept in (10, KEPT))
        print(f"{title:20} {few:6.1f} us with 10 events in the history, {many:6.1f} us with {KEPT:,}")
    begin = time.process_time()
    for _ in range(EVENTS):
        replaces_of(PAYLOAD)
    print(f"{'to find what':20} {(time.process_time() - begin) / EVENTS * 1e6:6.1f} us: what an event replaces")


if __name__ == "__main__":
    main()
