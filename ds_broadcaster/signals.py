"""Django signals, sent in a worker thread, one at a time and in order.

Each is sent with `sender=Broadcaster`, `channel` and `user_id`; `user_id` is None for an anonymous connection.
"""

from django.dispatch import Signal

user_joined = Signal()  # A user's first connection on a channel opened.
user_left = Signal()  # The last one closed, and the grace is over.
connection_opened = Signal()  # A stream opened; sent for each channel it carries.
connection_closed = Signal()  # A stream closed; sent for each channel it carried.
