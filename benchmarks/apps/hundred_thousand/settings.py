"""The settings of ours over Redis, with a limit of connections, as a process needs that may run out of descriptors."""

from __future__ import annotations

import os

from ..ours.redis_settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.apps.hundred_thousand.urls"
DS_BROADCASTER_MAX_CONNECTIONS = int(os.environ["BENCH_MAX_CONNECTIONS"])
# Re-checks are 370 requests a second for 100,000 streams. They are left out, on a slow machine too.
DS_BROADCASTER_RECHECK_INTERVAL = 3600
