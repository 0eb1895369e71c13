"""Keeps the kit's own frames out of tracebacks: a failed assertion shows the line of the test."""

from typing import Any


def __tracebackhide__(excinfo: Any) -> bool:
    """Tell pytest whether to hide a frame of the module that imports this; an error in the kit is shown whole."""
    return excinfo is None or bool(excinfo.errisinstance(AssertionError))


# The same for unittest.
__unittest = True
