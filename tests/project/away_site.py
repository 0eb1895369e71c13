"""Pages whose users are here, away and gone, and a line in the log for what is told of them. It is a ROOT_URLCONF."""

import os
import time

from django.contrib.auth.decorators import login_not_required
from django.dispatch import receiver
from django.http import HttpResponse
from django.template import RequestContext, Template
from django.urls import path

from ds_broadcaster import signals
from tests.project import urls

PAGE = """{% load ds_broadcaster %}<!doctype html><title>{{ channel }}</title><link rel="icon" href="data:,">
<script type="module" src="{% url 'client-bundle' %}"></script>
{% broadcast_subscribe channel %}<p id="here"></p>"""

VERBS = {
    signals.user_joined: "joined",
    signals.user_left: "left",
    signals.user_away: "away",
    signals.user_back: "back",
}


@receiver([*VERBS])
def told(signal, channel, user_id, **kwargs):
    # At once: print() writes word by word, and another process may come between them.
    os.write(1, f"told {channel} {VERBS[signal]} {time.monotonic()}\n".encode())


@login_not_required
def page(request, channel):
    return HttpResponse(Template(PAGE).render(RequestContext(request, {"channel": channel})))


urlpatterns = [path("pages/<channel>/", page), *urls.urlpatterns]
