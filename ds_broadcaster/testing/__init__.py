"""The testing kit: what a project says in its tests of live pages, and the contract that brokers keep.

With pytest, the fixtures are there when the package is installed: see plugin.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broadcasts import Broadcasts
    from .brokers import BrokerContract
    from .cases import BroadcastTestMixin
    from .events import Event, Sent
    from .kit import assert_may_listen, assert_refused, capture_broadcasts
    from .stream import Stream

__all__ = [
    "BroadcastTestMixin",
    "Broadcasts",
    "BrokerContract",
    "Event",
    "Sent",
    "Stream",
    "assert_may_listen",
    "assert_refused",
    "capture_broadcasts",
]

# pytest imports this package with the plugin, in every project.
_LATE = {
    "BroadcastTestMixin": "cases",
    "Broadcasts": "broadcasts",
    "BrokerContract": "brokers",
    "Event": "events",
    "Sent": "events",
    "Stream": "stream",
    "assert_may_listen": "kit",
    "assert_refused": "kit",
    "capture_broadcasts": "kit",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
