"""The panel for django-debug-toolbar. It is its own ROOT_URLCONF."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.db import transaction
from django.http import HttpResponse
from django.template import RequestContext, Template
from django.test import override_settings
from django.urls import include, path

from ds_broadcaster import BroadcastChannelView, broadcast, suppress_broadcasts
from ds_broadcaster.contrib import debug_toolbar
from ds_broadcaster.observers import observers
from tests.chat.models import Message, Reply, Room

pytestmark = pytest.mark.django_db

PANEL = "ds_broadcaster.contrib.debug_toolbar.BroadcasterPanel"


class PanelRoom(LoginRequiredMixin, BroadcastChannelView):
    url_path = "panel-rooms/<int:pk>/"

    def has_permission(self):
        return self.kwargs["pk"] == 7

    def channel_name(self):
        return [f"panel-{self.kwargs['pk']}", f"search-{self.request.GET['q']}"]


class PanelLobby(BroadcastChannelView):
    url_path = "panel-lobby/"

    def channel_name(self):
        return self.set_by_has_permission


def show(request, code, **context):
    page = Template("{% load ds_broadcaster %}<body>" + code + "</body>")
    return HttpResponse(page.render(RequestContext(request, context)))


def page(request):
    return show(
        request,
        '{% broadcast_connect "panel-room" 7 request.GET %}{% broadcast_connect "panel-lobby" %}'
        '{% broadcast_connect "own" %}{% broadcast_subscribe "news" "more" %}',
    )


def own(request):
    return broadcast.connect("own", request)


def send(request):
    broadcast("room-1", "<b>" + "x" * 600 + "</b>")
    broadcast(["a", "b"], "<i></i>", "#list", "append", exclude="tab-of-another", transient=True, key="k")
    broadcast.signals("room-1", {"count": "<3"})
    broadcast.remove("room-1", "#gone")
    broadcast.script("room-1", "go()")
    broadcast.refresh("room-1")
    broadcast.template("room-1", ["chat/none.html", "chat/_label.html"], {"label": "x"}, audience=True)
    return HttpResponse("sent")


@transaction.atomic
def save(request):
    message = Message.objects.create(room=Room.objects.get(), text="hi")
    with suppress_broadcasts():
        replies = [Reply.objects.create(message=message, text=text) for text in "ab"]
    for reply in replies:
        broadcast.template("room-1", "chat/_reply.html", {"reply": Reply.objects.get(pk=reply.pk)})
    return HttpResponse("saved")


async def asave(request):
    await Message.objects.acreate(room=await Room.objects.aget(), text="hi")
    await broadcast.aelements("room-1", "<p id='a'></p>")
    await broadcast.atemplate("room-1", "chat/_label.html", {"audience": "all"})
    return await sync_to_async(page)(request)


urlpatterns = [
    path("events/", include("ds_broadcaster.urls")),
    path("page/", page),
    path("own/", own, name="own"),
    path("send/", send),
    path("save/", save),
    path("asave/", asave),
]


@pytest.fixture(autouse=True)
def toolbar(settings):
    with override_settings(
        DEBUG=True,
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "debug_toolbar"],
        MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware", *settings.MIDDLEWARE],
        DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.history.HistoryPanel", PANEL],
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: "hidden" not in request.GET},
    ):
        # Its models can be imported while the app is installed.
        from debug_toolbar.middleware import show_toolbar_func_or_path

        urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))
        show_toolbar_func_or_path.cache_clear()
        yield
        urlpatterns.pop()
        observers[:] = [each for each in observers if type(each).__module__ != debug_toolbar.__name__]
    show_toolbar_func_or_path.cache_clear()


@pytest.fixture
def room():
    with suppress_broadcasts():
        return Room.objects.create(name="hall")


def newest():
    """Return the panel's notes of the newest request."""
    from debug_toolbar.store import get_store

    return get_store().panel(list(get_store().request_ids())[-1], "BroadcasterPanel")


def content(client):
    """Return the panel as the browser fetches it later, for the page or for a row of the history."""
    from debug_toolbar.store import get_store

    arguments = {"request_id": list(get_store().request_ids())[-1], "panel_id": "BroadcasterPanel"}
    return client.get("/__debug__/render_panel/", arguments).json()["content"]


def test_streams_of_a_page_with_their_channels_and_who_may_listen(client):
    ann = get_user_model().objects.create_user("ann")
    client.force_login(ann)
    assert client.get("/page/?q=x").status_code == 200
    found = newest()
    assert found["stream_count"] == 4
    view, lobby, function, subscription = found["streams"]
    assert view["channels"] == "panel-7, search-x"
    assert view["view"] == f"{__name__}.PanelRoom"
    assert view["url"] == "/events/panel-rooms/7/?q=x"
    assert view["who"].startswith(f"those for whom PanelRoom.has_permission() is true ({__name__}, line ")
    assert view["who"].endswith(", after LoginRequiredMixin")
    assert "AttributeError" in lobby["channels"]
    assert lobby["who"] == "every user who is logged in"
    assert (function["view"], function["who"]) == (f"{__name__}.own", "those whom the view lets in")
    assert (subscription["channels"], subscription["who"]) == ("news, more", f"ann (user {ann.pk})")


def test_broadcasts_of_a_request_are_cut_and_escaped(client):
    client.get("/send/")
    found = newest()
    assert [(each["channel"], each["verb"]) for each in found["broadcasts"]] == [
        ("room-1", "elements"),
        ("a", "elements"),
        ("b", "elements"),
        *(("room-1", verb) for verb in ("signals", "remove", "script", "refresh", "template")),
    ]
    first, second, _, signals, removed, *_ = found["broadcasts"]
    assert first["text"].endswith("... (607 characters)")
    assert first["size"] > 600
    assert (second["mode"], second["selector"]) == ("append", "#list")
    assert second["facts"] == "transient, key k, not to tab tab-of-another"
    assert (signals["text"], removed["selector"]) == ('{"count":"<3"}', "#gone")
    html = content(client)
    assert "&lt;b&gt;xxx" in html
    assert "<b>xxx" not in html


@pytest.mark.django_db(transaction=True)
def test_renders_with_their_queries_of_which_the_repeated_are_marked(client, room):
    client.get("/save/")
    found = newest()
    first, second, created = found["renders"]
    assert first["what"] == second["what"] == "chat/_reply.html"
    assert created["what"] == "Message.broadcast_created()"
    assert [each["count"] for each in found["renders"]] == [2, 2, 0]
    assert [query["repeated"] for query in first["queries"]] == [2, 2]
    assert "chat_room" in first["queries"][1]["sql"]
    assert found["render_time"] >= first["time"] > 0
    assert content(client).count("(2 times in this request)") == 4


@pytest.mark.django_db(transaction=True)
async def test_async_requests_and_pages_that_a_thread_renders(async_client, room):
    assert (await async_client.get("/asave/?q=x")).status_code == 200
    found = newest()
    assert (found["stream_count"], found["broadcast_count"], found["render_count"]) == (4, 3, 2)
    assert found["streams"][0]["channels"] == "panel-7, search-x"
    assert found["renders"][1]["what"] == "chat/_label.html"


def test_nothing_is_noted_where_the_toolbar_does_not_show(client):
    from debug_toolbar.store import get_store

    before = list(get_store().request_ids())
    client.get("/send/?hidden=1")
    assert list(get_store().request_ids()) == before
    assert debug_toolbar._notes.get() is None
