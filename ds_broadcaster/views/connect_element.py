"""The element that opens a page's stream, and shows its state to CSS and to Datastar."""

import hashlib
import re
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.urls import NoReverseMatch, reverse
from django.utils.encoding import iri_to_uri
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from ..broadcaster import broadcast
from ..conf import DATASTAR_INTEGRITY, DATASTAR_URL, client_url, get_settings
from ..streams.requests import CURSOR_ATTRIBUTE, CURSOR_PARAMETER, ELEMENT_PARAMETER
from ..streams.tabs import TAB, closed_url
from .subscription import REFRESH_URL_NAME, URL_NAME

NAMESPACE = "ds_broadcaster"
# Of a page that fetches itself.
REFRESH_HEADER = "Broadcast-Refresh"

# All elements of a page share the tab's id. It is set before the stream opens, because the stream's request carries it.
# Browsers offer crypto.randomUUID() in secure contexts alone, so not to a page on a local network.
# `data-signals__ifmissing` comes too late: an attribute further up that reads the signal has created an empty one.
_BEGIN = f"${TAB} ||= crypto.getRandomValues(new Uint32Array(4)).join('-'); $_broadcast ||= 'connecting'; "

# The types of the client's `datastar-fetch` event differ in their first letter: d(atastar-patch-...), r(etrying),
# f(inished), e(rror) with a status. The signal is the worst state of all elements on the page: one that this very event
# took away counts no more, and what is in its place does.
# `watch` finds a stream that ended without a word: it is lost after two and a half of the heartbeat intervals that the
# server told as it opened. Half an interval is counted at a time, so a machine that slept counts one, and the stream
# gets the rest to say something. Only when its page is shown does the client open a stream anew with the id of its last
# event, so it is told that the page is. A lost stream gets longer than the client's longest wait.
# Without `data-init` the client gives up a stream that is refused. Removing it must wait for the next task: 1.0.1 sets
# the timer of its next try after this event, and would keep it.
_ON_FETCH = (
    "const d=evt.detail,"
    "s={d:'live',r:'lost',f:'closed',e:/429|5../.test(d.argsRaw.status)?'lost':'closed'}[d.type[0]];"
    "if(s&&d.el==el){"
    "const show=s=>{el.dataset.broadcast=s;"
    "$_broadcast=['closed','lost','connecting','live'].find(s=>document.querySelector('[data-broadcast='+s+']'))"
    "||'closed'};"
    "show(s);"
    "el.pause=d.type=='error'&&Math.min(el.pause*2||1e3,8e3);"
    "el.beat=d.argsRaw.heartbeat*1e3||el.beat;"
    "el.watch=()=>{"
    "clearInterval(el.timer);"
    "let left=5,s=el.dataset.broadcast;"
    "if(el.beat&&s!='closed'&&!document.hidden)el.timer=setInterval(()=>{"
    "if(!el.isConnected)clearInterval(el.timer);"
    "else if(!--left){show('lost');el.watch();document.dispatchEvent(new Event('visibilitychange'))}"
    "},Math.max(el.beat,s=='live'?0:1e4)/2)};"
    "el.watch();"
    "s=='closed'&&setTimeout(()=>el.removeAttribute('data-init'))}"
)

# The client doubles its wait up to the longest. Both differ from page to page, so that pages of a server in trouble do
# not ask in step.
_OPTIONS = (
    "{retry: 'always', retryInterval: 1000 + 1000 * Math.random(), retryMaxCount: Infinity, "
    "retryMaxWait: 7500 + 2500 * Math.random(), requestCancellation: 'cleanup'}"
)

# Up to 1.0.1 the client does not double it after an answer with an error. It calls the fetch() that it finds in @get();
# later ones look it up each time, and find the browser's own again.
_SLOW_FETCH = (
    "const f=fetch;"
    "window.fetch=(...args)=>el.pause?new Promise(go=>setTimeout(go,el.pause)).then(()=>f(...args)):f(...args);"
)

# With DEBUG, the console says why a stream was refused: the server tells in a header, or on Django's page of an error.
# The client's own event has the status alone, and nothing of a 204. Told once, as long as it is the same. The client
# ends the request when the element is closed, which may be before the answer's page has come.
_TELL = (
    "fetch.tells||((f,last)=>{"
    "window.fetch=async(...args)=>{"
    "const r=await f(...args),url=r.url;"
    "if(r.status!=200&&url.includes('element=broadcast-'))"
    "(async()=>{"
    "let why=decodeURIComponent(r.headers.get('Broadcast-Refused')||'');"
    "if(!why){"
    "const page=new DOMParser().parseFromString(await r.clone().text().catch(()=>''),'text/html');"
    "why=(page.querySelector('title')?.textContent||'')+' '+(page.querySelector('.exception_value')?.textContent||'')"
    "+' (the log of the server may say more)'}"
    r"const told='No stream from '+new URL(url).pathname+' (status '+r.status+'): '+why.replaceAll(/\s+/g,' ').trim();"
    "if(told!=last)console.warn(last=told)"
    "})().catch(()=>{});"
    "return r};"
    "window.fetch.tells=true})(fetch);"
)

# A page tells once that it closes, however many elements it has. A page that comes back opens its streams again.
_ON_PAGEHIDE = (
    " data-on:pagehide__window=\"document.querySelector('[data-broadcast]')==el"
    '&amp;&amp;navigator.sendBeacon({},new URLSearchParams({{{}:${}}}))"'
)

_ELEMENT = (
    '<div id="{}" hidden data-ignore-morph data-broadcast="connecting"'
    ' data-on:datastar-fetch="{}" data-on:visibilitychange__window="el.watch?.()"{}'
    ' data-init="{}@get({}, {});window.fetch=f">{}</div>'
)

# A page that fetches itself. All elements of a page see the signal, and the first one acts on it: it waits for a random
# moment within SPREAD, and has the client morph the page. A refresh during the wait changes nothing; any number of them
# during the fetch make one more. An element of its own: the state of the page is that of its streams' fetches.
# The request is the page's own, without the client's parameter and headers. An error, a redirect (as to a login) and
# what comes for a page that went on by history.pushState() leave the page as it is. A server in trouble is asked again.
# What is morphed is the elements that the attribute's selector finds, or else head and body: scripts set a theme on the
# root element. The client looks for end tags, which templates may leave out.
_REFRESH = (
    "if(evt.detail._broadcastRefresh&&el==document.querySelector('[data-broadcast-refresh]')){"
    "const here=()=>location.href.split('#')[0],"
    "ask=(wait,pause)=>{"
    "el.step='waits';"
    "setTimeout(async()=>{"
    "el.step='runs';"
    "const url=here(),f=fetch,headers={'Broadcast-Refresh':'true',Accept:'text/html'};"
    "let status=500;"
    "window.fetch=async(...args)=>{"
    "if(!args[1]?.headers?.['Broadcast-Refresh'])return f(...args);"
    "try{"
    "const page=await f(url,{headers,cache:'no-cache',redirect:'manual'}),text=await page.text();"
    "status=page.status;"
    "if(status==200&&url==here()){"
    "const all=(root,parts)=>[...root.querySelectorAll(parts)],"
    "parts=all(document,'[data-broadcast-refresh]').map(each=>each.dataset.broadcastRefresh),"
    "html=parts.includes('')?text.replace(/<\\/html>/gi,'')+'</head></body>'"
    ":all(new DOMParser().parseFromString(text,'text/html'),parts).map(each=>each.outerHTML).join('');"
    "if(html)return new Response(html,{headers:{'Content-Type':'text/html'}})"
    "}}catch{}"
    "return new Response(null,{status:204})};"
    "const end=@get(url,{headers,requestCancellation:'disabled',openWhenHidden:true,retry:'never'});"
    "window.fetch=f;"
    "await end;"
    "if(el.step=='again'||url!=here())ask(SPREAD*Math.random(),1e3);"
    "else if(status==429||status>499)ask(pause*(1+Math.random()),Math.min(2*pause,3e4));"
    "else el.step=''"
    "},wait)};"
    "el.step=='runs'?el.step='again':el.step||ask(SPREAD*Math.random(),1e3)}"
)

_REFRESH_ELEMENT = '<i data-broadcast-refresh="{}" data-on:datastar-signal-patch="{}"></i>'

# The client replaces `$name` and `@name(` in expressions; some of its versions do so in strings too.
_NOT_IN_STRINGS = re.compile(r"[^0-9A-Za-z/._~%?=&:+,-]")


def connect_element(url: str, identity: str, cursor: str | None, *, refresh: str | None = None) -> SafeString:
    """Return the element that opens the stream at `url`, from `cursor` on.

    Its id is made from the `identity`, so that a page has the same id each time it is rendered. With `refresh`, the
    page fetches itself when the stream says so, and what this selector finds is new; "" is for the whole page.
    """
    element_id = f"broadcast-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    query = {CURSOR_PARAMETER: cursor} if cursor else {}
    query[ELEMENT_PARAMETER] = element_id
    url = f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
    closed = closed_url()
    on_pagehide = format_html(_ON_PAGEHIDE, _string(closed), TAB, TAB) if closed is not None else ""
    refreshing = "" if refresh is None else _refresh_element(refresh)
    begin = _DEBUG_BEGIN_HTML if settings.DEBUG else _BEGIN_HTML
    return format_html(
        _ELEMENT, element_id, _ON_FETCH_HTML, on_pagehide, begin, _string(url), _OPTIONS_HTML, refreshing
    )


def _refresh_element(selector: str) -> SafeString:
    return format_html(
        _REFRESH_ELEMENT, selector, _attribute(_REFRESH.replace("SPREAD", f"{get_settings().refresh_spread * 1000:g}"))
    )


def stream_url(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], current_app: str | None) -> str:
    """Return the URL of a channel view by its name, or else of any view that opens a stream."""
    errors = []
    for each in (f"{NAMESPACE}:{name}", name):
        try:
            return reverse(each, args=args, kwargs=kwargs, current_app=current_app)
        except NoReverseMatch as error:
            errors.append(f"{each!r} ({error})")
    raise NoReverseMatch(
        f"No stream is named {name!r}: neither {errors[0]} nor {errors[1]} has a URL. Name a "
        'BroadcastChannelView, such as "room-channel" for RoomChannel, whose URLs are under '
        f'include("{NAMESPACE}.urls"), or a view of your own.'
    )


def subscription_url(token: str, current_app: str | None, *, refresh: bool = False) -> str:
    """Return the URL of the stream that a token opens."""
    try:
        return reverse(
            f"{NAMESPACE}:{REFRESH_URL_NAME if refresh else URL_NAME}", args=[token], current_app=current_app
        )
    except NoReverseMatch as error:
        raise NoReverseMatch(
            f'broadcast_subscribe needs path("events/", include("{NAMESPACE}.urls")) in the project\'s urls, outside '
            f"of other namespaces: {error}."
        ) from error


def page_cursor(request: Any) -> str | None:
    """Return the id of the moment the request came in, which the middleware sets; without it, the id of now."""
    cursor: str | None = getattr(request, CURSOR_ATTRIBUTE, None)
    return broadcast.page_cursor.get() if cursor is None else cursor


def client_script(nonce: str) -> SafeString:
    """Return the script element of the Datastar client.

    The client is that of DS_BROADCASTER_DATASTAR_STATIC, under the name that the project's storage gives the file, or
    else that of DS_BROADCASTER_DATASTAR_URL. Raises what the storage raises for a file that it does not have.
    """
    url = client_url()
    attributes = format_html(' nonce="{}"', nonce) if nonce else SafeString()
    if url == DATASTAR_URL:
        # What another URL brings is the project's to know.
        attributes += format_html(' integrity="{}" crossorigin="anonymous"', DATASTAR_INTEGRITY)
    return format_html('<script type="module" src="{}"{}></script>', url, attributes)


def nonce_of(request: Any, default: Any = None) -> str:
    """Return the nonce of the request's Content-Security-Policy, or else the default, "" for None."""
    # The first name is django-csp's, the second one that of Django's own middleware.
    nonces = (getattr(request, "csp_nonce", None), getattr(request, "_csp_nonce", None), default)
    # A lazy nonce is false until str() makes it.
    return next((str(each) for each in nonces if each is not None), "")


def csrf_header() -> str:
    """Return the name of the header in which Django looks for the CSRF token, as a client writes it."""
    name = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-").title()
    return "X-CSRFToken" if name == "X-Csrftoken" else name


def _string(url: str) -> SafeString:
    """Return a JavaScript string for an attribute; all characters with a meaning in either language are escaped."""
    text = _NOT_IN_STRINGS.sub(lambda found: f"\\u{ord(found[0]):04x}", iri_to_uri(url))
    return mark_safe(f"'{escape(text)}'")  # noqa: S308


def _attribute(expression: str) -> SafeString:
    """Return an expression of ours for an attribute; it stays more readable than with escape()."""
    return mark_safe(expression.replace("&", "&amp;"))  # noqa: S308


_ON_FETCH_HTML = _attribute(_ON_FETCH)
_BEGIN_HTML = _attribute(_BEGIN + _SLOW_FETCH)
_DEBUG_BEGIN_HTML = _attribute(_BEGIN + _TELL + _SLOW_FETCH)
_OPTIONS_HTML = _attribute(_OPTIONS)
