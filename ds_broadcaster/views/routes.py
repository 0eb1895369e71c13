"""The routes table: every channel view that declares a `url_path`, served by `include("ds_broadcaster.urls")`."""

import re
import sys
import threading
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from inspect import isabstract
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, clear_url_caches, path
from django.views.generic import View

_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CONVERTER = re.compile(r"<(?:([^>:]+):)?[^>]+>")
# Of two patterns that both match, the more precise one is tried first: in the first part where they differ.
_FIXED, _NARROW, _WIDE, _ANYTHING, _EMPTY, _NONE = range(6)
_PRECISION = {"int": _NARROW, "uuid": _NARROW, "slug": _WIDE, "str": _WIDE, "path": _ANYTHING}


class Route(NamedTuple):
    """A view that is served at `url_path` and reversed by `name`; `place` is where its class is defined."""

    name: str
    url_path: str
    place: str
    view: Callable[..., Any]

    @property
    def shape(self) -> str:
        """Return the path without the names of its arguments: two routes of one shape match the same URLs."""
        return _CONVERTER.sub(lambda found: f"<{found[1] or 'str'}>", self.url_path)

    def order(self) -> tuple[tuple[int, int, str], ...]:
        """Return the sort key: the precision of each part."""
        parts = []
        for part in self.shape.split("/"):
            converters = re.findall(r"<([^>]+)>", part)
            precision = max((_PRECISION.get(each, _NARROW) for each in converters), default=_FIXED)
            # "room-<slug>" is tried before "<slug>". A <path> matches any number of parts, so a path that ends is last.
            parts.append((precision if part else _EMPTY, -len(_CONVERTER.sub("", part)), part))
        return (*parts, (_NONE, 0, ""))

    def pattern(self) -> URLPattern:
        """Return what Django serves; raise ImproperlyConfigured, with the class's place, for a path that is none."""
        try:
            pattern = path(self.url_path, self.view, name=self.name)
            _ = pattern.pattern.regex  # Django compiles it at the first request, which is too late for an error.
        except (ImproperlyConfigured, re.error) as error:
            raise ImproperlyConfigured(f"{self.place}: {error}") from error
        return pattern


class Routes:
    """All routes of the process, however late a class is defined.

    `urlpatterns` is one list for the life of the process: Django holds on to it, so it is changed in place. It stays
    empty until publish(), because patterns may name converters that the project registers in its own urls.
    """

    def __init__(self) -> None:
        self.urlpatterns: list[URLPattern] = []
        # Two threads may import modules at once: without the lock, one of their routes could be lost.
        self._lock = threading.RLock()
        self._routes: list[Route] = []
        self._fixed: list[URLPattern] = []
        self._is_published = False

    def __iter__(self) -> Iterator[Route]:
        return iter(list(self._routes))

    def add(self, route: Route) -> None:
        """Add a route; a class that is defined again, as by a reload, replaces the former one.

        Raises ImproperlyConfigured for an invalid path, and for a name or a path that is taken.
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
        """Remove the routes of the class at `place`."""
        with self._lock:
            self._take([each for each in self._routes if each.place != place])

    def publish(self, fixed: Iterable[URLPattern]) -> list[URLPattern]:
        """Return the patterns, after the `fixed` ones of ds_broadcaster's own pages."""
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
        """Serve these routes; raise for a wrong one before anything changes."""
        for route in routes:
            for pattern in self._fixed:
                if pattern.name == route.name or str(pattern.pattern) == route.url_path:
                    raise ImproperlyConfigured(
                        f"{route.place} takes the name or the path of ds_broadcaster's own {pattern.name!r}: "
                        "give it another url_name or url_path."
                    )
        self.urlpatterns[:] = [*self._fixed, *(each.pattern() for each in sorted(routes, key=Route.order))]
        # Django caches what it found in the patterns when it first reversed a name. This drops the resolver of the
        # project's urls, and the next one reads every include again.
        clear_url_caches()


def _is_same(former: Route, route: Route) -> bool:
    """Tell whether a class is defined again; several classes that a function makes share one place."""
    same = former.place == route.place
    return same and ("<locals>" not in route.place or former[:2] == route[:2])


def name_of(class_name: str) -> str:
    """Return the default name of a view: "room-channel" for RoomChannel."""
    return _WORD_BEGINS.sub("-", class_name).lower()


class LateView:
    """A view function that calls as_view() when it is first used: decorators of the class are applied by then."""

    def __init__(self, cls: Any) -> None:
        self.view_class = cls
        self.view_initkwargs: dict[str, Any] = {}
        self.__doc__, self.__module__, self.__qualname__ = cls.__doc__, cls.__module__, cls.__qualname__
        self._made: list[Callable[..., Any]] = []

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return self._view()(request, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return what decorators set on the function, and Django and middleware read before they call it."""
        if "_made" not in vars(self):  # A copy that is being made.
            raise AttributeError(name)
        return getattr(self._view(), name)

    def _view(self) -> Callable[..., Any]:
        if not self._made:
            self._made.append(self.view_class.as_view())
        return self._made[0]


def _hidden_hooks(cls: type) -> Iterator[tuple[type, str]]:
    """Find the mixins that come after BroadcastChannelView, and the public names of theirs that it hides."""
    mro = cls.__mro__
    base = [each for each in mro if isinstance(each, ChannelViewType)][-1]
    for mixin in mro[mro.index(base) + 1 : -1]:
        if mixin is View:
            continue
        # A mixin that is itself a View comes before View, where super() reaches it in these two.
        hiding = vars(base).keys() - {"as_view", "dispatch"}
        if mro.index(mixin) > mro.index(View):
            hiding = vars(base).keys() | vars(View).keys()
        for name in vars(mixin):
            if name in hiding and not name.startswith("_"):
                yield mixin, name


routes = Routes()


class ChannelViewType(ABCMeta):
    """Adds each class that declares a `url_path` to the routes; an inherited path does not count."""

    def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        # A class that is made by a call, type(Base)("Name", ...), would claim to be from the module `abc`.
        module = {"__module__": sys._getframe(1).f_globals.get("__name__", "")}
        return super().__new__(meta, name, bases, module | namespace, **kwargs)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        place = f"{cls.__module__}.{cls.__qualname__}"
        for mixin, hidden in _hidden_hooks(cls):
            raise ImproperlyConfigured(
                f"{place}: {mixin.__name__} comes after BroadcastChannelView, which hides its {hidden}: it is never "
                f"asked. Name it first: `class {name}({mixin.__name__}, BroadcastChannelView)`."
            )
        if namespace.get("url_path") is not None and not (namespace.get("abstract", False) or isabstract(cls)):
            routes.add(Route(namespace.get("url_name") or name_of(name), namespace["url_path"], place, LateView(cls)))
