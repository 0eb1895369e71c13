"""Models that broadcast: what a save, a change and a deletion send."""

from . import inspector  # noqa: F401  (Django looks for an app's models here.)
from .base import BroadcastOnSave
from .options import Face

__all__ = ["BroadcastOnSave", "Face"]
