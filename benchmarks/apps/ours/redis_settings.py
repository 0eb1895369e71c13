"""The same with the Redis broker."""

from __future__ import annotations

import os

from .settings import *  # noqa: F403

DS_BROADCASTER_BROKER = {
    "BACKEND": "ds_broadcaster.brokers.redis.RedisBroker",
    "LOCATION": os.environ["BENCH_REDIS"],
}
