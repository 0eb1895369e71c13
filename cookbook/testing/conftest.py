import pytest
from django.contrib.auth.models import User
from rooms.models import Room


@pytest.fixture
def ann(db):
    return User.objects.create_user("ann")


@pytest.fixture
def bob(db):
    return User.objects.create_user("bob")


@pytest.fixture
def eve(db):
    return User.objects.create_user("eve")


@pytest.fixture
def room(ann, bob):
    room = Room.objects.create(name="Garden")
    room.members.set([ann, bob])
    return room


@pytest.fixture
def channel(room):
    return f"room-{room.pk}"
