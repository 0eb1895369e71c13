# mypy: ignore-errors
"""A ROOT_URLCONF with views that save and delete messages, beside those of the test project."""

import json

from django.db import transaction
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from ds_broadcaster.models.registry import registered
from tests.chat.models import Message, Room
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


urlpatterns = [
    path("post/", post),
    path("edit/<int:pk>/", edit),
    *urls.urlpatterns,
]
