"""The tables of the PostgreSQL broker: add "ds_broadcaster.contrib.postgres" to INSTALLED_APPS, and migrate."""
