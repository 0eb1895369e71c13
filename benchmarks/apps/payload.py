"""The events that every Python application here sends: a stamp for the clock, and padding."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def stamped(size: int, number: int | None = None) -> str:
    """Return `size` bytes of HTML that carry the time of this moment, and the number of the event."""
    numbered = "" if number is None else f' data-n="{number}"'
    html = f'<div id="bench" data-ts="{time.time_ns()}"{numbered}>'
    return html + "x" * (size - len(html) - 6) + "</div>"


def plan(query: Mapping[str, str]) -> Iterator[tuple[float, int]]:
    """Yield, for each event that a trigger asks for, the seconds until it is due and its size.

    `rate` is events a second by the clock, so that a late event does not delay those after it; 0: back to
    back.
    """
    events, rate, size = int(query["events"]), float(query["rate"]), int(query["size"])
    start = time.monotonic()
    for number in range(events):
        yield max(0.0, start + number / rate - time.monotonic()) if rate else 0.0, size


def publish_from_thread(query: Mapping[str, str], publish: Callable[[str], object]) -> None:
    """Publish the events from a thread, as a Django view's own code would, and return at once."""

    def run() -> None:
        for delay, size in plan(query):
            if delay:
                time.sleep(delay)
            publish(stamped(size))

    threading.Thread(target=run, daemon=True).start()
