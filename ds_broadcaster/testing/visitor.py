"""A visitor of the site: a user's cookies, and requests through the project's whole stack."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_backends
from django.http.request import HttpHeaders
from django.test import AsyncClient, Client
from django.urls import NoReverseMatch, URLPattern, get_resolver, reverse
from django.urls.resolvers import URLResolver

from .stage import Stage


class Visitor:
    """A browser without its pages: `user` is who is logged in, None for an anonymous visitor.

    A `client` of Django's, or of REST framework, gives its cookies and the headers that it sends with each request,
    where it is more than a login that matters. `headers` go with each request, too.
    """

    def __init__(
        self,
        stage: Stage,
        user: Any = None,
        client: Client | AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.stage = stage
        self.user = user
        self.client = AsyncClient(enforce_csrf_checks=True)
        self._headers = {} if client is None else _headers_of(client)
        if client is not None:
            self.client.cookies.load(client.cookies.output(header="", sep=";"))
        self._headers |= headers or {}
        if user is not None:
            self._log_in(user)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return the response to a GET request."""
        return self.request("GET", url, headers=headers)

    def request(
        self,
        method: str,
        url: str,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Any:
        """Return Django's response to a request; what its view raises is raised here, as by Django's test client."""
        self.stage.refusals.pop(urlsplit(url).path, None)
        send = getattr(self.client, method.lower())
        named: dict[str, Any] = {} if content_type is None else {"content_type": content_type}
        # The site redirects what is not secure.
        return self.stage.run(
            send(url, data, headers={**self._headers, **(headers or {})}, secure=settings.SECURE_SSL_REDIRECT, **named)
        )

    def _log_in(self, user: Any) -> None:
        """Give the visitor a session. No signal is sent and no last login saved, which might broadcast."""
        if getattr(user, "pk", None) is None:
            raise TypeError(f"user must be a saved user, or None for an anonymous visitor, not {user!r}.")
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        backend = next(each for each in get_backends() if hasattr(each, "get_user"))
        session[SESSION_KEY] = user._meta.pk.value_to_string(user)
        session[BACKEND_SESSION_KEY] = f"{type(backend).__module__}.{type(backend).__qualname__}"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        self.client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key


def _headers_of(client: Any) -> dict[str, str]:
    # What credentials() of REST framework's client was given is beside Django's defaults.
    given = {**client.defaults, **getattr(client, "_credentials", {})}
    named = ((HttpHeaders.parse_header_name(name), value) for name, value in given.items())
    return {name: str(value) for name, value in named if name is not None}


def url_of(to: Any, args: tuple[Any, ...], kwargs: dict[str, Any], query: Mapping[str, str] | None = None) -> str:
    """Return the URL of a view: by a URL, a name, a view class or a view function, and the arguments of its path.

    Raises AssertionError for a view that the project serves nowhere, and for arguments beside a URL.
    """
    if isinstance(to, str) and to.startswith(("/", "http:", "https:")):
        if args or kwargs:
            raise AssertionError(f"{to!r} is a URL, and takes no arguments: {args or kwargs!r}.")
        url = to
    elif isinstance(to, str):
        url = _reverse_name(to, args, kwargs)
    else:
        url = _reverse_view(to, args, kwargs)
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}" if query else url


def _reverse_name(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:
        return reverse(name, args=args, kwargs=kwargs)
    except NoReverseMatch:
        with suppress(NoReverseMatch):
            reverse(f"ds_broadcaster:{name}", args=args, kwargs=kwargs)
            raise AssertionError(f'The name of this view is "ds_broadcaster:{name}".') from None
        raise


def _reverse_view(view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    name = getattr(view, "__name__", repr(view))
    found = False
    for prefix, pattern in _patterns(get_resolver().url_patterns):
        if view not in (pattern.callback, getattr(pattern.callback, "view_class", None)):
            continue
        found = True
        try:
            return reverse(f"{prefix}{pattern.name}" if pattern.name else pattern.callback, args=args, kwargs=kwargs)
        except NoReverseMatch:  # Another pattern of the view may take these arguments.
            continue
    if found:
        raise AssertionError(f"No URL of {name} takes the arguments {args or kwargs!r}.")
    raise AssertionError(
        f"The project's urls do not serve {name}: give a BroadcastChannelView a url_path and "
        '`include("ds_broadcaster.urls")`, or add a path() with its as_view().'
    )


def _patterns(patterns: Any, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Yield every URL pattern, with the namespaces before its name."""
    for each in patterns:
        if isinstance(each, URLResolver):
            inner = f"{prefix}{each.namespace}:" if each.namespace else prefix
            yield from _patterns(each.url_patterns, inner)
        else:
            yield prefix, each


def text_of(visitor: Visitor, response: Any) -> str:
    """Return the text of a response, also of one that is sent in parts."""
    if not response.streaming:
        content = response.content
    elif response.is_async:
        content = visitor.stage.run(_joined(response))
    else:
        content = b"".join(response.streaming_content)
    text: str = content.decode(response.charset)
    return text


async def _joined(response: Any) -> bytes:
    return b"".join([part async for part in response])
