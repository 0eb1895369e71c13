"""Models that broadcast: what a save, a change and a deletion send."""

from .base import BroadcastOnSave

__all__ = ["BroadcastOnSave"]
