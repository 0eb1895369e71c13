"""Channel views, the elements that open their streams, and signed subscriptions."""

from .channel_view import BroadcastChannelView

__all__ = ["BroadcastChannelView"]
