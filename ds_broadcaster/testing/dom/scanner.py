"""What reads the JavaScript of attributes: a place in a text, and what stands there."""

import re
from typing import NoReturn

_SPACE = re.compile(r"\s*")


class NotRead(Exception):
    """JavaScript that a test does not run."""


class Scanner:
    """Reads a text from left to right, and leaves out the space between its parts."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def end(self) -> None:
        """Give up unless all is read."""
        self._space()
        if self._at != len(self._text):
            self._give_up()

    def _space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _looking_at(self, *tokens: str) -> bool:
        self._space()
        return self._text.startswith(tokens, self._at)

    def _next(self, token: str) -> bool:
        found = self._looking_at(token)
        self._at += len(token) if found else 0
        return found

    def _want(self, token: str) -> None:
        if not self._next(token):
            self._give_up()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._space()
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _give_up(self) -> NoReturn:
        raise NotRead
