from django.urls import path

from . import views

urlpatterns = [
    path("<int:pk>/", views.room, name="room"),
    path("<int:pk>/say/", views.say, name="say"),
    path("<int:pk>/remove/<int:user_pk>/", views.remove, name="remove"),
]
