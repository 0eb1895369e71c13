"""The events that every Python application here sends: a stamp for the clock, and padding."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def stamped(size: int, number: int, name: str = "bench") -> str:
    """Return `size` bytes of HTML that carry the time of this moment, and the number of the event."""
    html = f'<div id="{name}" data-ts="{time.time_ns()}" data-n="{number}">'
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


def distinct(size: int, number: int) -> str:
    """Return such HTML with an id of its own: it does not make the events before it superfluous."""
    return stamped(size, number, f"bench-{number}")


def addressed(number: int, channels: int) -> tuple[str, int]:
    """Return the channel that an event goes to, and its number there: one of `channels` in turn, or the only one."""
    return (f"bench{number % channels}", number // channels) if channels else ("bench", number)


def rendered(size: int, number: int) -> str:
    """Return about `size` bytes of HTML as a page renders them: a table of which a few cells change each time."""
    rows = []
    for row in range(size // 165):
        sold = row * 7919 % 9973 + (number if row % 25 == number % 25 else 0)
        price = (row * 104729 % 99991) / 100
        rows.append(
            f'<tr id="article-{row}"><th scope="row">{WORDS[row % 12]} {WORDS[row * 7 % 11]} {row}</th>'
            f'<td class="number">{price:.2f}</td><td class="number">{sold}</td>'
            f'<td><a href="/articles/{row * 31337 % 65521}/">Edit</a></td></tr>'
        )
    stamp = f'data-ts="{time.time_ns()}" data-n="{number}"'
    return f'<table id="bench" {stamp}><tbody>{"".join(rows)}</tbody></table>'


WORDS = ("Copper", "Walnut", "Linen", "Slate", "Cork", "Brass", "Birch", "Felt", "Clay", "Steel", "Amber", "Ash")


def publish_from_thread(query: Mapping[str, str], publish: Callable[[str, str], object]) -> None:
    """Publish the events, each to its channel, from a thread, as a Django view's own code would; return at once."""
    make = {"rendered": rendered, "distinct": distinct}.get(query.get("make", ""), stamped)

    def run() -> None:
        for number, (delay, size) in enumerate(plan(query)):
            if delay:
                time.sleep(delay)
            channel, place = addressed(number, int(query.get("channels", 0)))
            publish(channel, make(size, place))

    threading.Thread(target=run, daemon=True).start()
