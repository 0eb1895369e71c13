"""The PostgreSQL broker: many processes and machines, and events that are sent when their transaction commits."""

from .broker import PostgresBroker

__all__ = ["PostgresBroker"]
