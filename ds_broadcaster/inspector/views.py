"""The views of the staff page.

The page needs neither the admin, nor context processors, nor the project's template settings. Without JavaScript its
forms are ordinary ones.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode, urlsplit

from datastar_py.consts import ElementPatchMode
from django.conf import settings as django_settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, QueryDict
from django.shortcuts import resolve_url
from django.template import RequestContext
from django.urls import NoReverseMatch, Resolver404, URLPattern, get_script_prefix, path, resolve
from django.utils.html import format_html
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from ..broadcaster import Broadcaster
from ..conf import get_settings
from ..exceptions import BroadcasterError
from ..streams.requests import StreamOptions, check_asgi, is_logged_in
from ..streams.responses import refusal
from ..views.connect_element import client_script, nonce_of

if TYPE_CHECKING:
    from ..sse import Mode
from .overview import CHANNEL, READ_ONLY, TEMPLATES, Action, Overview, cut, engine

DONE = {
    "elements": "The elements were sent.",
    "signals": "The signals were sent.",
    "kill": "The channel was killed.",
    "disconnect": "The user was disconnected.",
}
SEND, DISCONNECT = "ds_broadcaster.send", "ds_broadcaster.disconnect"
# The permission that each verb needs, and the part of the page that tells what came of it.
NEEDS = {"elements": SEND, "signals": SEND, "kill": DISCONNECT, "disconnect": DISCONNECT}
PLACES = {SEND: "send", DISCONNECT: "act"}


class Inspector:
    """The views of one Broadcaster's page. Staff may look; to send and to disconnect needs a permission each."""

    def __init__(self, broadcast: Broadcaster) -> None:
        self.broadcast = broadcast
        self.overview = Overview(broadcast)
        self.read_only = Overview(broadcast, has_buttons=False)

    def urlpatterns(self) -> list[URLPattern]:
        """Return the patterns of the page, its stream and its style sheet."""
        # The views decide who may look: login middleware would redirect the stream, and the client would show the
        # login page in place of the whole document.
        page = require_http_methods(["GET", "HEAD", "POST"])(csrf_protect(self.page))
        return [
            path("inspector/", login_not_required(never_cache(xframe_options_deny(page))), name="inspector"),
            path("inspector/stream/", login_not_required(require_safe(self.stream)), name="inspector-stream"),
            path("inspector/style.css", login_not_required(require_safe(self.style)), name="inspector-style"),
        ]

    def page(self, request: HttpRequest) -> HttpResponseBase:
        """Show the page; perform what its forms send."""
        _check_is_on()
        if not _is_staff(request):
            return _refuse(request)
        if request.method == "POST":
            return self._post(request)
        done = request.GET.get("done", "")
        context: dict[str, Any] = {f"{PLACES[NEEDS[done]]}_notice": DONE[done]} if done in DONE else {}
        return self._page(request, **context)

    def stream(self, request: HttpRequest) -> HttpResponseBase:
        """Keep the page live. A user who gets or loses the buttons gets another stream, by a re-check."""
        _check_is_on()
        if not _is_staff(request):
            return refusal(request, why="the inspector is for staff")
        channel, overview = (CHANNEL, self.overview) if _may(request, DISCONNECT) else (READ_ONLY, self.read_only)
        check_asgi(request)
        return self.broadcast.opener.open((channel,), request, StreamOptions(presence_callback=overview))

    def style(self, request: HttpRequest) -> HttpResponse:
        """Serve the style sheet: a Content-Security-Policy of 'self' allows it, unlike an inline one."""
        _check_is_on()
        css = (TEMPLATES / "inspector.css").read_text(encoding="utf-8")
        return HttpResponse(css, content_type="text/css; charset=utf-8")

    def _post(self, request: HttpRequest) -> HttpResponse:
        form = request.POST
        by_datastar = "Datastar-Request" in request.headers
        needed = NEEDS.get(_read_verb(form))
        # Of what cannot be read, users with either permission are told.
        if not any(_may(request, each) for each in ([SEND, DISCONNECT] if needed is None else [needed])):
            raise PermissionDenied(f"This needs the permission {needed or SEND}.")
        place = PLACES[needed or (DISCONNECT if "row" in form else SEND)]
        try:
            action = _read_action(form)
            if action.verb in ("kill", "disconnect") and not by_datastar and "confirmed" not in form:
                # With JavaScript the page itself has asked for confirmation.
                return self._page(request, question=action, row=json.dumps(action))
            notice = self._perform(action, form)
        except (TypeError, ValueError, BroadcasterError) as error:
            if by_datastar:
                return _html(_notice(place, str(error), "error"))
            return self._page(request, status=400, form=form, **{f"{place}_error": str(error)})
        if by_datastar:
            return _html(_notice(place, notice, "done"))
        return HttpResponseRedirect(f"?done={action.verb}")

    def _perform(self, action: Action, form: QueryDict) -> str:
        """Perform an action and return the notice that says so; raise what the verbs raise."""
        verb, channel, user = action
        connections = sum(holder.channels.get(channel, 0) for holder in self.broadcast.holdings())
        if verb == "elements":
            html, mode = form.get("html", ""), cast("Mode | None", form.get("mode") or None)
            if not html.strip() and mode != "remove":
                raise ValueError('Write some HTML, or choose the mode "remove".')
            self.broadcast.elements(channel, html, form.get("selector") or None, mode)
        elif verb == "signals":
            try:
                signals = json.loads(form.get("signals", ""))
            except (ValueError, RecursionError) as error:
                raise ValueError(f'signals must be JSON such as {{"count": 3}}: {error}') from error
            self.broadcast.signals(channel, signals, only_if_missing="only_if_missing" in form)
        elif verb == "kill":
            self.broadcast.kill(channel)
            return f"Killed {cut(channel)}: {_connections(connections)} closed."
        else:
            theirs = sum(str(each) == user for each in self.broadcast.get_users(channel))
            self.broadcast.disconnect(channel, user)
            return f"Disconnected user {cut(user)} from {cut(channel)}: {_connections(theirs)} closed."
        return f"Sent to {cut(channel)}: {_connections(connections)}."

    def _page(self, request: HttpRequest, status: int = 200, **context: Any) -> HttpResponse:
        may_disconnect = _may(request, DISCONNECT)
        context = {
            "overview": (self.overview if may_disconnect else self.read_only).render(),
            "may_send": _may(request, SEND),
            "may_disconnect": may_disconnect,
            "modes": [str(mode) for mode in ElementPatchMode],
            "client": client_script(nonce_of(request)),
            "nonce": nonce_of(request),
            "is_asgi": hasattr(request, "scope"),
            **context,
        }
        page = engine.get_template("inspector.html").render(RequestContext(request, context))
        return _html(page, status)


def is_on() -> bool:
    """Tell whether the project has the page. With wrong settings it has none, and `manage.py check` says why."""
    try:
        return get_settings().inspector
    except ImproperlyConfigured:
        return False


def _check_is_on() -> None:
    if not is_on():
        raise Http404("DS_BROADCASTER_INSPECTOR is False.")


def _may(request: HttpRequest, permission: str) -> bool:
    """Tell whether the user has a permission; a project's own user model may know none."""
    user: Any = getattr(request, "user", None)
    return bool(user.has_perm(permission) if hasattr(user, "has_perm") else getattr(user, "is_superuser", False))


def _is_staff(request: HttpRequest) -> bool:
    """Tell whether the user may look; a request without the middleware has no user, and a user model no `is_staff`."""
    user = getattr(request, "user", None)
    return bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))


def _refuse(request: HttpRequest) -> HttpResponse:
    """Redirect an anonymous user to the login page, if there is one; refuse all other requests."""
    is_final = is_logged_in(request) or "Datastar-Request" in request.headers
    login_url = None if is_final else _login_url()
    if login_url is None:
        raise PermissionDenied("The inspector is for staff.")
    query = urlencode({REDIRECT_FIELD_NAME: request.get_full_path()})
    return HttpResponseRedirect(f"{login_url}{'&' if '?' in login_url else '?'}{query}")


def _login_url() -> str | None:
    for target in filter(None, ("admin:login", django_settings.LOGIN_URL)):
        try:
            url = resolve_url(target)
            parts = urlsplit(url)
            if not parts.netloc:
                resolve("/" + parts.path.removeprefix(get_script_prefix()).lstrip("/"))
        except (NoReverseMatch, Resolver404):
            continue
        return url
    return None


def _read_row(form: Mapping[str, Any]) -> Any:
    """Return what a row's button carries as JSON, None for what is none."""
    try:
        return json.loads(form["row"])
    except (ValueError, RecursionError):
        return None


def _read_verb(form: Mapping[str, Any]) -> str:
    """Return the verb of a form, whatever is wrong with the rest of it."""
    row = _read_row(form) if "row" in form else [form.get("verb")]
    return str(row[0]) if isinstance(row, list) and row else ""


def _read_action(form: Mapping[str, Any]) -> Action:
    """Return the action of a form, or of a row's button."""
    if "row" in form:
        values = _read_row(form)
        if not isinstance(values, list) or list(map(type, values)) not in ([str, str], [str, str, str]):
            raise ValueError('row must be a JSON list such as ["kill", "room-42"].')
    else:
        values = [form.get("verb", ""), form.get("channel", ""), form.get("user", "")]
    action = Action(*values)
    if action.verb not in DONE:
        raise ValueError(f"verb must be one of {', '.join(DONE)}, got {action.verb!r}.")
    if not action.channel:
        raise ValueError("channel must not be empty.")
    return action


def _html(html: str, status: int = 200) -> HttpResponse:
    # Names are arbitrary strings: half a surrogate pair must not fail the page.
    return HttpResponse(html.encode("utf-8", "replace"), status=status)


def _notice(place: str, text: str, kind: str) -> str:
    return format_html('<p id="{}-notice" class="notice {}" role="status">{}</p>', place, kind, text)


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count:,} connections"
