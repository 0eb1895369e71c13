"""The Django app."""

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed


class DsBroadcasterConfig(AppConfig):
    name = "ds_broadcaster"
    verbose_name = "Broadcaster"

    def ready(self) -> None:
        from .checks import check_asgi, check_settings, check_workers
        from .conf import forget_settings

        setting_changed.connect(forget_settings)
        for check in (check_settings, check_asgi, check_workers):
            checks.register(check)
