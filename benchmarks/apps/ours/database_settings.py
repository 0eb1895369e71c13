"""The same with users, in PostgreSQL."""

from __future__ import annotations

from .. import database
from .settings import *  # noqa: F403
from .settings import INSTALLED_APPS

DATABASES = database.DATABASES
MIDDLEWARE = database.MIDDLEWARE
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sessions"]
# All streams are one user's.
DS_BROADCASTER_MAX_CONNECTIONS_PER_USER = None
