"""The routes table: every channel view that declares a `url_path`, served by `include("ds_broadcaster.urls")`."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, clear_url_caches, path

_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CONVERTER = re.compile(r"<(?:([^>:]+):)?[^>]+>")
# Which of two patterns that both match is tried first: the one that says more about the part where they differ.
_FIXED, _NARROW, _WIDE, _ANYTHING, _EMPTY, _NONE = range(6)
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

    def order(self) -> tuple[tuple[int, int, str], ...]:
        parts = []
        for part in self.shape.split("/"):
            converters = re.findall(r"<([^>]+)>", part)
            precision = max((_PRECISION.get(each, _NARROW) for each in converters), default=_FIXED)
            # "room-<slug>" is tried before "<slug>". A <path> matches however many parts, so an end matches most.
            parts.append((precision if part else _EMPTY, -len(_CONVERTER.sub("", part)), part))
        return (*parts, (_NONE, 0, ""))

    def pattern(self) -> URLPattern:
        """Return what Django serves; ImproperlyConfigured says whose path it does not understand."""
        try:
            pattern = path(self.url_path, self.view, name=self.name)
            _ = pattern.pattern.regex  # Compiled at the first request, if nobody asks.
        except (ImproperlyConfigured, re.error) as error:
            raise ImproperlyConfigured(f"{self.place}: {error}") from error
        return pattern


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
            others = [each for each in self._routes if not _is_same(each, route)]
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
            self._take([*others, route])

    def remove(self, place: str) -> None:
        """Take back what the class at `place` added."""
        with self._lock:
            self._take([each for each in self._routes if each.place != place])

    def publish(self, fixed: Iterable[URLPattern]) -> list[URLPattern]:
        """Return the patterns, behind those of ds_broadcaster's own pages."""
        with self._lock:
            self._fixed = list(fixed)
            self._fill(self._routes)
            self._is_published = True
        return self.urlpatterns

    def _take(self, routes: list[Route]) -> None:
        if self._is_published:
            self._fill(routes)
        self._routes = routes

    def _fill(self, routes: list[Route]) -> None:
        """Serve these routes; all that can be wrong with one is found before anything changes."""
        for route in routes:
            for pattern in self._fixed:
                if pattern.name == route.name or str(pattern.pattern) == route.url_path:
                    raise ImproperlyConfigured(
                        f"{route.place} takes the name or the path of ds_broadcaster's own {pattern.name!r}: "
                        "give it another url_name or url_path."
                    )
        self.urlpatterns[:] = [*self._fixed, *(each.pattern() for each in sorted(routes, key=Route.order))]
        # Django keeps what it found in patterns when it first reversed a name. The resolver of the project's urls goes
        # with this, and the next one looks into every include anew.
        clear_url_caches()


def _is_same(former: Route, route: Route) -> bool:
    """Tell whether a class is defined again. A function may make several that all have one place."""
    same = former.place == route.place
    return same and ("<locals>" not in route.place or former[:2] == route[:2])


def name_of(class_name: str) -> str:
    """Return the name a view has when it gives itself none: "RoomChannel" is "room-channel"."""
    return _WORD_BEGINS.sub("-", class_name).lower()


class LateView:
    """A view function that asks the class for its own when somebody needs it: its decorators come later."""

    def __init__(self, cls: Any) -> None:
        self.view_class = cls
        self.view_initkwargs: dict[str, Any] = {}
        self.__doc__, self.__module__, self.__qualname__ = cls.__doc__, cls.__module__, cls.__qualname__
        self._made: list[Callable[..., Any]] = []

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return self._view()(request, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return what decorators left on the function, which Django and middleware look for before they call it."""
        if "_made" not in vars(self):  # A copy that is being made.
            raise AttributeError(name)
        return getattr(self._view(), name)

    def _view(self) -> Callable[..., Any]:
        if not self._made:
            self._made.append(self.view_class.as_view())
        return self._made[0]


# The one table of a process.
routes = Routes()
