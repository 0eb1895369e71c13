"""The same with the PostgreSQL broker."""

from __future__ import annotations

import os

from .settings import *  # noqa: F403
from .settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["BENCH_POSTGRES"],
    }
}
DS_BROADCASTER_BROKER = {"BACKEND": "ds_broadcaster.brokers.postgres.PostgresBroker", "LOCATION": "default"}
