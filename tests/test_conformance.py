"""What the conformance cases of Datastar's SDKs ask for and a broadcast can say: the events of datastar-py's generator.

A broadcast's id is that of its place in the channel, and its page's retry interval is the stream's: `eventId` and
`retryDuration` are not said.
"""

import pytest
from datastar_py.consts import ElementPatchMode, ElementPatchNamespace
from datastar_py.sse import ServerSentEventGenerator as Theirs

from ds_broadcaster.broadcaster import Broadcaster

LINES = '<div id="feed">\n    <span>1</span>\n\n    <pre>  two  </pre>\n</div>'
SIGNALS = {"output": "Patched", "show": True, "count": 7, "user": {"name": "", "email": None, "tags": ["a", 1.5]}}

# A name, what is broadcast (verb, arguments, options), and what an SDK sends.
CASES = {
    "elements by their ids": ("elements", ['<div id="a">1</div>'], {}, Theirs.patch_elements('<div id="a">1</div>')),
    "two elements": (
        "elements",
        ['<div id="a">1</div><div id="b">2</div>'],
        {},
        Theirs.patch_elements('<div id="a">1</div><div id="b">2</div>'),
    ),
    "elements of several lines": ("elements", [LINES], {}, Theirs.patch_elements(LINES)),
    "elements with line ends of Windows": (
        "elements",
        [LINES.replace("\n", "\r\n")],
        {},
        Theirs.patch_elements(LINES),
    ),
    "elements with all options": (
        "elements",
        [LINES, "#feed", "inner"],
        {"namespace": "svg", "use_view_transition": True, "view_transition_selector": "#feed"},
        Theirs.patch_elements(
            LINES,
            "#feed",
            ElementPatchMode.INNER,
            use_view_transition=True,
            view_transition_selector="#feed",
            namespace=ElementPatchNamespace.SVG,
        ),
    ),
    "elements with all options at their defaults": (
        "elements",
        ['<div id="a">1</div>', None, "outer"],
        {"namespace": "html", "use_view_transition": False},
        Theirs.patch_elements(
            '<div id="a">1</div>',
            None,
            ElementPatchMode.OUTER,
            use_view_transition=False,
            namespace=ElementPatchNamespace.HTML,
        ),
    ),
    **{
        f"elements with the mode {mode}": (
            "elements",
            ["<li>1</li>", "#feed", str(mode)],
            {},
            Theirs.patch_elements("<li>1</li>", "#feed", mode),
        )
        for mode in ElementPatchMode
    },
    "elements of MathML": (
        "elements",
        ["<mi>x</mi>", "#sum", "append"],
        {"namespace": "mathml"},
        Theirs.patch_elements("<mi>x</mi>", "#sum", ElementPatchMode.APPEND, namespace=ElementPatchNamespace.MATHML),
    ),
    "removal": ("remove", ["#feed, #other"], {}, Theirs.remove_elements("#feed, #other")),
    "removal by elements": (
        "elements",
        ["", "#feed", "remove"],
        {"use_view_transition": True},
        Theirs.patch_elements(selector="#feed", mode=ElementPatchMode.REMOVE, use_view_transition=True),
    ),
    "signals": ("signals", [SIGNALS], {}, Theirs.patch_signals(SIGNALS)),
    "signals that are not there yet": (
        "signals",
        [SIGNALS],
        {"only_if_missing": True},
        Theirs.patch_signals(SIGNALS, only_if_missing=True),
    ),
    "signals with the option at its default": (
        "signals",
        [SIGNALS],
        {"only_if_missing": False},
        Theirs.patch_signals(SIGNALS, only_if_missing=False),
    ),
    "no signals": ("signals", [{}], {}, Theirs.patch_signals({})),
    "signals that are removed": ("signals", [{"a": None}], {}, Theirs.patch_signals({"a": None})),
    "script": ("script", ["console.log('Here')"], {}, Theirs.execute_script("console.log('Here')")),
    "script of several lines": (
        "script",
        ["if (1 < 2) {\n  console.log('Here')\n}"],
        {},
        Theirs.execute_script("if (1 < 2) {\n  console.log('Here')\n}"),
    ),
    "script with all options": (
        "script",
        ["console.log('Here')"],
        {"auto_remove": False, "attributes": {"type": "application/javascript", "data-x": "1 & 2"}},
        Theirs.execute_script(
            "console.log('Here')",
            auto_remove=False,
            attributes={"type": "application/javascript", "data-x": "1 & 2"},
        ),
    ),
    "script with all options at their defaults": (
        "script",
        ["console.log('Here')"],
        {"auto_remove": True, "attributes": None},
        Theirs.execute_script("console.log('Here')", auto_remove=True, attributes=None),
    ),
    "redirect to a path": ("redirect", ["/rooms/?page=2#end"], {}, Theirs.redirect("/rooms/?page=2#end")),
    "redirect to an address": ("redirect", ["https://example.org/"], {}, Theirs.redirect("https://example.org/")),
}


class Recorder:
    """A broker that keeps what is given to it."""

    def __init__(self):
        self.events = []

    def publish(self, channel, payload, facts):
        self.events.append(payload)

    async def apublish(self, channel, payload, facts):
        self.events.append(payload)


@pytest.mark.parametrize("case", CASES)
async def test_event_is_that_of_the_sdk(case):
    verb, arguments, options, theirs = CASES[case]
    broker = Recorder()
    broadcaster = Broadcaster(create_broker=lambda settings: broker)
    await getattr(broadcaster, f"a{verb}")("room", *arguments, **options)
    assert broker.events == [theirs.encode()]


async def test_two_events_in_a_row_are_those_of_the_sdk():
    broker = Recorder()
    broadcaster = Broadcaster(create_broker=lambda settings: broker)
    await broadcaster.aelements("room", LINES)
    await broadcaster.asignals("room", SIGNALS)
    assert b"".join(broker.events).decode() == Theirs.patch_elements(LINES) + Theirs.patch_signals(SIGNALS)
