"""The Django app."""

from django.apps import AppConfig
from django.core import checks


class RunserverConfig(AppConfig):
    name = "ds_broadcaster.contrib.runserver"
    label = "ds_broadcaster_runserver"
    verbose_name = "Broadcaster's runserver"

    def ready(self) -> None:
        from .checks import check_order

        checks.register(check_order)
