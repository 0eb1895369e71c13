"""What an attacker writes where a name, a text or an id is expected."""

import enum
import re

from hypothesis import strategies as st

FORGED = 'event: datastar-patch-signals\ndata: signals {"forged": 1}\n\n'

PIECES = [
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\r\r",
    "\0",
    "\v",
    "\f",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ud800",
    "\udfff",
    "\u202e",
    FORGED,
    f"\n{FORGED}",
    f"\r\r{FORGED}".replace("\n", "\r"),
    "data: selector body",
    "id: 999999999",
    "retry: 1",
    ": comment",
    "elements <script>",
    "</script>",
    "<!--",
    "'",
    '"',
    "`",
    "${",
    "\\",
    "{{",
    "{%",
    "#a",
    " ",
    "NaN",
    "é",
    "😀",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)
# For the fields of a line: what is refused at once would hide what is not.
single_lines = texts.map(lambda text: re.sub("[\r\n\0]", "", text))
any_text = texts | single_lines


class Liar(str):
    """A string that checks find harmless, and that says something else when it is written."""

    __slots__ = ("said",)

    def __new__(cls, shown, said):
        self = super().__new__(cls, shown)
        self.said = said
        return self

    def __str__(self):
        return self.said

    def __format__(self, spec):
        return self.said

    def encode(self, *args):
        return self.said.encode(*args)

    def splitlines(self, keepends=False):
        return [self.said]

    def strip(self, *args):
        return self.said

    def replace(self, *args):
        return self


class Tag:
    """Says that it is HTML, as a template's SafeString does."""

    def __init__(self, html):
        self.html = html

    def __html__(self):
        return self.html


class Word(str, enum.Enum):  # noqa: UP042 - its str() is not its value, unlike a StrEnum's
    PLACE = "#a"


liars = st.builds(Liar, st.sampled_from(["#a", "room", "outer", "html"]), texts)
strings = any_text | liars | st.just(Word.PLACE)
html = strings | st.builds(Tag, texts) | st.builds(Tag, liars)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | liars | st.binary(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(any_text, children, max_size=3),
    max_leaves=6,
)
signals = st.dictionaries(any_text | liars, json_values, max_size=3)
# Whatever else Python has: it is refused, or it is text.
junk = st.none() | st.integers() | st.floats() | st.binary(max_size=5) | st.lists(any_text, max_size=2)
