"""`{% load ds_broadcaster %}`: tags that make a page live."""

from collections.abc import Callable, Iterable
from typing import Any

from django import template
from django.db.models import Model
from django.http import QueryDict
from django.middleware.csrf import get_token
from django.template import Context, TemplateSyntaxError
from django.template.base import Node, Parser, Token
from django.urls import NoReverseMatch
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .. import ids
from ..observers import observers
from ..streams.tabs import TAB
from ..views.connect_element import (
    client_script,
    connect_element,
    csrf_header,
    nonce_of,
    page_cursor,
    stream_url,
    subscription_url,
)
from ..views.subscription import make_token

register = template.Library()


class _LocatedNode(Node):
    """A tag whose errors say where it is, and which of its arguments are undefined."""

    # The parser sets both.
    origin: Any
    token: Token

    def __init__(self, tag: Any) -> None:
        self._tag = tag

    def render(self, context: Context) -> SafeString:
        try:
            rendered: SafeString = self._tag.render(context)
        except (TemplateSyntaxError, NoReverseMatch) as error:
            place = f"{self.origin.template_name or self.origin.name}, line {self.token.lineno}"
            arguments = [*self._tag.args, *self._tag.kwargs.values()]
            undefined = [each.token for each in arguments if _is_undefined(each.resolve(context))]
            told = "".join(f" The context has no `{name}`, or it is empty." for name in dict.fromkeys(undefined))
            raise type(error)(f"{error}{told} ({place})") from error
        return rendered


def _located(name: str) -> None:
    compile_tag: Callable[[Parser, Token], Node] = register.tags[name]
    register.tag(name, lambda parser, token: _LocatedNode(compile_tag(parser, token)))


@register.simple_tag(takes_context=True)
def broadcast_connect(context: Context, name: Any, /, *args: Any, **kwargs: Any) -> SafeString:
    """Render the element that opens a stream: `{% broadcast_connect "room-channel" pk=room.pk %}`.

    The name is that of a channel view, or of your own view that opens a stream; the rest is as for `{% url %}`. A last
    argument that is a QueryDict, such as request.GET, is the stream's query: its view renders what the page asked for.
    """
    if not (isinstance(name, (str, Promise)) and name):
        raise TemplateSyntaxError(
            "The first argument of broadcast_connect must be the name of a view, in quotes, as in "
            f'{{% broadcast_connect "room-channel" pk=room.pk %}}, not {type(name).__name__} ({name!r}).'
        )
    request = _request(context)
    query = args[-1].urlencode() if args and isinstance(args[-1], QueryDict) else None
    url = stream_url(str(name), args if query is None else args[:-1], kwargs, _current_app(request))
    if query:
        url = f"{url}?{query}"
    for each in observers:
        each.opens(url, None, None)
    return connect_element(url, url, page_cursor(request))


@register.simple_tag(takes_context=True)
def broadcast_subscribe(
    context: Context, channel: Any, /, *rest: Any, refresh: Any = False, **options: Any
) -> SafeString:
    """Render the element that opens a stream without a view of your own: `{% broadcast_subscribe room %}`.

    The channels, any number, are names, saved model instances, or lists of both; one stream carries them all. It opens
    for one user alone: `for=`, or a user who is the last of several arguments, or else the user of the request. Lists
    that are all empty open no stream. With `refresh=True`, the page fetches itself after each broadcast.refresh(); a
    selector, `refresh="#list"`, says which elements of it are new then. They need ids.
    """
    request = _request(context)
    channels = [channel, *rest]
    is_named = "for" in options
    user = options.pop("for", None)
    if not is_named and rest and hasattr(rest[-1], "is_authenticated"):
        user = channels.pop()
    if options:
        raise TemplateSyntaxError(
            f"broadcast_subscribe takes refresh=True and for=user, not {next(iter(options))!r}: write "
            "{% broadcast_subscribe room refresh=True for=user %}."
        )
    for number, each in enumerate(channels, 1):
        if _is_undefined(each):
            raise TemplateSyntaxError(f"Argument {number} of broadcast_subscribe is no channel: {each!r}.")
    if user is None and not is_named:
        user = _user(request)
    if not hasattr(user, "is_authenticated"):
        raise TemplateSyntaxError(
            "`for` names the user of broadcast_subscribe, as in {% broadcast_subscribe room for=request.user %}, not "
            f"{type(user).__name__} ({user!r})."
        )
    names = tuple(dict.fromkeys(name for each in channels for name in _names(each)))
    if not names:
        return SafeString()
    # A page that answers a form is not what its URL shows: a refresh would take the errors and the user's input away.
    if getattr(request, "method", "GET") != "GET":
        refresh = False
    url = subscription_url(make_token(names, user), _current_app(request), refresh=bool(refresh))
    selector = None if not refresh else refresh if isinstance(refresh, str) else ""
    for observer in observers:
        observer.opens(url, names, user)
    return connect_element(url, "\n".join(names), page_cursor(request), refresh=selector)


for _name in ("broadcast_connect", "broadcast_subscribe"):
    _located(_name)


@register.simple_tag
def broadcast_tab() -> SafeString:
    """Render the hidden field that carries the tab's id, for forms that are sent with contentType 'form'."""
    return format_html('<input type="hidden" name="{}" data-attr:value="${}">', TAB, TAB)


@register.simple_tag(takes_context=True)
def datastar_script(context: Context, /) -> SafeString:
    """Render the script element of the Datastar client.

    It loads the static file of DS_BROADCASTER_DATASTAR_STATIC, or else DS_BROADCASTER_DATASTAR_URL. The pinned client
    of the CDN has its hash: browsers refuse a file that was changed on the way.
    """
    return client_script(nonce_of(_request(context), context.get("csp_nonce")))


@register.simple_tag(takes_context=True)
def datastar_nonce(context: Context, /) -> SafeString:
    """Render the attribute of `<html>` with which the client needs no 'unsafe-eval': `<html {% datastar_nonce %}>`.

    It holds the nonce of the page's Content-Security-Policy. Without a nonce there is no attribute.
    """
    nonce = nonce_of(_request(context), context.get("csp_nonce"))
    return format_html('data-nonce="{}"', nonce) if nonce else SafeString()


@register.simple_tag(takes_context=True)
def datastar_headers(context: Context, /) -> SafeString:
    """Render the option of `@post` that carries the CSRF token: `@post('/send/', { {% datastar_headers %} })`."""
    request = _request(context)
    if request is None:
        raise TemplateSyntaxError(
            "datastar_headers needs the request, whose user the CSRF token belongs to: render with request=request. "
            "What is broadcast is the same for all users: there, write {headers: {'X-CSRFToken': $_csrf}}, and in the "
            """page data-signals:_csrf="'{{ csrf_token }}'"."""
        )
    return format_html("headers: {{'{}': '{}'}}", csrf_header(), get_token(request))


@register.filter
def dom_id(instance: Any) -> str:
    """Return the id of the element that shows a model instance: `<li id="{{ message|dom_id }}">`."""
    return ids.dom_id(instance)


def _is_undefined(value: Any) -> bool:
    # A variable that is not there is an empty string.
    return value is None or (isinstance(value, str) and not value)


def _request(context: Context) -> Any:
    # RequestContext keeps its request also without the context processor, and in an include with `only`.
    return context.get("request") or getattr(context, "request", None)


def _current_app(request: Any) -> str | None:
    """Return the application instance that the page belongs to, as `{% url %}` does."""
    match = getattr(request, "resolver_match", None)
    return getattr(request, "current_app", match.namespace if match is not None else None)


def _user(request: Any) -> Any:
    if not hasattr(request, "user"):
        raise TemplateSyntaxError(
            "broadcast_subscribe does not know the user: the template's context has no request with one. Write "
            "{% broadcast_subscribe room for=user %}, or render with request=request after the authentication "
            "middleware."
        )
    return request.user


def _names(channels: Any) -> Iterable[str]:
    """Return the names of one channel, or of several, in a list or a queryset for example."""
    # SimpleLazyObject looks iterable, so a lazy user needs its own test.
    several = isinstance(channels, Iterable) and not isinstance(channels, (str, Promise, bytes, dict, Model))
    return map(ids.channel_name, channels) if several else [ids.channel_name(channels)]
