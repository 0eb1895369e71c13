"""Settings of the trial: Wagtail and django.contrib.auth on one site, in a database of its own."""

from tests.settings import *  # noqa: F403
from tests.settings import _database, _sqlite

# Removed with the run's own, whose name it begins with.
DATABASES = {"default": _sqlite(f"{_database}-trial")}

INSTALLED_APPS = [
    "tests.trial",
    "wagtail",
    "modelcluster",
    "taggit",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ds_broadcaster",
]
# Wagtail's migrations take longer than the trial.
MIGRATION_MODULES = dict.fromkeys(["wagtailcore", "taggit", "auth", "contenttypes", "sessions", "ds_broadcaster"])

ROOT_URLCONF = "tests.trial.site"
WAGTAIL_SITE_NAME = "Newsroom"
WAGTAILADMIN_BASE_URL = "http://127.0.0.1"
