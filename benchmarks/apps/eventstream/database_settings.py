"""The same with users, and events that are kept for clients that return, in PostgreSQL."""

from __future__ import annotations

from .. import database
from .settings import *  # noqa: F403
from .settings import INSTALLED_APPS

DATABASES = database.DATABASES
MIDDLEWARE = database.MIDDLEWARE
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sessions"]
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
