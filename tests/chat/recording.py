"""A recording of the events that are sent, and a page that applies them."""

import re
from dataclasses import dataclass, field

from ds_broadcaster import broadcast
from ds_broadcaster.sse import PLAIN, make_frame
from tests.harness.sse import Event, SSEParser


@dataclass(frozen=True)
class Sent:
    """One event: its channel and content."""

    channel: str
    type: str
    html: str
    selector: str | None
    mode: str | None
    signals: str
    tab: str | None

    @property
    def text(self):
        return re.sub(r"<[^>]*>", "", self.html).strip()


@dataclass
class Recording:
    """The events that are published; an error set as `fails` is raised instead."""

    events: list[Sent] = field(default_factory=list)
    fails: BaseException | None = None
    attempts: int = 0
    # The sizes of the events in each batch, in bytes.
    batches: list[list[int]] = field(default_factory=list)

    def publish(self, channel, payload, facts=PLAIN):
        self.attempts += 1
        if self.fails is not None:
            raise self.fails
        if facts.is_refresh:
            kind = "template" if facts.is_audience else "refresh"
            self.events.append(Sent(channel, kind, payload.decode().strip(), None, None, "", facts.exclude))
            return len(self.events)
        for event in SSEParser().feed(make_frame("1", payload).data):
            assert isinstance(event, Event)
            args = event.args
            kind = event.type.removeprefix("datastar-patch-")
            self.events.append(
                Sent(
                    channel, kind, event.elements, args.get("selector"), args.get("mode"), event.signals, facts.exclude
                )
            )
        return len(self.events)

    def take(self):
        """Return the events since the last call."""
        events, self.events = self.events, []
        return events

    def texts(self):
        return [event.text for event in self.take()]

    def shapes(self):
        """Return (mode or "outer", text or selector) of each event."""
        return [(event.mode or "outer", event.text or event.selector) for event in self.take()]


def record(monkeypatch):
    """Return a recording of the events that are published from now on."""
    recording = Recording()
    publish_all = broadcast._broker.publish_all

    def record_all(events):
        recording.batches.append([len(each.payload) for each in events])
        publish_all(events)

    monkeypatch.setattr(broadcast._broker, "publish", recording.publish)
    monkeypatch.setattr(broadcast._broker, "publish_all", record_all)
    return recording


class Page:
    """As much of a browser as fragments of one element need: a list, and the text of each element by id."""

    def __init__(self, target="#messages"):
        self.target = target
        self.elements = {}

    def apply(self, events):
        for event in events:
            found = re.search(r'id="([^"]+)"', event.html)
            if event.mode == "remove":
                self.elements.pop(event.selector.removeprefix("#"), None)
            elif event.selector is None:
                assert event.mode in (None, "outer")
                if found[1] in self.elements:
                    self.elements[found[1]] = event.text
            else:
                assert event.mode == "append"
                guard = f":not(:has(#{found[1]}))"
                assert event.selector == self.target + guard
                if found[1] not in self.elements:
                    self.elements[found[1]] = event.text
