"""The application that is served."""

from typing import Any, cast

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...asgi import get_asgi_application
from ...streams.handoff import Application


def get_application() -> Application:
    """Return the application that ASGI_APPLICATION names, or else Django's with the handoff."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if path is None:
        return get_asgi_application()
    try:
        return cast(Application, import_string(path))
    except ImportError as error:
        raise ImproperlyConfigured(
            f"ASGI_APPLICATION = {path!r} could not be imported: {error}. Write the path of the application in the "
            'project\'s asgi.py, such as "yourproject.asgi.application".'
        ) from error


def with_static_files(application: Any) -> Application:
    """Return an application that also serves the static files, where django.contrib.staticfiles is installed."""
    if not apps.is_installed("django.contrib.staticfiles"):
        return cast(Application, application)
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

    return cast(Application, ASGIStaticFilesHandler(application))
