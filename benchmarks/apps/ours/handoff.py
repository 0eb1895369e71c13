"""Handoff mode: the application that ds_broadcaster wraps around Django's."""

from __future__ import annotations

from ds_broadcaster.asgi import get_asgi_application

application = get_asgi_application()
