from django.urls import path

from . import views

urlpatterns = [
    path("", views.tasks, name="tasks"),
    path("add/", views.add, name="add"),
    path("all-done/", views.all_done, name="all-done"),
    path("<int:pk>/rename/", views.rename, name="rename"),
    path("<int:pk>/toggle/", views.toggle, name="toggle"),
    path("<int:pk>/delete/", views.delete, name="delete"),
]
