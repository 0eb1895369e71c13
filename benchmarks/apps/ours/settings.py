"""Settings with nothing in them that is not needed to stream."""

from __future__ import annotations

SECRET_KEY = "only for benchmarks"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.apps.ours.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "ds_broadcaster"]
MIDDLEWARE = ["benchmarks.apps.ours.views.user_from_query"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
