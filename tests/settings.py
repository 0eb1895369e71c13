"""Settings of the test project, for pytest and for the server subprocesses that the tests start.

TEST_DATABASE is the SQLite file that both sides share. TEST_SETTINGS is a JSON object of settings that one
server process overrides.
"""

import atexit
import json
import os
import tempfile
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
CLIENT_BUNDLE = BASE_DIR / "cookbook" / "client" / "datastar.js"


def _new_database() -> str:
    """Name this run's database; the process that named it takes away what is there when it ends."""
    path = Path(tempfile.gettempdir()) / f"ds-broadcaster-test-{os.getpid()}.sqlite3"

    def remove() -> None:
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()

    atexit.register(remove)
    os.environ["TEST_DATABASE"] = str(path)
    return str(path)


_database = os.environ.get("TEST_DATABASE") or _new_database()

# A worker of pytest-xdist inherits the run's database. It takes one of its own beside it, and so do its servers.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if not _database.endswith(_worker):
    _database = os.environ["TEST_DATABASE"] = f"{_database}-{_worker}"


def _sqlite(path: str) -> dict[str, object]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        # pytest's own process uses the same file as the servers, not a database in memory.
        "TEST": {"NAME": path},
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }


# The second one's name begins with the first one's, so it is removed with it.
DATABASES = {"default": _sqlite(_database), "archive": _sqlite(f"{_database}-archive")}

SECRET_KEY = "only for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "tests.project.urls"
STATIC_URL = "static/"
LOGIN_URL = "/login/nobody/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ds_broadcaster",
    "tests.project",
    "tests.chat",
]

# All of these see a stream's response before it starts, and none may break it.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tests.project.middleware.content_security_policy",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "ds_broadcaster": {"handlers": ["stderr"], "level": "INFO"},
        "django": {"handlers": ["stderr"], "level": "WARNING"},
    },
}

globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
