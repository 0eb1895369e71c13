"""Make Django pages live: `from ds_broadcaster import broadcast`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .broadcaster import broadcast
from .exceptions import BroadcasterError, BrokerUnavailable, EventTooLarge
from .ids import dom_id, dom_selector
from .present import Present

if TYPE_CHECKING:
    from .models.base import BroadcastOnSave
    from .models.bind import bind_broadcasts
    from .models.options import Face
    from .models.receivers import broadcast_saved, render_broadcast
    from .models.suppress import suppress_broadcasts
    from .views.channel_view import BroadcastChannelView

__all__ = [
    "BroadcastChannelView",
    "BroadcastOnSave",
    "BroadcasterError",
    "BrokerUnavailable",
    "EventTooLarge",
    "Face",
    "Present",
    "bind_broadcasts",
    "broadcast",
    "broadcast_saved",
    "dom_id",
    "dom_selector",
    "render_broadcast",
    "suppress_broadcasts",
]

# Django imports this package before models and settings are ready; these names need both, so they load on first use.
_LATE = {
    "BroadcastChannelView": "views",
    "BroadcastOnSave": "models",
    "Face": "models.options",
    "bind_broadcasts": "models.bind",
    "broadcast_saved": "models.receivers",
    "render_broadcast": "models.receivers",
    "suppress_broadcasts": "models.suppress",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
