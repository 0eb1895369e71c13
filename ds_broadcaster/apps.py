"""The Django app."""

from django.apps import AppConfig
from django.core import checks
from django.core.signals import got_request_exception, request_started, setting_changed


class DsBroadcasterConfig(AppConfig):
    name = "ds_broadcaster"
    verbose_name = "Broadcaster"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .brokers.memory import notice_request
        from .checks import check_asgi, check_client, check_settings, check_workers
        from .conf import forget_settings
        from .models.checks import check_models
        from .receivers import note_arrival, watch_users
        from .streams.replayed_requests import note_failure
        from .views.checks import check_views

        setting_changed.connect(forget_settings)
        watch_users()
        request_started.connect(notice_request)
        request_started.connect(note_arrival)
        got_request_exception.connect(note_failure)
        for check in (check_settings, check_asgi, check_client, check_workers, check_models, check_views):
            checks.register(check)
