"""Django's runserver, with uvicorn in place of its WSGI server."""

import os
import re
from importlib.util import find_spec
from io import StringIO
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, CommandParser
from django.core.management.base import OutputWrapper
from django.db import connections

from ...application import get_application, with_static_files
from ...databases import is_in_memory, shared_databases

if apps.is_installed("django.contrib.staticfiles"):
    from django.contrib.staticfiles.management.commands.runserver import Command as BaseCommand
else:
    from django.core.management.commands.runserver import Command as BaseCommand  # type: ignore[assignment]


class Command(BaseCommand):
    """Serves the project's ASGI application; all else is Django's."""

    help = "Starts a development server that serves streams, and static files where staticfiles is installed."

    _server: Any = None

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        if apps.is_installed("whitenoise.runserver_nostatic"):
            parser.set_defaults(use_static_handler=False)

    def handle(self, *args: Any, **options: Any) -> None:
        if find_spec("uvicorn") is None:
            raise CommandError('runserver needs uvicorn: run `pip install "ds-broadcaster[uvicorn]"`.')
        from ...server import Listener

        self.server_cls = Listener  # type: ignore[assignment]
        os.environ["WEB_CONCURRENCY"] = "1"  # Of the deployed project; this server is one process.
        super().handle(*args, **options)

    def run(self, **options: Any) -> None:
        """Serve; the reloader ends the process in the main thread, and the server runs in another one."""
        code: Any = 0
        try:
            super().run(**options)
        except SystemExit as end:
            code = end.code
            raise
        finally:
            if self._server is not None and options["use_reloader"]:
                self._server.end_with_process(code)

    def inner_run(self, *args: Any, **options: Any) -> None:
        if options["use_threading"]:
            super().inner_run(*args, **options)
            return
        if not any(map(is_in_memory, connections.all())):  # Of testserver, which gives the option by itself.
            self.stderr.write(
                self.style.WARNING("--nothreading changes nothing here: with ASGI, each sync view has a thread.")
            )
        with shared_databases():
            super().inner_run(*args, **options)

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """Return the server, which Django hands to the listener."""
        from ...server import DevelopmentServer

        application = get_application()
        if options.get("use_static_handler") and (settings.DEBUG or options["insecure_serving"]):
            application = with_static_files(application)
        self._server = DevelopmentServer(application, is_threaded=options["use_reloader"])
        return self._server

    def on_bind(self, server_port: int) -> None:
        """Print Django's banner, with the name of the server that runs."""
        stdout, self.stdout = self.stdout, OutputWrapper(StringIO())
        try:
            super().on_bind(server_port)
            banner = self.stdout.getvalue()
        finally:
            self.stdout = stdout
        # Django 5.2 names no interface.
        banner = re.sub("Starting (WSGI )?development", "Starting ASGI/uvicorn development", banner)
        self.stdout.write(banner, ending="")
