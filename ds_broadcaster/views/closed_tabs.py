"""Where a page of our element tells that it closes: its user leaves, and is not away."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from ..broadcaster import broadcast
from ..streams.requests import user_id_of
from ..streams.responses import NO_STORE
from ..streams.tabs import tab_of

# Bytes. The body is a form with the id of a tab.
MAX_BODY = 200


# A beacon has no header for a CSRF token. The tab's id, which only its own page knows, does what a token does; and it
# ends nothing but the streams of the tab, and only for the user who sends it.
@csrf_exempt
@login_not_required
@require_POST
def tab_closed(request: HttpRequest) -> HttpResponse:
    """Note that a tab of the user is closed. The answer is the same for a tab that no one knows."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdigit() and int(length) <= MAX_BODY:
        tab, user_id = tab_of(request), user_id_of(request)
        if tab is not None and user_id is not None:
            broadcast.opener.close_tab(user_id, tab)
    return HttpResponse(status=204, headers=NO_STORE)
