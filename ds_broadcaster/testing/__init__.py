"""The testing kit: what a project says in its tests of live pages, and the contract that brokers keep.

With pytest, the fixtures are there when the package is installed: see plugin.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broadcasts import Broadcasts
    from .brokers import BrokerContract
    from .browser import await_for_live, wait_for_live
    from .cases import BroadcastTestMixin
    from .events import Event, Sent
    from .kit import assert_may_listen, assert_refused, capture_broadcasts
    from .live_page import LivePage
    from .live_server import BroadcastLiveServerTestCase
    from .stream import Stream

__all__ = [
    "BroadcastLiveServerTestCase",
    "BroadcastTestMixin",
    "Broadcasts",
    "BrokerContract",
    "Event",
    "LivePage",
    "Sent",
    "Stream",
    "assert_may_listen",
    "assert_refused",
    "await_for_live",
    "capture_broadcasts",
    "wait_for_live",
]

# pytest imports this package with the plugin, in every project.
_LATE = {
    "BroadcastLiveServerTestCase": "live_server",
    "BroadcastTestMixin": "cases",
    "Broadcasts": "broadcasts",
    "BrokerContract": "brokers",
    "Event": "events",
    "LivePage": "live_page",
    "Sent": "events",
    "Stream": "stream",
    "assert_may_listen": "kit",
    "assert_refused": "kit",
    "await_for_live": "browser",
    "capture_broadcasts": "kit",
    "wait_for_live": "browser",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
