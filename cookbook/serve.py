"""Serve one recipe by itself: `python cookbook/serve.py notifications`.

A recipe is a small Django app. This file is the project around it: settings, URLs, three users who log in with a
click, and a database in a temporary folder. It is unsuitable for a public server.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import django
import uvicorn
from django.conf import settings
from django.contrib.auth import get_user_model, login
from django.core.management import call_command
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import clear_url_caches, include, path

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
CLIENT = HERE / "client" / "datastar.js"  # the Datastar client, if fetch_client.py has downloaded it
PEOPLE = {"ada": "Ada", "mio": "Mio", "luis": "Luis"}
OTHER_NAME = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}

urlpatterns = []  # filled after Django's setup


def main():
    parser = argparse.ArgumentParser(description="Serve one recipe of the cookbook.")
    parser.add_argument("recipe", choices=all_recipes())
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", type=Path, help="a file to keep the database in, instead of a temporary folder")
    options = parser.parse_args()
    try:
        listener = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        sys.exit(f"Port {options.port} cannot be used: {os.strerror(error.errno)}. Choose another one with --port.")
    with tempfile.TemporaryDirectory() as folder:
        configure([options.recipe], options.database or Path(folder, "db.sqlite3"))
        serve_only(options.recipe)
        call_command("check", fail_level="WARNING")
        call_command("migrate", run_syncdb=True, verbosity=0)
        make_people()
        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

        from ds_broadcaster.asgi import get_asgi_application

        signal.signal(signal.SIGTERM, lambda *args: sys.exit())  # so that the folder is removed
        line = f"The recipe {options.recipe}: http://127.0.0.1:{options.port}/  (Ctrl-C ends it)"
        config = uvicorn.Config(
            ASGIStaticFilesHandler(get_asgi_application()),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        with suppress(KeyboardInterrupt):
            Server(config, line).run([listener])


class Server(uvicorn.Server):
    """Prints a line when it answers."""

    def __init__(self, config, line):
        super().__init__(config)
        self.line = line

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            print(self.line, flush=True)


def all_recipes():
    return sorted(folder.name for folder in RECIPES.iterdir() if (folder / "urls.py").exists())


def configure(recipes, database):
    """Set up Django with these recipes only."""
    sys.path.insert(0, str(RECIPES))
    if find_spec("ds_broadcaster") is None:  # not installed: use the checkout that contains the cookbook
        sys.path.append(str(HERE.parent))
    settings.configure(
        DEBUG=True,
        SECRET_KEY="a-recipe-has-no-secrets",
        ROOT_URLCONF=__name__,
        LOGIN_URL="people",
        USE_TZ=True,
        STATIC_URL="static/",
        INSTALLED_APPS=[
            *recipes,
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "ds_broadcaster",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "ds_broadcaster.middleware.BroadcasterMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [RECIPES / "_base"],
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                        f"{__name__}.around",
                    ]
                },
            }
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": database,
                "OPTIONS": {"timeout": 10, "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        STATICFILES_DIRS=[CLIENT.parent] if CLIENT.exists() else [],
        DS_BROADCASTER_DATASTAR_STATIC=CLIENT.name if CLIENT.exists() else None,
    )
    django.setup()


def serve_only(recipe):
    """Have the URLs be those of this recipe, and of what is around it."""
    urlpatterns[:] = [
        path("", include(f"{recipe}.urls")),
        path("events/", include("ds_broadcaster.urls")),
        path("as/", people, name="people"),
        path("as/<str:username>/", log_in, name="log-in"),
    ]
    clear_url_caches()


def make_people():
    """Create the users that are missing, and return each by name."""
    rights = {"is_staff": True, "is_superuser": True}  # for the recipe of the admin
    return {
        username: get_user_model().objects.get_or_create(
            username=username, defaults={"first_name": first_name, **rights}
        )[0]
        for username, first_name in PEOPLE.items()
    }


def around(request):
    """Add what the base template shows around each recipe; a context processor."""
    host, _, port = request.get_host().partition(":")
    # Cookies belong to a host name: under the other one, a second window can log in as another user.
    other = f"http://{OTHER_NAME[host]}:{port}/" if host in OTHER_NAME else None
    return {"people": get_user_model().objects.order_by("pk"), "other_address": other}


def people(request):
    return render(request, "people.html")


def log_in(request, username):
    login(request, get_object_or_404(get_user_model(), username=username))
    return redirect("/")


if __name__ == "__main__":
    main()
