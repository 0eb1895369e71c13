"""Streams, their triggers, and a page of the site."""

from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("stream", views.stream),
    path("async-stream", views.async_stream),
    path("sync", views.sync_page),
    path("async", views.async_page),
    path("presence", views.presence),
    path("publish", views.publish),
    path("own", views.OwnList.as_view()),
    path("shared", views.SharedList.as_view()),
    path("refresh", views.refresh),
    path("renders", views.renders),
    path("page", views.page),
]
