"""Django signals, sent in a worker thread, one at a time and in order.

Each is sent with `sender=Broadcaster`, `channel` and `user_id`; `user_id` is None for an anonymous connection.
"""

from django.dispatch import Signal

user_joined: Signal = Signal()
"""A user's first connection on a channel opened."""

user_left: Signal = Signal()
"""The last one closed, the grace is over, and no hidden tab of theirs is left."""

user_away: Signal = Signal()
"""The last tab of a user who has not left was hidden, and the grace is over."""

user_back: Signal = Signal()
"""A user who was away has a connection again."""

connection_opened: Signal = Signal()
"""A stream opened; sent for each channel it carries."""

connection_closed: Signal = Signal()
"""A stream closed; sent for each channel it carried."""
