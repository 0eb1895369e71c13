from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_type

from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import path, reverse_lazy
from pydantic import BaseModel

from ds_broadcaster import BroadcastChannelView, Present, broadcast
from tests.typed.models import Message


class Filter(BaseModel):
    query: str = ""


class RoomChannel(LoginRequiredMixin, BroadcastChannelView):
    url_path = "rooms/<int:pk>/"
    url_name = "room"
    presence_template_name = "chat/_members.html"
    signals_model = Filter
    recheck_interval = 60
    compression = False

    def channel_name(self) -> list[str]:
        found: Filter = self.signals
        return [f"room-{self.kwargs['pk']}", f"search-{found.query}"]

    def has_permission(self) -> bool:
        return self.request.user.is_authenticated

    def get_presence_context(self, user_ids: list[Any]) -> dict[str, Any]:
        return super().get_presence_context(user_ids) | {"title": self.channel}

    def presence_meta(self) -> dict[str, Any]:
        return {"page": self.request.path}

    def render_presence(self, user_ids: list[Any]) -> tuple[str, dict[str, int]]:
        return "<p></p>", {"online": len(user_ids), "away": sum(each.away for each in self.present)}

    def audience(self) -> bool:
        return self.request.user.is_authenticated

    def render_snapshot(self) -> str:
        return f"<p>{self.audience_key}</p>"

    def on_join(self, user_id: Any) -> None: ...

    def on_leave(self, user_id: Any) -> None: ...


class MessageChannel(BroadcastChannelView):
    url_path = "messages/<int:pk>/"

    def channel_name(self) -> Message:
        return Message.objects.get(pk=self.kwargs["pk"])


urlpatterns = [path("room/<int:pk>/", RoomChannel.as_view(recheck_interval=10))]


def presence(channel: str, user_ids: list[int]) -> str:
    return f"<p>{channel}: {len(user_ids)}</p>"


def snapshot(request: HttpRequest, channel: str) -> dict[str, str]:
    return {"path": request.path, "channel": channel}


def meta(request: HttpRequest) -> dict[str, Any]:
    return {"path": request.path}


def connect(request: HttpRequest) -> HttpResponseBase:
    stream = broadcast.connect(["room-1", "lobby"], request, presence, snapshot_callback=snapshot, presence_meta=meta)
    return assert_type(stream, HttpResponseBase)


async def aconnect(request: HttpRequest) -> HttpResponseBase:
    meta = {"page": 1}
    return await broadcast.aconnect("room-1", request, presence_callback=presence, presence_meta=meta, compress=False)


def send(request: HttpRequest, message: Message) -> HttpResponse:
    broadcast("room-1", "<p id='a'></p>", exclude=request)
    broadcast.elements(message, "<li></li>", "#list", "append", namespace="html", use_view_transition=True)
    broadcast.elements("room-1", "<li></li>", selector="#list", mode="append", exclude="a-tab-of-a-job")
    broadcast.remove("room-1", "#a", exclude=request)
    broadcast.script("room-1", "start()", auto_remove=False, attributes={"type": "module"}, exclude=request)
    broadcast.redirect(["room-1", "room-2"], reverse_lazy("room"))
    broadcast.dispatch("room-1", "moved", {"x": 1}, "#board", transient=True, key="cursor-7")
    broadcast.refresh(["room-1", "room-2"], exclude=request)
    broadcast.signals("room-1", {"count": 3}, only_if_missing=True, compress=False)
    broadcast.signals("room-1", Filter(query="x"), exclude=request)
    broadcast.template("room-1", "chat/_message.html", {"message": message}, "#list", "append", request=request)
    broadcast.new("room-1", presence)
    broadcast.disconnect("room-1", 5)
    broadcast.recheck(user_id=5)
    broadcast.recheck(channel=message)
    broadcast.kill("room-1")
    assert_type(broadcast.cursor(), str)
    assert_type(broadcast.get_channels(), list[str])
    users: Sequence[Any] = broadcast.get_users("room-1")
    for each in assert_type(broadcast.get_presence("room-1"), list[Present]):
        assert_type(each.since, datetime)
    return HttpResponse(str(len(users)))


def mistakes(request: HttpRequest) -> None:
    """What a type checker says of arguments that no method takes."""
    broadcast("room-1", "<li></li>", "#list", "apend")  # type: ignore[arg-type]
    broadcast.elements("room-1", "<g></g>", namespace="xml")  # type: ignore[arg-type]
    broadcast.signals("room-1", ["count"])  # type: ignore[arg-type]
    broadcast.connect("room-1", request, snapshot_callback=lambda channel: "")  # type: ignore[arg-type, misc]


async def asend(request: HttpRequest, message: Message) -> None:
    await broadcast.aelements("room-1", "<p id='a'></p>", exclude=request)
    await broadcast.aremove(message, "#a")
    await broadcast.ascript(message, "console.log(1)", exclude=request)
    await broadcast.aredirect([message, "room-1"], "/rooms/")
    await broadcast.adispatch("room-1", "moved", {"x": 1}, "#board", transient=True, key="cursor-7")
    await broadcast.arefresh(message)
    await broadcast.asignals("room-1", {"count": 3})
    await broadcast.atemplate("room-1", "chat/_message.html", {"message": message})
    await broadcast.anew("room-1")
    await broadcast.adisconnect("room-1", 5)
    await broadcast.arecheck("room-1")
    await broadcast.akill("room-1")
    assert_type(await broadcast.acursor(), str)
    assert_type(await broadcast.aget_channels(), list[str])
    assert_type(await broadcast.aget_users("room-1"), list[Any])
    assert_type(await broadcast.aget_presence("room-1"), list[Present])
