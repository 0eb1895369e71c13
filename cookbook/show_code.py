"""Put code into the pages that show it: `make docs-code`.

A block of code that stands after a mark is a copy of a file, or of a section of one:

    <!-- code: cookbook/room/rooms/channels.py:home -->

A section begins in its file at a comment `section: home`, and ends at `end: home`.
"""

import re
from pathlib import Path
from textwrap import dedent, indent

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

BLOCK = re.compile(
    r"^(?P<indent> *)<!-- code: (?P<path>[^\s:]+)(?::(?P<section>\w+))? -->\n"
    r"(?P<fence>(?P=indent)```[^\n]*\n)(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
# A line that is a comment, of Python or of Django's templates, and nothing else.
_MARK = r"^ *(?:#|\{{#) (?:{}): (?:{})(?: #\}})?\n"


def code_of(path, section=None):
    """Return the text of a file, or of one of its sections, as a page shows it."""
    text = (ROOT / path).read_text()
    if section is not None:
        begin, end = (list(re.finditer(_MARK.format(word, section), text, re.MULTILINE)) for word in ("section", "end"))
        if not len(begin) == len(end) == 1:
            raise ValueError(f"{path} must have one comment `section: {section}`, and one `end: {section}`.")
        text = text[begin[0].end() : end[0].start()]
    text = re.sub(_MARK.format("section|end", r"\w+"), "", text, flags=re.MULTILINE)
    return dedent(text).strip("\n") + "\n"


def with_code(page):
    """Return the text of a page with the code that its files have now."""

    def block(found):
        mark = found[0][: found.start("fence") - found.start()]
        code = indent(code_of(found["path"], found["section"]), found["indent"])
        return f"{mark}{found['fence']}{code}{found['indent']}```"

    return BLOCK.sub(block, page)


def main():
    for path in sorted(HERE.rglob("*.md")):
        page = path.read_text()
        if (current := with_code(page)) != page:
            path.write_text(current)
            print(f"{path.relative_to(ROOT)} shows the code of now.")


if __name__ == "__main__":
    main()
