"""Events as a test sees them: what was sent to a channel, and what a stream got."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from ..ids import dom_selector
from ..sse import Facts, Mode
from .hidden import __tracebackhide__, __unittest  # noqa: F401

if TYPE_CHECKING:
    from django.db.models import Model

    from .dom import Element

Verb = Literal["elements", "remove", "signals", "script", "redirect", "dispatch", "refresh", "template"]

# What is shown of an event in a message.
_LONGEST = 160

# See models.rendering.guarded().
_GUARD = re.compile(
    r":not\((:has\((?P<inside>#[^() ]+)\)|(?P<beside>#[^() ]+), (?P=beside) ~ \*, :has\(~ (?P=beside)\))\)$"
)

_DISPATCH_TYPE = 'type="application/json" data-init="el.remove();'
_REDIRECT = re.compile(r"setTimeout\(\(\) => window\.location = '((?:[^'\\]|\\.)*)'\)")
_SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<text>.*)</script>", re.DOTALL)


class Description(TypedDict, total=False):
    """The arguments of Event.differences()."""

    verb: Verb | None
    mode: Mode | None
    target: "str | Model | None"
    contains: str | None
    signals: Mapping[str, Any] | None


@dataclass(frozen=True, repr=False)
class Event:
    """One event.

    `verb` is that of `broadcast` which sends such an event: "elements", "remove", "signals", "script", "redirect",
    "dispatch", "refresh", or "template" for a template that each audience gets rendered for itself. `mode`, `selector`,
    `namespace` and `html` are those of a patch, `signals` those of a patch of the signals. `detail` is what the verb
    says beside: a script's text, a redirect's URL, (name, detail, selector) of a dispatched event, (names, context) of
    a template, where an object is its label and key, such as "chat.Message 7".
    """

    verb: Verb
    mode: str | None = None
    selector: str | None = None
    html: str = ""
    signals: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = "html"
    only_if_missing: bool = False
    use_view_transition: bool = False
    detail: Any = None
    # The id of the event, which is a stream's cursor from here on; None for a transient one.
    id: str | None = None

    @cached_property
    def elements(self) -> "list[Element]":
        """The elements at the top of the HTML, parsed."""
        from .dom import parse_fragment

        return parse_fragment(self.html, self.namespace)

    @property
    def element(self) -> "Element":
        """The only element; AssertionError where there are more, or none."""
        if len(self.elements) != 1:
            raise AssertionError(f"The event has {len(self.elements)} elements, not one: {self}")
        return self.elements[0]

    def differences(
        self,
        *,
        verb: Verb | None = None,
        mode: Mode | None = None,
        target: "str | Model | None" = None,
        contains: str | None = None,
        signals: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Return what differs from an event as it is described, for people; nothing where it is one.

        `target` is the selector, or the element's own, such as "#message-7"; an object stands for that of its element.
        `contains` is in the HTML, or in its text. `signals` are among those of the event. Raises ValueError for a verb
        or a mode that no event has.
        """
        check_known(verb, mode)
        found = []
        if verb is not None and self.verb != verb:
            found.append(f"verb {self.verb!r}, not {verb!r}")
        if mode is not None and self.mode != mode:
            found.append(f"mode {self.mode!r}, not {mode!r}")
        if target is not None:
            selector = target if isinstance(target, str) else dom_selector(target)
            if selector not in self._targets():
                found.append(f"target {self._targets()[0]!r}, not {selector!r}")
        if contains is not None and self.verb == "template":
            found.append("is rendered for each audience: what it contains is in a stream of one")
        elif contains is not None and not self._contains(contains):
            found.append(f"does not contain {contains!r}")
        for name, value in (signals or {}).items():
            if name not in self.signals:
                found.append(f"no signal {name!r}")
            elif self.signals[name] != value:
                found.append(f"signal {name!r} is {self.signals[name]!r}, not {value!r}")
        return found

    def _targets(self) -> list[str | None]:
        if self.selector is not None:
            return [_unguarded(self.selector), self.selector]
        return [f"#{each.id}" for each in self.elements if each.id] or [None]

    def _contains(self, text: str) -> bool:
        return text in self.html or any(text in each.text for each in (self.elements if self.html else []))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        parts: list[str] = [self.verb]
        if self.mode is not None and self.verb != "remove":
            parts.append(f"mode={self.mode!r}")
        if self.selector is not None:
            parts.append(f"selector={self.selector!r}")
        if self.verb in ("script", "redirect", "dispatch", "template"):
            parts.append(_cut(repr(self.detail)))
        elif self.html:
            parts.append(_cut(self.html))
        if self.verb == "signals":
            parts.append(_cut(json.dumps(self.signals)))
        return " ".join(parts)


@dataclass(frozen=True, repr=False)
class Sent(Event):
    """An event that was sent to a channel. `exclude` is the id of the tab that does not get it."""

    channel: str = ""
    exclude: str | None = None
    transient: bool = False
    key: str | None = None

    def __str__(self) -> str:
        extra = "".join(
            f" {name}={value!r}"
            for name, value in (("exclude", self.exclude), ("transient", self.transient), ("key", self.key))
            if value
        )
        return f"{self.channel!r}: {super().__str__()}{extra}"


def check_known(verb: str | None, mode: str | None) -> None:
    """Raise ValueError for a verb or a mode that no event has."""
    for name, value, known in (("verb", verb, get_args(Verb)), ("mode", mode, get_args(Mode))):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}.")


def sent(channel: str, payload: bytes, facts: Facts) -> list[Sent]:
    """Return what a payload sends to a channel: one event for nearly all of them."""
    about: dict[str, Any] = {
        "channel": channel,
        "exclude": facts.exclude,
        "transient": facts.is_transient,
        "key": facts.key,
    }
    if facts.is_audience:
        names, context, selector, mode, _ = json.loads(payload)
        shown = {name: _shown(value) for name, value in context.items()}
        return [Sent("template", mode or "outer", selector, detail=(", ".join(names), shown), **about)]
    if facts.is_refresh:
        return [Sent("refresh", **about)]
    return [Sent(**vars_of(event), **about) for event in Parser().feed(payload)]


def _shown(value: Any) -> Any:
    """Return a value of a template's context, an object by its label and key. See streams.audiences."""
    if isinstance(value, dict) and "$instance" in value:
        label, pk, _ = value["$instance"]
        return f"{label} {pk}"
    return value


def vars_of(event: Event) -> dict[str, Any]:
    """Return the fields of an event."""
    return {name: getattr(event, name) for name in Event.__dataclass_fields__}


class Parser:
    """Makes events of a stream's bytes, and keeps what else the frames say."""

    def __init__(self) -> None:
        self._rest = b""
        self.cursor = ""
        self.retry: int | None = None

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete; heartbeats and what else only moves the cursor are none."""
        *frames, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for frame in frames:
            if (event := self._event(frame.decode())) is not None:
                yield event

    def _event(self, frame: str) -> Event | None:
        event_id, kind, lines = None, "", []
        for line in frame.split("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = self.cursor = value
            elif name == "retry":
                self.retry = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                lines.append(value)
        said: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(" ")
            said.setdefault(name, []).append(value)
        if kind == "datastar-patch-signals":
            only_if_missing = said.get("onlyIfMissing") == ["true"]
            signals = json.loads("\n".join(said.get("signals", ["{}"])))
            return Event("signals", signals=signals, only_if_missing=only_if_missing, id=event_id)
        if kind == "datastar-patch-elements":
            return _patch(said, event_id)
        return None


def _patch(said: dict[str, list[str]], event_id: str | None) -> Event:
    html = "\n".join(said.get("elements", []))
    mode, selector = said.get("mode", ["outer"])[0], said.get("selector", [None])[0]
    verb, detail = _verb_of(html, mode, selector)
    return Event(
        verb,
        mode,
        selector,
        html,
        namespace=said.get("namespace", ["html"])[0],
        use_view_transition=said.get("useViewTransition") == ["true"],
        detail=detail,
        id=event_id,
    )


def _verb_of(html: str, mode: str, selector: str | None) -> tuple[Verb, Any]:
    """Return the verb of a patch, and what it says beside."""
    if mode == "remove":
        return "remove", None
    found = _SCRIPT.fullmatch(html) if (mode, selector) == ("append", "body") else None
    if found is None:
        return "elements", None
    text = found["text"]
    if _DISPATCH_TYPE in found["attributes"]:
        told = json.loads(text)
        return "dispatch", (told["name"], told["detail"], told["selector"])
    redirect = redirect_of(text)
    return ("script", text) if redirect is None else ("redirect", redirect)


def redirect_of(script: str) -> str | None:
    """Return the URL to which a script takes its page, None for a script that does something else."""
    found = _REDIRECT.fullmatch(script)
    return None if found is None else found[1].replace(r"\'", "'")


def _unguarded(selector: str) -> str:
    """Return the target as the project wrote it: models find it only while the page does not show the object."""
    target = _GUARD.sub("", selector)
    if target != selector and target.startswith(":is(") and target.endswith(")"):
        return target[4:-1]
    return target


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
