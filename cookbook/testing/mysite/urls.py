from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("events/", include("ds_broadcaster.urls")),
    path("rooms/", include("rooms.urls")),
]
