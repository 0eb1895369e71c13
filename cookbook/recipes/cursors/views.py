from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST
from pydantic import BaseModel, Field, ValidationError

from ds_broadcaster import BroadcastChannelView, broadcast


class Position(BaseModel):
    """A place on the board, as parts of its width and height."""

    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)


class BoardChannel(BroadcastChannelView):
    url_path = "board/"

    def channel_name(self):
        return "board"

    def render_presence(self, user_ids):
        visitors = get_user_model().objects.filter(pk__in=user_ids).order_by("pk")
        return render_to_string("cursors/_cursors.html", {"visitors": visitors})


@require_GET
@login_required
def board(request):
    return render(request, "cursors/board.html", {"visitors": [request.user]})


@require_POST
@login_required
def move(request):
    try:
        position = Position.model_validate_json(request.body)
    except ValidationError as error:
        return HttpResponse(error.json(), status=422, content_type="application/json")
    name = f"cursor{request.user.pk}"
    broadcast.signals("board", {f"_{name}": position.model_dump()}, transient=True, key=name)
    return HttpResponse(status=204)
