"""A consumer a WebSocket, all in one group; each sends on what the group is sent."""

from __future__ import annotations

from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()


class Consumer(AsyncWebsocketConsumer):
    """One WebSocket."""

    groups = ("bench",)

    async def bench_event(self, message: dict[str, Any]) -> None:
        """Send one event of the group to the client."""
        await self.send(text_data=message["html"])


application = ProtocolTypeRouter({"websocket": URLRouter([path("stream", Consumer.as_asgi())])})
