"""Which events say the whole of something, so that an earlier event which said it is superfluous: see replaces_of()."""

import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, TypeVar

from .sse import Facts

T = TypeVar("T")

# What Facts.replaces may be beside None, by its beginning. CONTAINER is an element with elements of their own inside.
ELEMENT = "e:"
CONTAINER = "c:"
SIGNALS = "s:"
REFRESH = "r:"
# Says the whole of nothing, and changes only what it names by id.
NOTHING = ""

# Bytes. Of more than this, a look would cost as much as the patch.
MOST = 16 << 10
# Characters. What is longer is hashed.
LONGEST = 64

_EVENT = re.compile(
    rb"event: datastar-patch-(elements|signals)\n((?:data: (?!elements |signals )[^\n]*\n)*)"
    rb"((?:data: (?:elements|signals) [^\n]*\n)*)\n"
)
# Most events: one line of HTML, and no options.
_PATCH = b"event: datastar-patch-elements\ndata: elements "
_OPTION = re.compile(r"data: (\w+) ([^\n]*)\n")
_ID_SELECTOR = re.compile(r"#(-?[A-Za-z_][\w-]*)", re.ASCII)
_PLACES = frozenset({"append", "prepend", "before", "after"})
_WHOLE = frozenset({"outer", "inner", "replace", "remove"})

# HTML with effects: it runs code when it appears, sets signals, or withstands a morph. In lower case; a search is fast
# where letters come first.
_HANDLER = re.compile(r"on(?<=[\s\"'/]on)(?:load|error)\s*=")
_ATTRIBUTE = re.compile(
    r"data-(?:\w+-)?(?:signals|json-signals|init|effect|computed|bind|ref|indicator|persist|query-string|animate|ignore|"
    r"preserve|scope|on-(?:load|interval|intersect|signal-patch|raf|resize))(?![a-z0-9])"
)
_HAS_ID = re.compile(r"id(?<=[\s\"'/]id)\s*=")
_ROOT = re.compile(r"""\s*<([a-z][a-z0-9-]*)((?:\s[^>"']*(?:"[^"]*"[^>"']*|'[^']*'[^>"']*)*)?)>""", re.IGNORECASE)
_OWN_ID = re.compile(r"""\sid\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_VOID = _tags("br hr img input")
# What may be the only element of HTML: a parser leaves it around all that stands between its tags, but for what is
# named here with it.
_MENDED = (
    "textarea|title|style|template|select|svg|math|plaintext|noscript|noembed|noframes|xmp|html|head|body|frameset"
)
_BLOCKS = (
    "address|article|aside|blockquote|center|details|dialog|dir|div|dl|fieldset|figcaption|figure|footer|form|h[1-6]|"
    "header|hgroup|hr|main|menu|nav|ol|p|pre|search|section|summary|table|ul|li|dd|dt"
)
_PLAIN = _tags(
    "div section article aside header footer main nav ul ol dl menu figure figcaption details summary dialog fieldset "
    "progress meter output label span strong em small b i u s code mark time blockquote"
)
_NOT_INSIDE = {
    **dict.fromkeys(_PLAIN, ""),
    **{f"h{number}": "h[1-6]" for number in range(1, 7)},
    "p": _BLOCKS,
    "li": "li",
    "dt": "dt|dd",
    "dd": "dt|dd",
    "a": "a",
    "button": "button",
    "form": "form",
}
_DOUBT = {
    tag: re.compile(rf"<!|</?(?:{'|'.join(filter(None, (inside, _MENDED)))})(?![\w-])", re.IGNORECASE)
    for tag, inside in _NOT_INSIDE.items()
}
_SAME = {tag: re.compile(rf"<(/?){tag}(?![\w-])[^>]*>", re.IGNORECASE) for tag in _NOT_INSIDE}
# Emptied, these have no ids inside; what was in them may be elsewhere by then.
_HOLDERS = _tags("ul ol dl menu form fieldset main section article aside nav")


def replaces_of(payload: bytes) -> str | None:
    """Return the name of what an encoded event says the whole of: an earlier event with the same name is superfluous.

    The name is that of an element and a mode ("outer", "inner", "replace" or "remove"), or of a set of signals' paths.
    A client that gets the later event alone ends with the same page, in spite of the events between, because until then
    its page differs in no more than that element's inside, or those signals, and nothing between the two looks there:

    - the element is the only one of the HTML and has an id, or the selector is an id; so it stays where it is. HTML
      with anything that code, a signal or a morph would notice has no name (None), and no event from before it is made
      superfluous by one from after it. The same is true of selectors that are more than an id, for what they match may
      depend on any element, and of everything else that is unknown here;
    - an element with elements inside that have ids is a container: an event between may change one of those that was in
      it, or is no longer. It replaces only the event next before it, signals aside. A removal does so too;
    - an element that is sent without ids inside is taken to have had none before.

    NOTHING is the name for events that leave the rest of the page alone, such as an append to "#messages".
    """
    if len(payload) > MOST:
        return None
    end = payload.find(b"\n", len(_PATCH))
    if end == len(payload) - 2 and payload.startswith(_PATCH) and payload.endswith(b"\n"):
        return _replaced_element("", payload[len(_PATCH) : end].decode("utf-8", "replace"))
    found = _EVENT.fullmatch(payload)
    if found is None:
        return None
    kind, options, lines = found.groups()
    if kind == b"signals":
        return _replaced_signals(options, lines.replace(b"data: signals ", b""))
    html = lines[:-1].replace(b"data: elements ", b"").decode("utf-8", "replace")
    return _replaced_element(options.decode("utf-8", "replace"), html)


def _replaced_signals(options: bytes, text: bytes) -> str | None:
    if options:  # Of signals that the page has, nothing is said.
        return NOTHING
    try:
        paths = _paths(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return NOTHING if paths is None else SIGNALS + _short(repr(sorted(paths)))


def _paths(signals: Any, *prefix: str) -> list[list[str]] | None:
    """Return the paths of all values, None where one of them is an object without any, which changes nothing."""
    if not isinstance(signals, dict):
        return [list(prefix)]
    found: list[list[str]] = []
    for name, value in signals.items():
        inside = _paths(value, *prefix, name)
        if inside is None:
            return None
        found += inside
    return found or None


def _replaced_element(options: str, html: str) -> str | None:
    fields = dict(_OPTION.findall(options)) if options else {}
    mode = fields.get("mode", "outer")
    selector = fields.get("selector", "").strip()
    match = _ID_SELECTOR.fullmatch(selector) if selector else None
    if _acts(html.lower()) or (selector and match is None and not (selector == "body" and mode in _PLACES)):
        return None
    if mode in _PLACES:
        return NOTHING
    target = match[1] if match is not None else None
    if mode == "remove" and target is not None:
        return CONTAINER + _short(f"{mode} {target}")
    if mode == "inner" and target is not None:
        folded = html.lower()
        is_container = not html.strip() or _HAS_ID.search(folded) or re.search(r"<(?:li|d[td]|t[rdh]|option)\b", folded)
        return (CONTAINER if is_container else ELEMENT) + _short(f"{mode} {target}")
    root = None if "namespace" in fields or mode not in _WHOLE else _root_of(html)
    if root is None or target not in (None, root[1]):
        return None
    tag, own_id, inside = root
    # The only "<" is that of the end tag.
    has_elements = html.count("<", inside) > 1
    has_ids = has_elements and _HAS_ID.search(html[inside:].lower()) is not None
    return (CONTAINER if has_ids or tag in _HOLDERS else ELEMENT) + _short(f"{mode} {own_id}")


def _acts(html: str) -> bool:
    if "<script" in html or "<iframe" in html or "<object" in html or "<embed" in html:
        return True
    if ("onload" in html or "onerror" in html) and _HANDLER.search(html):
        return True
    return "data-" in html and _ATTRIBUTE.search(html) is not None


def _short(name: str) -> str:
    if len(name) <= LONGEST and "\0" not in name:
        return name
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _root_of(html: str) -> tuple[str, str, int] | None:
    """Return the tag and the id of the only element of HTML, and where its inside begins.

    None where there may be several: what a parser would mend is in doubt.
    """
    begin = _ROOT.match(html)
    if begin is None:
        return None
    tag, attributes = begin[1].lower(), begin[2]
    own = _OWN_ID.search(attributes)
    own_id = (own[1] or own[2] or own[3] or "") if own is not None else ""
    inside = html[begin.end() :].rstrip()
    if not own_id or "&" in own_id:
        return None
    if tag in _VOID:
        is_alone = not inside
    elif tag not in _NOT_INSIDE or attributes.endswith("/"):
        is_alone = False
    elif "<" not in inside:  # A parser closes the only element at the end.
        is_alone = True
    else:
        is_alone = _ends_with_root(tag, inside)
    return (tag, own_id, begin.end()) if is_alone else None


def _ends_with_root(tag: str, inside: str) -> bool:
    """Tell whether an open element's end tag is the end of what follows, and nothing has the parser close it before."""
    if inside.count("<") == 1 and inside.endswith(f"</{tag}>"):
        return True
    depth = 1
    for found in _SAME[tag].finditer(inside):
        depth += -1 if found[1] else 1
        if not depth:
            body = inside[: found.start()]
            return found.end() == len(inside) and _DOUBT[tag].search(body) is None
    return False


class Wholes:
    """The events that a later one may make superfluous: the newest of each name, and of each tab that was left out."""

    __slots__ = ("_container", "_excluding", "_newest")

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._excluding: dict[str, dict[str, int]] = {}
        # The name of the newest event about elements, if that is a container.
        self._container = ""

    def note(self, sequence: int, facts: Facts) -> list[int]:
        """Note the next event, and return the sequences of those that it makes superfluous.

        An event that leaves out a tab replaces only what left out the same tab.
        """
        replaces, tab = facts.replaces, facts.exclude
        if replaces is None:
            if self._newest or self._excluding:
                self._newest = _refreshes(self._newest)
                self._excluding = _refreshes(self._excluding)
            return []
        if not replaces.startswith((SIGNALS, REFRESH)):
            if self._container and self._container != replaces:
                self._newest.pop(self._container, None)
                self._excluding.pop(self._container, None)
            self._container = replaces if replaces.startswith(CONTAINER) else ""
        if replaces == NOTHING:
            return []
        excluding = self._excluding.get(replaces, {})
        if tab is not None:
            found = [excluding[tab]] if tab in excluding else []
            self._excluding.setdefault(replaces, excluding)[tab] = sequence
        else:
            found = list(self._excluding.pop(replaces, {}).values())
            if replaces in self._newest:
                found.append(self._newest[replaces])
            self._newest[replaces] = sequence
        return found

    def forget(self, sequence: int, facts: Facts) -> None:
        """Forget an event that is no longer in the history."""
        name, tab = facts.replaces or "", facts.exclude
        newest: dict[Any, int] = self._newest if tab is None else self._excluding.get(name, {})
        place = name if tab is None else tab
        if newest.get(place) == sequence:
            del newest[place]
            if not newest and tab is not None:
                del self._excluding[name]


def superfluous(events: Iterable[tuple[bytes, Facts | None]]) -> list[int | None]:
    """Return, for each event of a step, the place of the one that makes it superfluous, None where none of them does.

    An event is given as the name of its channel and its facts; None for a command, which begins the channel anew.
    """
    wholes: dict[bytes, Wholes] = {}
    found: list[int | None] = []
    for index, (channel, facts) in enumerate(events):
        found.append(None)
        if facts is None:
            wholes.pop(channel, None)
        elif not facts.is_transient:
            for older in wholes.setdefault(channel, Wholes()).note(index, facts):
                found[older] = index
    return found


def _refreshes(newest: dict[str, T]) -> dict[str, T]:
    return {name: each for name, each in newest.items() if name.startswith(REFRESH)}
