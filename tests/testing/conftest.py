"""A room, its members, and a user who is none."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from tests.chat.models import Room


@pytest.fixture
def room(db):
    return Room.objects.create(name="garden")


@pytest.fixture
def members(room):
    return Group.objects.create(name=f"room-{room.pk}")


@pytest.fixture
def ann(members):
    user = get_user_model().objects.create_user("ann")
    user.groups.add(members)
    return user


@pytest.fixture
def bob(members):
    user = get_user_model().objects.create_user("bob")
    user.groups.add(members)
    return user


@pytest.fixture
def eve(db):
    return get_user_model().objects.create_user("eve")
