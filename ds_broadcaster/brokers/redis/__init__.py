"""The Redis broker: many processes and machines, one Redis or Valkey, with Sentinel or as a cluster if need be."""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
