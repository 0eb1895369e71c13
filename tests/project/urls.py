from django.contrib import admin
from django.urls import include, path

from tests.project import views

urlpatterns = [
    path("ready/", views.ready),
    path("login/<username>/", views.log_in),
    path("logout/", views.log_out),
    path("connect/<path:channels>/", views.connect, name="connect"),
    path("aconnect/<path:channels>/", views.aconnect, name="aconnect"),
    path("call/", views.call),
    path("acall/", views.acall),
    path("burst/<path:channel>/", views.burst),
    path("facts/", views.facts),
    path("page/<path:channels>/", views.page, name="page"),
    path("client/datastar.js", views.client_bundle, name="client-bundle"),
    path("events/", include("ds_broadcaster.urls")),
    path("admin/", admin.site.urls),
]
