"""What the tests ask a server subprocess to do, over HTTP."""

import asyncio
import gc
import json
import os
import threading
from pathlib import Path
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.views.decorators.csrf import csrf_exempt

from ds_broadcaster import broadcast


@login_not_required
def ready(request):
    return HttpResponse("ready")


@login_not_required
def log_in(request, username):
    """Log in as this user, who is made where there is none. `?staff=1` makes them staff."""
    users = get_user_model().objects
    staff = {"is_staff": True, "is_superuser": True} if request.GET.get("staff") else {}
    user, _ = users.get_or_create(username=username, defaults=staff)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"id": user.pk})


@login_not_required
def log_out(request):
    logout(request)
    return HttpResponse("logged out")


# Streams


def presence_html(channel, user_ids):
    """List the users' names in `#presence`, which needs the ORM."""
    names = get_user_model().objects.filter(pk__in=user_ids).order_by("username")
    items = format_html_join("", "<li>{}</li>", ((user.username,) for user in names))
    return format_html('<ul id="presence" data-channel="{}">{}</ul>', channel, items)


def presence_signals(channel, user_ids):
    return {"online": len(user_ids)}


def presence_both(channel, user_ids):
    return presence_html(channel, user_ids), presence_signals(channel, user_ids)


def presence_error(channel, user_ids):
    raise RuntimeError("this presence callback always fails")


PRESENCE = {
    "1": presence_html,
    "html": presence_html,
    "signals": presence_signals,
    "both": presence_both,
    "error": presence_error,
}


def _connect_arguments(request, channels):
    """Read `?presence=` (a key of PRESENCE), `?snapshot=` (its text) and the channels, parted by commas."""
    names = channels.split(",")
    options = {}
    if kind := request.GET.get("presence"):
        options["presence_callback"] = PRESENCE[kind]
    if text := request.GET.get("snapshot"):
        options["snapshot_callback"] = lambda request, channel: format_html(
            '<div id="snapshot" data-channel="{}">{}</div>', channel, text
        )
    return (names if len(names) > 1 else names[0], request), options


def connect(request, channels):
    args, options = _connect_arguments(request, channels)
    return broadcast.connect(*args, **options)


async def aconnect(request, channels):
    args, options = _connect_arguments(request, channels)
    return await broadcast.aconnect(*args, **options)


# Verbs


def _body(request):
    data = json.loads(request.body)
    return data["verb"], data.get("args", []), data.get("kwargs", {})


def _result(value):
    return JsonResponse({"result": value})


def _error(error):
    return JsonResponse({"error": type(error).__name__, "message": str(error)}, status=400)


@login_not_required
@csrf_exempt
def call(request):
    """Call `broadcast.<verb>(*args, **kwargs)`; the verb "" is `broadcast(...)` itself."""
    verb, args, kwargs = _body(request)
    try:
        return _result((getattr(broadcast, verb) if verb else broadcast)(*args, **kwargs))
    except Exception as error:
        return _error(error)


@login_not_required
@csrf_exempt
async def acall(request):
    """Await `broadcast.a<verb>(*args, **kwargs)`."""
    verb, args, kwargs = _body(request)
    try:
        return _result(await getattr(broadcast, f"a{verb}")(*args, **kwargs))
    except Exception as error:
        return _error(error)


@login_not_required
@csrf_exempt
def burst(request, channel):
    """Append `?count=` items to `#log`, numbered from `?start=`, each padded by `?size=` characters.

    With `?thread=1` they are sent from a thread of their own.
    """
    count = int(request.GET.get("count", 100))
    start = int(request.GET.get("start", 0))
    padding = "x" * int(request.GET.get("size", 0))

    def send():
        for number in range(start, start + count):
            html = f'<li id="item-{number}" title="{padding}">{number}</li>'
            broadcast.elements(channel, html, "#log", "append")

    if request.GET.get("thread"):
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    else:
        send()
    return _result(count)


@login_not_required
async def facts(request):
    """Tell what this process holds now, so that a test can compare before and after."""
    gc.collect()
    return JsonResponse({"tasks": len(asyncio.all_tasks()), **process_facts()})


def process_facts():
    process = Path("/proc/self")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "pid": os.getpid(),
        "threads": int(status["Threads"]),
        "files": len(list((process / "fd").iterdir())),
        "memory": int(status["VmRSS"].split()[0]) * 1024,
    }


# The browser's page


@login_not_required
def page(request, channels):
    """A page that opens a stream with the real client.

    `?retry=` and `?open_when_hidden=1` are options of `@get`. `?cursor=1` renders the cursor into the page.
    `?body=` is HTML to start with. `?view=aconnect` takes the async view. What else there is (`?presence=`,
    `?snapshot=`) goes to the stream.
    """
    query = request.GET.dict()
    options = {
        "retry": query.pop("retry", "always"),
        "openWhenHidden": bool(query.pop("open_when_hidden", "")),
    }
    body = query.pop("body", "")
    view = query.pop("view", "connect")
    if query.pop("cursor", ""):
        query["cursor"] = broadcast.cursor()
    url = reverse(view, args=[channels]) + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    action = f"@get({json.dumps(url)}, {json.dumps(options)})"
    return render(request, "page.html", {"action": action, "body": body})


@login_not_required
def client_bundle(request):
    return HttpResponse(Path(settings.CLIENT_BUNDLE).read_bytes(), content_type="text/javascript")
