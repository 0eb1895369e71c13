"""The contract that every broker keeps, as a test class.

Subclass it to test a broker:

    class TestMyBroker(BrokerContract):
        def make_broker(self, **history):
            return MyBroker(self.location, {}, History(**history))

Each call of make_broker() in a test stands for one more process on the same cluster: each publishes to all others.
Nothing may remain from one test to the next.
"""

from .events import EventsContract
from .presence import PresenceContract


class BrokerContract(EventsContract, PresenceContract):
    """What every broker does. Define make_broker() in a subclass, and run it with pytest."""


__all__ = ["BrokerContract"]
