"""The Datastar client as an attacker meets it: its own reader of event streams, and what a patch must be to be applied.

Written after the source of the client (1.0.1 and 1.0.4), not after ours: it reads bytes, and it is not a browser's
EventSource. A line's name ends at the first colon, one space after it is dropped, CR and LF and CRLF end lines.
"""

import json
from typing import Any, NamedTuple

MODES = {"remove", "outer", "inner", "replace", "prepend", "append", "before", "after"}
NAMESPACES = {"html", "svg", "mathml"}


class Patch(NamedTuple):
    """What the client would apply. `args` are its data lines by their first word, as the client joins them."""

    event: str
    args: dict[str, str]


class Seen(NamedTuple):
    """What a whole stream did to a client."""

    patches: list[Patch]
    ids: list[str]
    retries: list[int]


def read(stream: bytes) -> Seen:
    """Return what the client makes of these bytes; AssertionError for a patch that it could not apply."""
    seen = Seen([], [], [])
    event, data = "", ""
    for line in _lines(stream):
        if not line:
            # One without data patches nothing.
            if event.startswith("datastar") and data:
                seen.patches.append(_patch(event, data))
            event, data = "", ""
            continue
        name, colon, value = line.partition(b":")
        if not (name and colon):
            continue
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"data":
                data = f"{data}\n{text}" if data else text
            case b"event":
                event = text
            case b"id":
                seen.ids.append(text)
            case b"retry":
                seen.retries.append(int(text))
    return seen


def _lines(stream: bytes) -> list[bytes]:
    """Return the lines that are complete. bytes.splitlines() knows CR, LF and CRLF alone."""
    lines = stream.splitlines(keepends=True)
    return [line.rstrip(b"\r\n") for line in lines if line.endswith((b"\r", b"\n"))]


def _patch(event: str, data: str) -> Patch:
    args: dict[str, list[str]] = {}
    for line in data.split("\n"):
        word, _, rest = line.partition(" ")
        args.setdefault(word, []).append(rest)
    patch = Patch(event, {word: "\n".join(lines) for word, lines in args.items()})
    {"datastar-patch-elements": _check_elements, "datastar-patch-signals": _check_signals}[event](patch.args)
    return patch


def _check_elements(args: dict[str, str]) -> None:
    assert set(args) <= {"elements", "selector", "mode", "namespace", "useViewTransition"}, args
    mode = args.get("mode", "outer")
    assert mode in MODES
    assert args.get("namespace", "html") in NAMESPACES
    assert args.get("useViewTransition", "true") == "true"
    assert args.get("selector") or mode in ("outer", "replace"), "The client throws PatchElementsExpectedSelector."


def _check_signals(args: dict[str, str]) -> None:
    # The client gives our element what it does not know itself, such as the interval of the heartbeats.
    assert set(args) <= {"signals", "onlyIfMissing", "heartbeat"}, args
    assert args.get("onlyIfMissing", "true") == "true"
    # What is no JSON is run as JavaScript.
    assert isinstance(json.loads(args["signals"], parse_constant=_refuse), dict)


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON: the client would run it.")
