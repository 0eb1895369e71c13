"""For tests: the contract that every broker keeps, as a test class.

A broker is born through it:

    class TestMyBroker(BrokerContract):
        def make_broker(self, **history):
            return MyBroker(self.location, {}, History(**history))

Each call of make_broker() in one test stands for one more process on the same cluster: what one publishes all others
carry. Between two tests nothing may be left.
"""

from .events import EventsContract
from .presence import PresenceContract


class BrokerContract(EventsContract, PresenceContract):
    """What every broker does. Subclass it, say how to make one, and run it with pytest."""


__all__ = ["BrokerContract"]
