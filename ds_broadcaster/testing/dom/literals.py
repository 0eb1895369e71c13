"""The values that are written out in a `data-signals` attribute. No JavaScript is run: an expression is left out."""

import json
import re
from typing import Any, NoReturn

from .scanner import NotRead, Scanner

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w$.])")
NAME = re.compile(r"[A-Za-z_$][\w$]*")
STRING = re.compile(r'"(?:[^"\\\n]|\\[\s\S])*"|\'(?:[^\'\\\n]|\\[\s\S])*\'|`(?:[^`\\$]|\\[\s\S]|\$(?!\{))*`')
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|[\s\S]))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": "", "\r\n": ""}
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": None}
# What ends a value, and what may hold such a character without ending it.
_ENDS = re.compile(rf"(?P<string>{STRING.pattern})|(?P<open>[(\[{{])|(?P<close>[)\]}}])|(?P<comma>,)|(?P<other>[\s\S])")


def read_literal(text: str) -> tuple[Any, list[str]]:
    """Return the value that is written in JavaScript or JSON, and the expressions that it has in place of values.

    What an expression would give is left out of its object or array. A text that is an expression as a whole gives
    None and itself.
    """
    try:
        return json.loads(text, parse_constant=_refuse), []
    except (ValueError, NotRead):
        pass
    reader = _Reader(text)
    try:
        value = reader.value()
        reader.end()
    except NotRead:
        return None, [text.strip()]
    return value, reader.expressions


def unquoted(text: str) -> str:
    """Return what a string says that is written with its quotes."""
    return _ESCAPE.sub(_unescape, text[1:-1])


def _refuse(constant: str) -> NoReturn:
    raise NotRead


class _Reader(Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.expressions: list[str] = []

    def value(self) -> Any:
        if self._next("("):
            value = self.value()
            self._want(")")
            return value
        if self._next("{"):
            return self._object()
        if self._next("["):
            return self._array()
        if found := self._match(STRING):
            return unquoted(found[0])
        if found := self._match(NUMBER):
            number = float(found[0])
            return int(number) if number.is_integer() else number
        if (found := self._match(NAME)) and found[0] in _CONSTANTS:
            return _CONSTANTS[found[0]]
        raise NotRead

    def _object(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not self._next("}"):
            key = self._key()
            self._want(":")
            self._item(lambda value, key=key: values.__setitem__(key, value), "}")
        return values

    def _array(self) -> list[Any]:
        values: list[Any] = []
        while not self._next("]"):
            self._item(values.append, "]")
        return values

    def _item(self, keep: Any, end: str) -> None:
        """Read one value up to the comma, or to the end of what it is in; keep it, unless it is an expression."""
        self._space()
        begin = self._at
        known = len(self.expressions)
        try:
            value = self.value()
            if not self._looking_at(",", end):
                raise NotRead
        except NotRead:
            del self.expressions[known:]
            self._at = begin
            self._skip()
            if not self._looking_at(",", end):
                raise
            self.expressions.append(self._text[begin : self._at].strip())
        else:
            keep(value)
        self._next(",")

    def _key(self) -> str:
        if found := self._match(STRING):
            return unquoted(found[0])
        if found := self._match(NAME) or self._match(NUMBER):
            return found[0]
        raise NotRead

    def _skip(self) -> None:
        """Go to the comma or the bracket that ends an expression."""
        depth = 0
        while found := _ENDS.match(self._text, self._at):
            if depth == 0 and (found["comma"] or found["close"]):
                return
            depth += bool(found["open"]) - bool(found["close"])
            self._at = found.end()
        raise NotRead


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    return chr(int(code, 16)) if code else _ESCAPED.get(found[4], found[4])
