"""Expressions that only look at signals, such as `$count > 0 ? 'new' : ''`: what pages show follows from them.

Everything else is JavaScript, which no test runs: functions, assignments, elements, actions.
"""

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from .literals import NAME, NUMBER, STRING, unquoted
from .scanner import NotRead, Scanner

# JavaScript's undefined; null is None.
UNDEFINED: Final = type("Undefined", (), {"__repr__": lambda self: "undefined"})()

Signals = dict[str, Any]
Compiled = Callable[[Signals], Any]

# As the client finds them: `$a-b` is one signal.
_SIGNAL = re.compile(r"\$(\w+(?:[.-]\w+)*)")
_OPERATOR = re.compile(r"===|!==|==|!=|<=|>=|&&|\|\||\?\?|[-+*%<>?]")
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}
# The binary operators, by how tightly they bind.
_LEVELS = (("??", "||"), ("&&",), ("===", "!==", "==", "!="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "%"))


class Failed(Exception):
    """The expression would raise an error."""


@lru_cache(maxsize=1000)
def compiled(text: str) -> Compiled | None:
    """Return a function that gives the value of an expression for signals, None for one that is not supported.

    The function raises Failed where JavaScript would raise an error. As in the client, a signal that is looked at and
    is not there is "" from then on.
    """
    parser = _Parser(text)
    try:
        expression = parser.expression()
        parser.end()
    except NotRead:
        return None
    return expression


class _Parser(Scanner):
    def expression(self) -> Compiled:
        condition = self._binary(0)
        if not self._next("?"):
            return condition
        then = self.expression()
        self._want(":")
        otherwise = self.expression()
        return lambda signals: then(signals) if is_true(condition(signals)) else otherwise(signals)

    def _binary(self, level: int) -> Compiled:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while (operator := self._operator(_LEVELS[level])) is not None:
            left = _combined(operator, left, self._binary(level + 1))
        return left

    def _unary(self) -> Compiled:
        if self._next("!"):
            inner = self._unary()
            return lambda signals: not is_true(inner(signals))
        if self._next("-"):
            inner = self._unary()
            return lambda signals: json_number(-_number(inner(signals)))
        return self._indexed()

    def _indexed(self) -> Compiled:
        value = self._primary()
        while self._next("["):
            value = _indexed(value, self.expression())
            self._want("]")
        return value

    def _primary(self) -> Compiled:
        if self._next("("):
            inner = self.expression()
            self._want(")")
            return inner
        if self._next("{"):
            return self._object()
        if found := self._match(_SIGNAL):
            names = found[1].split(".")
            return lambda signals: _look_up(signals, names)
        if found := self._match(STRING):
            text = unquoted(found[0])
            return lambda signals: text
        if self._next("`"):
            return self._template()
        if found := self._match(NUMBER):
            number = json_number(float(found[0]))
            return lambda signals: number
        found = self._match(NAME)
        if found is None or found[0] not in _CONSTANTS:
            self._give_up()
        constant = _CONSTANTS[found[0]]
        return lambda signals: constant

    def _object(self) -> Compiled:
        items: dict[str, Compiled] = {}
        while not self._next("}"):
            if found := self._match(STRING):
                key = unquoted(found[0])
            elif found := self._match(NAME):
                key = found[0]
            else:
                self._give_up()
            self._want(":")
            items[key] = self.expression()
            if not self._next(",") and not self._looking_at("}"):
                self._give_up()
        return lambda signals: {name: each(signals) for name, each in items.items()}

    def _template(self) -> Compiled:
        parts: list[str | Compiled] = []
        while not self._text.startswith("`", self._at):
            if self._text.startswith("${", self._at):
                self._at += 2
                parts.append(self.expression())
                self._want("}")
            elif self._at < len(self._text) and self._text[self._at] != "\\":
                parts.append(self._text[self._at])
                self._at += 1
            else:
                self._give_up()
        self._at += 1
        return lambda signals: "".join(each if isinstance(each, str) else as_text(each(signals)) for each in parts)

    def _next(self, token: str) -> bool:
        # A condition's "?" is no operator's.
        return not (token[0] == "?" and self._looking_at("??", "?.")) and super()._next(token)

    def _operator(self, allowed: tuple[str, ...]) -> str | None:
        self._space()
        found = _OPERATOR.match(self._text, self._at)
        if found is None or found[0] not in allowed:
            return None
        self._at = found.end()
        return found[0]


def _combined(operator: str, left: Compiled, right: Compiled) -> Compiled:
    if operator == "&&":
        return lambda signals: right(signals) if is_true(value := left(signals)) else value
    if operator == "||":
        return lambda signals: value if is_true(value := left(signals)) else right(signals)
    if operator == "??":
        return lambda signals: right(signals) if (value := left(signals)) in (None, UNDEFINED) else value
    calculate = _OPERATIONS[operator]
    return lambda signals: calculate(left(signals), right(signals))


def _indexed(value: Compiled, key: Compiled) -> Compiled:
    def index(signals: Signals) -> Any:
        found = value(signals)
        if not isinstance(found, dict):
            raise Failed
        return found.get(as_text(key(signals)), UNDEFINED)

    return index


def _look_up(signals: Signals, names: list[str]) -> Any:
    value: Any = signals
    for name in names:
        if isinstance(value, dict):
            if value.get(name) is None:
                value[name] = ""
            value = value[name]
        elif isinstance(value, list | str) and name == "length":
            value = len(value)
        elif isinstance(value, list) and name.isdecimal():
            value = value[int(name)] if int(name) < len(value) else ""
        elif value in (None, UNDEFINED):
            raise Failed
        else:
            value = UNDEFINED
    return value


# Values as JavaScript has them.


def is_true(value: Any) -> bool:
    """Tell whether JavaScript takes a value for true."""
    if isinstance(value, list | dict):
        return True
    return value is not UNDEFINED and bool(value) and value == value


def as_text(value: Any) -> str:
    """Return the text that JavaScript makes of a value; raise Failed for an object of signals."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join("" if each in (None, UNDEFINED) else as_text(each) for each in value)
    if isinstance(value, dict):  # The client's own objects have no text.
        raise Failed
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else str(json_number(value))
    return "undefined" if value is UNDEFINED else json.dumps(value)


def json_number(value: float) -> float:
    """Return a number as JavaScript writes it: 1.0 is 1."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _number(value: Any) -> float:
    if value is UNDEFINED:
        return math.nan
    if value is None or isinstance(value, bool | int | float):
        return json_number(float(value or 0))
    try:
        return json_number(float(as_text(value).strip() or 0))
    except ValueError:
        return math.nan


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, list | dict) or isinstance(right, list | dict):
        return left is right
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _is_equal(left: Any, right: Any) -> bool:
    nothing = (None, UNDEFINED)
    if left in nothing or right in nothing:
        return left in nothing and right in nothing
    if type(left) is type(right):
        return _is_same(left, right)
    return _number(left) == _number(right)


def _is_less(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left < right
    return _number(left) < _number(right)


def _is_at_most(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left <= right
    return _number(left) <= _number(right)


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, str | list | dict) or isinstance(right, str | list | dict):
        return as_text(left) + as_text(right)
    return json_number(_number(left) + _number(right))


def _remainder(left: Any, right: Any) -> float:
    return json_number(math.fmod(_number(left), _number(right))) if _number(right) else math.nan


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "===": _is_same,
    "!==": lambda left, right: not _is_same(left, right),
    "==": _is_equal,
    "!=": lambda left, right: not _is_equal(left, right),
    "<": _is_less,
    ">": lambda left, right: _is_less(right, left),
    "<=": _is_at_most,
    ">=": lambda left, right: _is_at_most(right, left),
    "+": _sum,
    "-": lambda left, right: json_number(_number(left) - _number(right)),
    "*": lambda left, right: json_number(_number(left) * _number(right)),
    "%": _remainder,
}
