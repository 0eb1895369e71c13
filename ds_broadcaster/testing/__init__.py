"""The testing kit: what a project says in its tests of live pages, and the contract that brokers keep.

With pytest, the fixtures are there when the package is installed: see plugin.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .brokers import BrokerContract

__all__ = ["BrokerContract"]

# pytest imports this package with the plugin, in every project.
_LATE = {"BrokerContract": "brokers"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
