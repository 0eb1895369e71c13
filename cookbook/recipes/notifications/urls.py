from django.urls import path

from . import views

urlpatterns = [
    path("", views.page, {"template_name": "notifications/write.html"}, name="write"),
    path("reading/", views.page, {"template_name": "notifications/reading.html"}, name="reading"),
    path("notify/", views.notify, name="notify"),
    path("read/", views.mark_all_read, name="mark-all-read"),
    path("read/<int:pk>/", views.mark_read, name="mark-read"),
]
