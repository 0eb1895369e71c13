"""The routes table: every channel view that declares a `url_path`, served by `include("ds_broadcaster.urls")`."""

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, clear_url_caches, path

_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CONVERTER = re.compile(r"<(?:([^>:]+):)?[^>]+>")
# Which of two patterns that both match is tried first: the one that says more about the part where they differ.
_FIXED, _NARROW, _WIDE, _ANYTHING = range(4)
_PRECISION = {"int": _NARROW, "uuid": _NARROW, "slug": _WIDE, "str": _WIDE, "path": _ANYTHING}


class Route(NamedTuple):
    """A view that is served at `url_path` and reversed by `name`; `place` tells people where it is defined."""

    name: str
    url_path: str
    place: str
    view: Callable[..., Any]

    @property
    def shape(self) -> str:
        """Return the path without the names of its arguments: two routes of one shape match the same URLs."""
        return _CONVERTER.sub(lambda found: f"<{found[1] or 'str'}>", self.url_path)

    def order(self) -> tuple[tuple[int, str], ...]:
        parts = []
        for part in self.shape.split("/"):
            converters = re.findall(r"<([^>]+)>", part)
            parts.append((max((_PRECISION.get(each, _NARROW) for each in converters), default=_FIXED), part))
        return tuple(parts)


class Routes:
    """Which routes there are, however late a class is defined.

    `urlpatterns` is one list for the life of the process: Django holds on to it, so it is changed in place. It stays
    empty until publish(), because patterns may name converters that the project registers in its own urls.
    """

    def __init__(self) -> None:
        self.urlpatterns: list[URLPattern] = []
        self._lock = threading.RLock()
        self._routes: list[Route] = []
        self._fixed: list[URLPattern] = []
        self._is_published = False

    def __iter__(self) -> Iterator[Route]:
        return iter(list(self._routes))

    def add(self, route: Route) -> None:
        """Take a route in; a class that is defined again, as a reload does, takes the place of its former self.

        Raises ImproperlyConfigured for a path that cannot be one, and for a name or a path that is taken.
        """
        url_path: object = route.url_path
        if not isinstance(url_path, str) or url_path.startswith("/"):
            raise ImproperlyConfigured(
                f'{route.place}: url_path must be a path without a slash in front, such as "rooms/<int:pk>/", '
                f"not {route.url_path!r}."
            )
        with self._lock:
            others = [each for each in self._routes if each.place != route.place]
            for other in others:
                if other.name == route.name:
                    raise ImproperlyConfigured(
                        f"{other.place} and {route.place} are both named {route.name!r}: give one another url_name."
                    )
                if other.shape == route.shape:
                    raise ImproperlyConfigured(
                        f"{other.place} and {route.place} are both served at {route.url_path!r}: "
                        "give one another url_path."
                    )
            for pattern in self._fixed:
                if pattern.name == route.name or str(pattern.pattern) == route.url_path:
                    raise ImproperlyConfigured(
                        f"{route.place} takes the name or the path of ds_broadcaster's own {pattern.name!r}: "
                        "give it another url_name or url_path."
                    )
            self._routes = [*others, route]
            if self._is_published:
                self._fill()
                _forget_reversals()

    def remove(self, place: str) -> None:
        """Take back what the class at `place` added."""
        with self._lock:
            self._routes = [each for each in self._routes if each.place != place]
            if self._is_published:
                self._fill()
                _forget_reversals()

    def publish(self, fixed: Iterable[URLPattern]) -> list[URLPattern]:
        """Return the patterns, behind those of ds_broadcaster's own pages."""
        with self._lock:
            self._fixed = list(fixed)
            routes, self._routes = self._routes, []
            for route in routes:
                self.add(route)
            self._is_published = True
            self._fill()
        return self.urlpatterns

    def _fill(self) -> None:
        patterns = [path(each.url_path, each.view, name=each.name) for each in sorted(self._routes, key=Route.order)]
        self.urlpatterns[:] = [*self._fixed, *patterns]


def name_of(class_name: str) -> str:
    """Return the name a view has when it gives itself none: "RoomChannel" is "room-channel"."""
    return _WORD_BEGINS.sub("-", class_name).lower()


def _forget_reversals() -> None:
    """Have Django look at the patterns again: it keeps what it found in them when it first reversed a name."""
    clear_url_caches()
    # Included resolvers are held by the project's own list, and keep what they found for themselves.
    project = sys.modules.get(settings.ROOT_URLCONF) if getattr(settings, "ROOT_URLCONF", None) else None
    _reset(getattr(project, "urlpatterns", ()))


def _reset(patterns: Iterable[Any]) -> None:
    for each in patterns:
        if isinstance(each, URLResolver):
            resolver: Any = each
            resolver._reverse_dict = {}
            resolver._namespace_dict = {}
            resolver._app_dict = {}
            resolver._populated = False
            _reset(each.url_patterns)


# The one table of a process.
routes = Routes()
