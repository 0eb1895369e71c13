from django.urls import path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("log-in/", views.log_in, name="log-in"),
    path("log-out/", views.log_out, name="log-out"),
    path("rooms/", views.create_room, name="create-room"),
    path("rooms/<int:pk>/", views.room, name="room"),
    path("rooms/<int:pk>/messages/", views.send, name="send"),
    path("rooms/<int:pk>/typing/", views.typing, name="typing"),
    path("rooms/<int:pk>/pointer/", views.pointer, name="pointer"),
    path("rooms/<int:pk>/members/<int:user_pk>/kick/", views.kick, name="kick"),
    path("rooms/<int:pk>/members/<int:user_pk>/let-in/", views.let_in, name="let-in"),
    path("rooms/<int:pk>/delete/", views.delete_room, name="delete-room"),
]
