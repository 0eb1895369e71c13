from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("start/", views.start, name="start"),
    path("jobs/<int:pk>/", views.job, name="job"),
]
