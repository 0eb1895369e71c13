"""The element that opens a page's stream, and tells CSS and Datastar how that goes."""

import hashlib
import re
from typing import Any
from urllib.parse import urlencode

from django.urls import NoReverseMatch, reverse
from django.utils.encoding import iri_to_uri
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from ..broadcaster import broadcast
from ..streams.requests import CURSOR_ATTRIBUTE, CURSOR_PARAMETER, ELEMENT_PARAMETER
from ..streams.tabs import TAB
from .subscription import URL_NAME

NAMESPACE = "ds_broadcaster"

# All elements of a page share the tab's id; it is set before the stream opens, whose request carries it. Browsers
# offer crypto.randomUUID() in secure contexts alone, and not to a page that is tried out over a local network.
# Not by `data-signals__ifmissing`: what reads a signal further up in the page has made an empty one of it by now.
_BEGIN = f"${TAB} ||= crypto.getRandomValues(new Uint32Array(4)).join('-'); $_broadcast ||= 'connecting'; "

# What the Datastar client tells by `datastar-fetch` comes down to its first letter: d(atastar-patch-...), an event;
# r(etrying); f(inished); e(rror), with a status. The signal is the worst state of all elements on the page.
# An element that was just removed has no say: the server told in the same breath why.
# Without `data-init` the client gives up the stream, and asks a server that refuses no more. It must not go at once:
# 1.0.1 sets its timer for the next try behind this event, and would keep it.
_ON_FETCH = (
    "const d=evt.detail,"
    "s={d:'live',r:'lost',f:'closed',e:/429|5../.test(d.argsRaw.status)?'lost':'closed'}[d.type[0]];"
    "if(s&&d.el==el&&el.isConnected){"
    "el.dataset.broadcast=s;"
    "$_broadcast=['closed','lost','connecting','live'].find(s=>document.querySelector('[data-broadcast='+s+']'));"
    "s=='closed'&&setTimeout(()=>el.removeAttribute('data-init'))}"
)

_OPTIONS = "{retry: 'always', retryMaxCount: Infinity, retryMaxWait: 10000, requestCancellation: 'cleanup'}"

_ELEMENT = (
    '<div id="{}" hidden data-ignore-morph data-broadcast="connecting"'
    ' data-on:datastar-fetch="{}" data-init="{}@get({}, {})"></div>'
)

# The client looks for `$name` and `@name(` in an expression, some of its versions in strings too.
_NOT_IN_STRINGS = re.compile(r"[^0-9A-Za-z/._~%?=&:+,-]")


def connect_element(url: str, identity: str, cursor: str | None) -> SafeString:
    """Return the element that opens the stream at `url`, where `cursor` says.

    Its id is made from the `identity`, so that it stays the same when the page is rendered anew.
    """
    element_id = f"broadcast-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    query = {CURSOR_PARAMETER: cursor} if cursor else {}
    query[ELEMENT_PARAMETER] = element_id
    url = f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
    return format_html(_ELEMENT, element_id, _attribute(_ON_FETCH), _attribute(_BEGIN), _string(url), _OPTIONS_HTML)


def stream_url(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], current_app: str | None) -> str:
    """Return the URL of a channel view by its name, or else of any view that opens a stream."""
    errors = []
    for each in (f"{NAMESPACE}:{name}", name):
        try:
            return reverse(each, args=args, kwargs=kwargs, current_app=current_app)
        except NoReverseMatch as error:
            errors.append(f"{each!r} ({error})")
    raise NoReverseMatch(
        f"{name!r} is the name of no stream: neither {errors[0]} nor {errors[1]} has a URL. Name a "
        'BroadcastChannelView, such as "room-channel" for RoomChannel, whose URLs are under '
        f'include("{NAMESPACE}.urls"), or a view of your own.'
    )


def subscription_url(token: str, current_app: str | None) -> str:
    """Return the URL of the stream that a token opens."""
    try:
        return reverse(f"{NAMESPACE}:{URL_NAME}", args=[token], current_app=current_app)
    except NoReverseMatch as error:
        raise NoReverseMatch(
            f'broadcast_subscribe needs path("events/", include("{NAMESPACE}.urls")) in the project\'s urls, and not '
            f"inside of another namespace: {error}."
        ) from error


def page_cursor(request: Any) -> str | None:
    """Return the id of the moment at which the request came in, where the middleware noted it, or that of now."""
    noted: str | None = getattr(request, CURSOR_ATTRIBUTE, None)
    return broadcast.page_cursor() if noted is None else noted


def nonce_of(request: Any, told: Any = None) -> str:
    """Return the nonce of the request's Content-Security-Policy, or the one that was told; "" where there is none."""
    # Django's own middleware keeps it under the second name, django-csp under the first.
    found = (getattr(request, "csp_nonce", None), getattr(request, "_csp_nonce", None), told)
    # A lazy one is false until somebody looks.
    return next((str(each) for each in found if each is not None), "")


def _string(url: str) -> SafeString:
    """Return a JavaScript string for an attribute, with everything in it escaped that means something to anybody."""
    text = _NOT_IN_STRINGS.sub(lambda found: f"\\u{ord(found[0]):04x}", iri_to_uri(url))
    return mark_safe(f"'{escape(text)}'")  # noqa: S308


def _attribute(expression: str) -> SafeString:
    """Return one of our own expressions for an attribute; unlike escape() it leaves them readable."""
    return mark_safe(expression.replace("&", "&amp;"))  # noqa: S308


_OPTIONS_HTML = _attribute(_OPTIONS)
