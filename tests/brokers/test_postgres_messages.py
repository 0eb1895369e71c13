"""Anyone who may connect to a database can notify its listeners: what is not the broker's is passed over."""

from types import SimpleNamespace

from hypothesis import example, given
from hypothesis import strategies as st

from ds_broadcaster.brokers.postgres import statements
from ds_broadcaster.brokers.postgres.listener import PostgresListener
from ds_broadcaster.testing.brokers.receiver import PRESENCE, RecordingReceiver

KEY = statements.key_of("a").hex()


def taken(payload):
    """Return what a listener of the channel "a" tells its hub, and whether it looks for events."""
    listener = PostgresListener.__new__(PostgresListener)  # Its maker would connect.
    listener._channels, listener._is_woken = {statements.key_of("a"): "a"}, False
    listener._receiver = RecordingReceiver()
    listener._take(SimpleNamespace(payload=payload))
    return listener._receiver.sequences("a"), listener._is_woken


@given(st.text() | st.from_regex(r"[er?][ 0-9a-f]*"))
@example("r")
@example(f"r {KEY}")
@example(f"e{KEY}\0")
@example("r\ud800 " + KEY)
@example("e" + "0" * 8000)
def test_notification_wakes_or_is_passed_over(payload):
    try:
        heard, is_woken = taken(payload)
    except ValueError:  # As documented: whoever waits passes it over.
        return
    assert heard in ([], [PRESENCE])
    assert is_woken in (True, False)


def test_notifications_of_the_broker_are_understood():
    assert taken(f"e{KEY}") == ([], True)
    assert taken("?") == ([], True)
    assert taken(f"rprocess:1 {KEY}") == ([PRESENCE], False)
