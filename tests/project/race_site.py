"""Pages of numbers that several threads change at once. A ROOT_URLCONF."""

import random
import threading
import time

from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.http import JsonResponse
from django.urls import path

from ds_broadcaster import BroadcastChannelView, broadcast
from tests.project import urls

# Seconds that a render takes after it has read the database, and at most between two changes.
RENDER = 0.02
PAUSE = 0.02
# So much of each element that clients which stall fill their transports.
PADDING = "x" * 500


def element(key, value, kind):
    return f'<p id="{key}" title="{kind}">{value} {PADDING}</p>'


def values(name):
    rows = Group.objects.filter(name__startswith=f"{name}/").values_list("name", flat=True)
    return {key: int(value) for _, key, value in (row.split("/") for row in rows)}


class RaceChannel(BroadcastChannelView):
    """The numbers of a channel, rendered for each client."""

    url_path = "race/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        return True

    def render_snapshot(self):
        html = "".join(element(*each, "snapshot") for each in sorted(values(self.kwargs["name"]).items()))
        time.sleep(RENDER)
        return html


class SharedRaceChannel(RaceChannel):
    """The same, rendered for all at once."""

    url_path = "shared-race/<slug:name>/"

    def audience(self):
        return "all"


def change(name, key, count):
    """Change a number, commit, and tell by a fragment or a refresh."""
    try:
        for value in range(1, count + 1):
            with transaction.atomic():
                Group.objects.filter(name=f"{name}/{key}/{value - 1}").update(name=f"{name}/{key}/{value}")
            if random.random() < 0.5:
                broadcast(name, element(key, value, "event"))
            else:
                broadcast.refresh(name)
            time.sleep(random.uniform(0, PAUSE))
    finally:
        connection.close()


def race(request, name):
    """Have several threads change the numbers, each its own; answer with what the database says then."""
    keys = [f"k{number}" for number in range(int(request.GET["threads"]))]
    Group.objects.bulk_create([Group(name=f"{name}/{key}/0") for key in keys])
    threads = [threading.Thread(target=change, args=(name, key, int(request.GET["count"]))) for key in keys]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return JsonResponse(values(name))


urlpatterns = [path("race/<slug:name>/", race), *urls.urlpatterns]
