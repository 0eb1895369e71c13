"""Settings for a demo on your own machine. They are unsuitable for a public server."""

import os
from pathlib import Path

import django

if django.VERSION >= (6, 0):
    from django.utils.csp import CSP

    NONCE = CSP.NONCE
    CSP_MIDDLEWARE = "django.middleware.csp.ContentSecurityPolicyMiddleware"
    CSP_CONTEXT_PROCESSOR = "django.template.context_processors.csp"
else:
    from .csp import NONCE

    CSP_MIDDLEWARE = "project.csp.ContentSecurityPolicyMiddleware"
    CSP_CONTEXT_PROCESSOR = "project.csp.csp"

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = True
SECRET_KEY = "a-demo-has-no-secrets"
# With HOST set, other devices may reach the demo, for example a phone.
ALLOWED_HOSTS = ["*"] if "HOST" in os.environ else ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ds_broadcaster",
    "rooms",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    CSP_MIDDLEWARE,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ds_broadcaster.middleware.BroadcasterMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                CSP_CONTEXT_PROCESSOR,
            ],
        },
    },
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
LOGIN_URL = "home"

# No 'unsafe-eval': the root element of each page has {% datastar_nonce %}.
SECURE_CSP = {
    "default-src": ["'self'"],
    "script-src": [NONCE, "'strict-dynamic'"],
    "style-src": ["'self'", NONCE],
    "style-src-attr": ["'unsafe-inline'"],  # the hues of people, and where their pointers are
    "img-src": ["'self'", "data:"],
    "base-uri": ["'none'"],
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("ROOM_DB", BASE_DIR / "db.sqlite3"),
        # There are many small requests at once: in WAL mode, readers and the writer do not wait for each other.
        "OPTIONS": {"timeout": 10, "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"},
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

STATIC_URL = "/static/"

# Use the copy of the Datastar client that fetch_client.py downloaded, so that the demo starts offline, or else the CDN.
CLIENT_DIR = BASE_DIR.parent / "client"
if (CLIENT_DIR / "datastar.js").exists():
    STATICFILES_DIRS = [CLIENT_DIR]
    DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"
