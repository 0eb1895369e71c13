"""The system check of the app: `manage.py runserver` has to be ours."""

from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.management import get_commands, load_command_class

APP = "ds_broadcaster.contrib.runserver"


def check_order(**kwargs: Any) -> list[CheckMessage]:
    """Report an app further up in INSTALLED_APPS whose runserver takes the place of ours."""
    from .management.commands.runserver import Command

    app = get_commands()["runserver"]
    # The one of whitenoise.runserver_nostatic adds to ours when it comes first.
    if app == APP or isinstance(load_command_class(app, "runserver"), Command):
        return []
    return [
        Error(
            f"{app} is before {APP} in INSTALLED_APPS, so `manage.py runserver` is the one of {app}.",
            hint=f'Put "{APP}" first in INSTALLED_APPS.',
            id="ds_broadcaster.E040",
        )
    ]
