# mypy: ignore-errors
"""A ROOT_URLCONF with views that save and delete messages, beside those of the test project."""

import json

from django.db import transaction
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from ds_broadcaster import bind_broadcasts
from ds_broadcaster.models.registry import registered
from tests.chat.models import Label, Message, Note, Room
from tests.project import urls

# Leave out the tab that a request names.
registered[Message].of_saves[0].exclude_sender = True


@csrf_exempt
@transaction.atomic
def post(request):
    """Create messages with these texts in a room, in one transaction; `undo` rolls it back."""
    body = json.loads(request.body)
    messages = [Message.objects.create(room_id=body["room"], text=text) for text in body["texts"]]
    if body.get("undo"):
        transaction.set_rollback(True)
    return JsonResponse([message.pk for message in messages], safe=False)


@csrf_exempt
async def edit(request, pk):
    """Change the text of a message; without a text delete the message."""
    message = await Message.objects.aget(pk=pk)
    if text := json.loads(request.body).get("text"):
        message.text = text
        await message.asave()
    else:
        await message.adelete()
    return JsonResponse({"rooms": await Room.objects.acount()})


bind_broadcasts(
    Note,
    channel=lambda note: f"notes-{note.extra}",
    target="#target",
    limit=3,
    moves=["extra"],
    shown=lambda note: note.text != "hidden",
)


bind_broadcasts(Label, channel="labels", refreshes=True)
bind_broadcasts(Label, channel="names", name="names", audience=True)


@csrf_exempt
@transaction.atomic
def label(request):
    """Create a label, and give it to a new note."""
    label = Label.objects.create(**json.loads(request.body))
    label.note_set.create(text="hidden")
    return JsonResponse({"pk": label.pk})


@csrf_exempt
def save(request, pk=None):
    """Create or change a note of the list with these values."""
    note, _ = Note.objects.update_or_create(pk=pk, defaults=json.loads(request.body))
    return JsonResponse({"pk": note.pk})


urlpatterns = [
    path("post/", post),
    path("label/", label),
    path("save/", save),
    path("save/<int:pk>/", save),
    path("edit/<int:pk>/", edit),
    *urls.urlpatterns,
]
