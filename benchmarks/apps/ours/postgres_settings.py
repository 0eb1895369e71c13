"""The same with the PostgreSQL broker."""

from __future__ import annotations

from .. import database
from .settings import *  # noqa: F403
from .settings import INSTALLED_APPS

DATABASES = database.DATABASES
INSTALLED_APPS = [*INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
DS_BROADCASTER_BROKER = {"BACKEND": "ds_broadcaster.brokers.postgres.PostgresBroker", "LOCATION": "default"}
