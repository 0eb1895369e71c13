import mimetypes
from pathlib import Path

from django.contrib.staticfiles import finders
from django.http import Http404, HttpResponse
from django.urls import include, path


def static_file(request, path):
    """Serve a static file in one piece, because Django's own file responses are not async."""
    file = finders.find(path)
    if not file:
        raise Http404(path)
    return HttpResponse(Path(file).read_bytes(), content_type=mimetypes.guess_type(file)[0])


urlpatterns = [
    path("", include("rooms.urls")),
    path("events/", include("ds_broadcaster.urls")),
    path("static/<path:path>", static_file),
]
