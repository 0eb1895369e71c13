from django.urls import path

from . import views

urlpatterns = [
    path("", views.tickets, name="tickets"),
    path("add/", views.add, name="add"),
    path("close/", views.close_all, name="close-all"),
    path("import/", views.import_tickets, name="import"),
    path("<int:pk>/rename/", views.rename, name="rename"),
    path("<int:pk>/vote/", views.vote, name="vote"),
    path("<int:pk>/label/<str:name>/", views.label, name="label"),
    path("<int:pk>/delete/", views.delete, name="delete"),
]
