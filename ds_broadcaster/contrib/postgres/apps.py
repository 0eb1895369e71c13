"""The Django app."""

from django.apps import AppConfig


class PostgresConfig(AppConfig):
    name = "ds_broadcaster.contrib.postgres"
    label = "ds_broadcaster_postgres"
    verbose_name = "Broadcaster on PostgreSQL"
    default_auto_field = "django.db.models.BigAutoField"
