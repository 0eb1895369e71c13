"""The site of the kit, and pages that fetch themselves, answer the client, or send it elsewhere. A ROOT_URLCONF."""

from datastar_py.django import DatastarResponse, ServerSentEventGenerator
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect
from django.template import RequestContext, Template
from django.urls import path

from ds_broadcaster import broadcast
from tests.chat.models import Message, Room
from tests.testing import kit_site
from tests.testing.kit_site import messages

LIST = Template(
    """{% load ds_broadcaster %}<!doctype html><html class="dark"><title>{{ titles }}</title>
    <p id="note">{{ notes }}</p>{{ rows }}{% broadcast_subscribe "list" refresh=parts %}</html>"""
)
BY_HAND = """<!doctype html><p id=status>before</p><div data-init="@get('/open/hall/')"></div>
<div data-init="@get('/answers/html/')"></div><ul id=people></ul>"""
BARE = "<!doctype html><p id=status>bare"


def fetches_itself(request, parts):
    count = Message.objects.count()
    rows = messages(Room.objects.get().pk)
    context = {"titles": f"{count} rows", "notes": count, "rows": rows, "parts": parts.replace("all", "") or True}
    return HttpResponse(LIST.render(RequestContext(request, context)))


def by_hand(request):
    return HttpResponse(BY_HAND)


def bare(request):
    return HttpResponse(BARE)


def whisper(request):
    broadcast.elements(f"room-{request.POST['room']}", "<p id=status>psst</p>", exclude=request)
    return HttpResponse(status=204)


def signals(request):
    return HttpResponse(status=204, headers={"X-Said": request.body.decode() or request.GET.get("datastar", "")})


def answer(request, kind):
    patch = ServerSentEventGenerator.patch_elements('<ul id="people"><li>new</li></ul>')
    more = ServerSentEventGenerator.patch_signals({"count": 7})
    if kind == "events":
        return DatastarResponse([patch, more])
    if kind == "async-events":

        async def events():
            yield patch
            yield more

        return DatastarResponse(events())
    if kind == "html":
        return HttpResponse("<li>new</li>", headers={"Datastar-Selector": "#people", "Datastar-Mode": "inner"})
    if kind == "json":
        return JsonResponse({"count": 7})
    if kind == "script":
        return HttpResponse("setTimeout(() => window.location = '/bare/')", content_type="text/javascript")
    return HttpResponse("<p id=people>refused</p>", status=422)


def sent_elsewhere(request):
    return redirect("/bare/")


def sent_away(request):
    return HttpResponseRedirect("https://example.com/")


urlpatterns = [
    path("lists/<str:parts>/", fetches_itself),
    path("bare/", bare),
    path("by-hand/", by_hand),
    path("whisper/", whisper),
    path("signals/", signals),
    path("answers/<str:kind>/", answer),
    path("elsewhere/", sent_elsewhere),
    path("away/", sent_away),
    *kit_site.urlpatterns,
]
