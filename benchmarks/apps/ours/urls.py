"""Two streams and the trigger."""

from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("stream", views.stream),
    path("presence", views.presence),
    path("publish", views.publish),
]
