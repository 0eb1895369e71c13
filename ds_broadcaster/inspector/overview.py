"""The live part of the inspector, as HTML: what this process serves now.

It costs nothing while no page shows it: the numbers are taken when a page, or a presence frame of the inspector's own
channel, is rendered.
"""

import heapq
import json
import os
import threading
import time
from collections import Counter
from hashlib import blake2s
from pathlib import Path
from typing import Any, NamedTuple

from django.template import Context, Engine
from django.utils.safestring import SafeString

from ..broadcaster import Broadcaster
from ..brokers import ProcessHoldings, holdings_of
from ..conf import get_settings
from ..exceptions import BrokerUnavailable
from ..hub.hub import Hub
from ..ids import RESERVED

# The channels that keep the inspector live: with buttons that disconnect and kill, and without.
CHANNEL = f"{RESERVED}inspector"
READ_ONLY = f"{RESERVED}inspector.read-only"

# Seconds between two refreshes.
REFRESH = 1.0
# Seconds between two readings of the counters: less is noise, and more says nothing about now.
SHORTEST, LONGEST = 0.5, 60.0
# The most that a page shows: channels, users of one channel, processes, and characters of a name.
CHANNELS, USERS, PROCESSES, NAME = 100, 20, 50, 200

TEMPLATES = Path(__file__).parent.parent / "templates" / "ds_broadcaster"
# The page must look and escape alike in every project, whose TEMPLATES may be Jinja2's, or have autoescape off.
engine = Engine(dirs=[str(TEMPLATES)])


class Action(NamedTuple):
    """The request of a form: a verb, a channel, and for disconnect a user id."""

    verb: str
    channel: str
    user: str = ""


class Rates:
    """Events a second, from repeated readings of counters that only grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = 0.0
        self._counters: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def update(self, now: float, counters: dict[str, int]) -> dict[str, float]:
        """Return the rate of each counter since the last reading; new counters have none yet."""
        with self._lock:
            elapsed = now - self._at
            if elapsed >= SHORTEST:
                self._rates = {}
                if elapsed <= LONGEST:
                    for name in counters.keys() & self._counters.keys():
                        # A channel that ended and came back counts from zero.
                        growth = counters[name] - self._counters[name]
                        self._rates[name] = (growth if growth >= 0 else counters[name]) / elapsed
                self._at, self._counters = now, counters
            return self._rates


class Overview:
    """The live part of the page: the presence callback of one of the inspector's channels.

    All viewers on a channel get the same, so it holds nothing of one of them, such as a CSRF token. `has_buttons` tells
    whether they may disconnect and kill.
    """

    # Seconds after which the hub calls again, while the channel has connections.
    refresh_every = REFRESH

    def __init__(self, broadcast: Broadcaster, *, has_buttons: bool = True) -> None:
        self._broadcast = broadcast
        self._has_buttons = has_buttons
        self._rates = Rates()

    def __call__(self, channel: str, user_ids: list[Any]) -> SafeString:
        """Render for a stream, with as many channels as fit into one event."""
        limit = CHANNELS
        html = self.render(limit)
        while limit and len(html.encode("utf-8", "replace")) > get_settings().max_event_bytes * 0.9:
            limit //= 2
            html = self.render(limit)
        return html

    def render(self, limit: int = CHANNELS) -> SafeString:
        """Render the `limit` largest channels, in the order of their names."""
        return engine.get_template("_overview.html").render(Context(self._facts(limit)))

    def _facts(self, limit: int) -> dict[str, Any]:
        hubs = self._broadcast.hubs()
        counters = {
            "/events": sum(hub.events for hub in hubs),
            "/deliveries": sum(hub.deliveries for hub in hubs),
        }
        events = Counter[str]()
        for hub in hubs:
            for channel in hub.live():
                events[channel.name] += channel.delivered
        holdings, cursor = self._cluster()
        connections = Counter[str](dict.fromkeys(self._broadcast.declared(), 0))
        for holder in holdings:
            connections.update(holder.channels)
        connections = Counter({name: count for name, count in connections.items() if not name.startswith(RESERVED)})
        own = sum(hub.connections(name) for hub in hubs for name in (CHANNEL, READ_ONLY))
        largest = sorted(heapq.nlargest(limit, connections, key=lambda name: connections[name]))
        # The first character tells totals from channels.
        counters |= {f"#{name}": events[name] for name in largest}
        rates = self._rates.update(time.monotonic(), counters)
        return {
            "totals": [
                ("Connections", f"{sum(hub.count for hub in hubs) - own:,}"),
                ("Channels", f"{len(connections):,}"),
                ("Events a second", _per_second(rates.get("/events"))),
                ("Deliveries a second", _per_second(rates.get("/deliveries"))),
                ("Refused streams", f"{sum(hub.limits.refused for hub in hubs):,}"),
            ],
            "has_buttons": self._has_buttons,
            "pid": str(os.getpid()),
            "cursor": cursor,
            "ways": _ways(hubs),
            "processes": [self._process(holder) for holder in holdings[:PROCESSES]] if len(holdings) > 1 else [],
            "channels": [
                self._channel(name, connections[name], _per_second(rates.get(f"#{name}")), holdings) for name in largest
            ],
            "more": f"{len(connections) - len(largest):,}" if len(connections) > len(largest) else "",
        }

    def _cluster(self) -> tuple[list[ProcessHoldings], str]:
        """Return what each process holds, and the id of now, as far as the broker tells."""
        try:
            return sorted(self._broadcast.holdings()), self._broadcast.cursor()
        except BrokerUnavailable:
            return [holdings_of(hub) for hub in self._broadcast.hubs()], "unknown: the broker is away"

    def _process(self, holder: ProcessHoldings) -> dict[str, Any]:
        held = {name: count for name, count in holder.channels.items() if not name.startswith(RESERVED)}
        return {
            "name": _label(holder),
            "channels": f"{len(held):,}",
            "connections": f"{sum(held.values()):,}",
        }

    def _channel(self, name: str, connections: int, rate: str, holdings: list[ProcessHoldings]) -> dict[str, Any]:
        try:
            users = Counter(str(user) for user in self._broadcast.get_users(name))
        except BrokerUnavailable:
            users = Counter(str(user) for hub in self._broadcast.hubs() for user in hub.users(name))
        holders = [each for each in holdings if name in each.channels] if len(holdings) > 1 else []
        return {
            "where": [(_label(each), f"{each.channels[name]:,}") for each in holders],
            # With ids the client moves rows, and does not rewrite the one under the pointer.
            "id": blake2s(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
            "name": cut(name),
            "connections": f"{connections:,}",
            "rate": rate,
            "kill": json.dumps(Action("kill", name)),
            "user_count": f"{len(users):,}",
            "users": [
                (cut(user), f"{count:,}" if count > 1 else "", json.dumps(Action("disconnect", name, user)))
                for user, count in list(users.items())[:USERS]
            ],
            "more_users": f"{len(users) - USERS:,}" if len(users) > USERS else "",
        }


def cut(name: str) -> str:
    """Return a name, shortened to what a page has room for."""
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _label(holder: ProcessHoldings) -> str:
    """Return a process's name, without the part that tells processes of one number apart."""
    return cut(holder.process.rpartition(":")[0])


def _ways(hubs: list[Hub]) -> str:
    """Return how the streams of this process are carried, those of the inspector too."""
    ways = sum((hub.ways for hub in hubs), Counter[str]())  # Which leaves out those without a stream.
    return ", ".join(f"{count:,} {way}" for way, count in sorted(ways.items())) or "none"


def _per_second(rate: float | None) -> str:
    if rate is None:
        return "\N{EN DASH}"
    return f"{rate:,.1f}" if 0 < rate < 10 else f"{rate:,.0f}"
