"""Channel views: a class says which channel, who may, and what its pages are shown."""

import logging
import sys
from abc import ABCMeta
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import isabstract, isasyncgen, isawaitable, iscoroutine, isgenerator
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.utils.decorators import classonlymethod
from django.utils.functional import cached_property
from django.views.generic import View
from pydantic import BaseModel

from ..broadcaster import broadcast
from ..hub.channel import AttendanceHook
from ..ids import channel_names
from ..sse import Fragment
from ..streams.refusal import REFUSALS, is_from_datastar, is_logged_in, login_is_required, refusal
from ..streams.replayed_requests import TROUBLE
from .client_signals import BadSignals, signals_of
from .routes import LateView, Route, name_of, routes

if TYPE_CHECKING:
    from ..broadcaster import ChannelLike
    from ..hub.channel import PresenceCallback
    from ..streams.requests import SnapshotCallback

logger = logging.getLogger("ds_broadcaster")


class ChannelViewType(ABCMeta):
    """Puts each class that declares a `url_path` into the routes table: declares, not inherits."""

    def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        # A class that is made by a call would be said to be from the module `abc`.
        place = {"__module__": sys._getframe(1).f_globals.get("__name__", "")}
        return super().__new__(meta, name, bases, place | namespace, **kwargs)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        for mixin in cls.__mro__[cls.__mro__.index(View) + 1 :]:
            if "dispatch" in vars(mixin):
                # View's own dispatch() calls no further one.
                raise ImproperlyConfigured(
                    f"{cls.__module__}.{cls.__qualname__}: {mixin.__name__} stands behind BroadcastChannelView, where "
                    f"nobody asks it, and everybody would be let in that it refuses. Name it first: "
                    f"`class {name}({mixin.__name__}, BroadcastChannelView)`."
                )
        if namespace.get("url_path") is not None and not (namespace.get("abstract", False) or isabstract(cls)):
            url_name = namespace.get("url_name") or name_of(name)
            place = f"{cls.__module__}.{cls.__qualname__}"
            routes.add(Route(url_name, namespace["url_path"], place, LateView(cls)))


class _NoRequest:
    """Stands where the request would be: a view that has one has it in its own dict, and never asks here."""

    def __get__(self, view: object, cls: type) -> Any:
        if view is None:
            return self
        raise AttributeError(
            f"{cls.__name__} has no request here: render_presence(), on_join() and on_leave() run once for everybody "
            "on the channel. Use self.kwargs and self.channel; what is for one client goes into render_snapshot()."
        )


class BroadcastChannelView(View, metaclass=ChannelViewType):
    """A view that opens a stream. Subclass it in `views.py`:

        class RoomChannel(BroadcastChannelView):
            url_path = "rooms/<int:pk>/"

            def channel_name(self):
                return f"room-{self.kwargs['pk']}"

            def has_permission(self):
                return Room.objects.filter(pk=self.kwargs["pk"], members=self.request.user).exists()

    `url_path` is served under `include("ds_broadcaster.urls")` and reversed as `ds_broadcaster:<url_name>`; `url_name`
    is made from the class's name unless it is given. Without a `url_path` the class is used by its as_view() alone; an
    abstract base says `abstract = True` if it has one. `presence_template_name` is what the default render_presence()
    renders. `signals_model` is a pydantic model of the signals that the client sends. `recheck_interval` is in seconds
    and takes the place of DS_BROADCASTER_RECHECK_INTERVAL.

    The hooks are plain methods and may use the ORM. render_presence(), on_join() and on_leave() run for a whole
    channel, not for one client: they have `self.channel` and `self.kwargs`, and no request.
    """

    http_method_names = ["get", "head", "options"]  # noqa: RUF012
    # Mixins and hooks are written for a thread, so an async handler is run from one.
    view_is_async = False

    url_path: str | None = None
    url_name: str | None = None
    presence_template_name: str | None = None
    signals_model: type[BaseModel] | None = None
    recheck_interval: float | None = None
    # The channel that render_presence(), on_join() and on_leave() are about.
    channel: str
    request: HttpRequest = _NoRequest()  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._initkwargs = kwargs

    # What a subclass says.

    def channel_name(self) -> "ChannelLike | Sequence[ChannelLike]":
        """Return the channel that the stream carries, or a list of several."""
        raise ImproperlyConfigured(
            f"{type(self).__name__} must define channel_name(): return the name of a channel, such as "
            "f\"room-{self.kwargs['pk']}\", or a list of names."
        )

    def has_permission(self) -> bool:
        """Tell whether this request gets the stream; may also raise PermissionDenied or Http404.

        Asked again, with the same request, every `recheck_interval` and after broadcast.recheck().
        """
        user = getattr(self.request, "user", None)
        return user is not None and user.is_authenticated

    def render_presence(self, user_ids: list[Any]) -> Fragment:
        """Return what everybody on the channel is shown when the users on it change: HTML, signals, or both."""
        if self.presence_template_name is None:
            return None
        return render_to_string(self.presence_template_name, self.get_presence_context(user_ids))

    def get_presence_context(self, user_ids: list[Any]) -> dict[str, Any]:
        """Return the context for `presence_template_name`: `users`, `user_ids`, `channel`, and what the URL holds."""
        users = get_user_model()._default_manager.filter(pk__in=user_ids).order_by("pk")
        return {**self.kwargs, "users": users, "user_ids": user_ids, "channel": self.channel, "view": self}

    def render_snapshot(self) -> Fragment:
        """Return the current state, for this client, who was away for longer than the history goes back."""
        return None

    def on_join(self, user_id: Any) -> None:
        """Take note that a user came to the channel: the first of their connections opened."""

    def on_leave(self, user_id: Any) -> None:
        """Take note that a user left the channel: the last of their connections closed, and the grace is over."""

    @cached_property
    def signals(self) -> Any:
        """The signals that the client sent: an instance of `signals_model`, or a dict where there is none."""
        return signals_of(self.request, self.signals_model)

    # How it is served.

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view function, as for every Django view; what refuses is answered as a stream's client needs."""
        inner = super().as_view(**initkwargs)

        @wraps(inner)
        def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if served.login_required is not False and login_is_required() and not is_logged_in(request):
                    raise PermissionDenied
                response: HttpResponseBase = inner(request, *args, **kwargs)
            except BadSignals as error:
                return HttpResponse(str(error), status=400, content_type="text/plain; charset=utf-8")
            except (PermissionDenied, Http404) as error:
                if not is_from_datastar(request):
                    raise
                return refusal(request, 404 if isinstance(error, Http404) else 403)
            if is_from_datastar(request) and (response.status_code in REFUSALS or 300 <= response.status_code < 400):
                return refusal(request, response.status_code if response.status_code >= 400 else 403)
            return response

        served: Any = view
        # LoginRequiredMiddleware would redirect: with None it leaves the answer to us. login_not_required() sets False,
        # on dispatch() or on what is returned here.
        served.login_required = getattr(inner, "login_required", None)
        return view

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Ask has_permission() and look at the signals, then answer."""
        if request.method != "OPTIONS":
            allowed = self._ask_permission()
            # These are true whatever they would say.
            if isawaitable(allowed) or isgenerator(allowed) or isasyncgen(allowed) or callable(allowed):
                if iscoroutine(allowed):
                    allowed.close()
                raise ImproperlyConfigured(
                    f"{type(self).__name__}.has_permission() must return True or False, not {allowed!r}: "
                    "write `def`, not `async def`, and call what you return."
                )
            if not allowed:
                raise PermissionDenied
            if self.signals_model is not None:
                _ = self.signals
        response: Any = super().dispatch(request, *args, **kwargs)
        if isawaitable(response):
            response = async_to_sync(_waiting)(response)
        answer: HttpResponseBase = response
        return answer

    def _ask_permission(self) -> object:
        try:
            return self.has_permission()
        except (PermissionDenied, Http404, BadSignals, ImproperlyConfigured, *TROUBLE):
            raise
        except Exception as error:
            # Many a query is made for a user, and stumbles over nobody: `members=self.request.user`.
            if is_logged_in(self.request):
                raise
            self._tell("Refused somebody who is not logged in, for %s.has_permission() failed: %r", error)
            raise PermissionDenied from error

    def _tell(self, what: str, error: Exception) -> None:
        # It may be a mistake in the view, which whoever develops it is to see; of a visitor's it is one of many.
        logger.log(logging.WARNING if settings.DEBUG else logging.INFO, what, type(self).__name__, error)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Open the stream."""
        asked: Any = self.channel_name()
        try:
            names = channel_names(asked)
            "".join(names).encode()
        except ValueError as error:
            # Part of a URL or a signal can be empty, or hold a line break or half a surrogate pair: there is no such
            # channel.
            self._tell("Not found, for what %s.channel_name() returned names no channel: %s", error)
            raise Http404(str(error)) from error
        except TypeError as error:
            if iscoroutine(asked):
                asked.close()
            raise TypeError(
                f"{type(self).__name__}.channel_name() must return a channel, or a list of several: {error}"
            ) from error
        return broadcast.grant(
            names,
            request,
            presence_callback=self._presence_callback(),
            snapshot_callback=self._snapshot_callback(),
            attendance_hook=self._attendance_hook(),
            recheck_interval=self.recheck_interval,
        )

    def _presence_callback(self) -> "PresenceCallback | None":
        if not _overrides(self, "render_presence") and self.presence_template_name is None:
            return None
        on_channel = self._for_everybody()
        return lambda channel, user_ids: on_channel(channel).render_presence(user_ids)

    def _attendance_hook(self) -> AttendanceHook | None:
        if not (_overrides(self, "on_join") or _overrides(self, "on_leave")):
            return None
        on_channel = self._for_everybody()

        def attend(channel: str, user_id: Any, came: bool) -> None:
            view = on_channel(channel)
            (view.on_join if came else view.on_leave)(user_id)

        return attend

    def _snapshot_callback(self) -> "SnapshotCallback | None":
        if not _overrides(self, "render_snapshot"):
            return None
        rendered = iter([self.render_snapshot])  # Once for the client, however many of its channels have a gap.
        return lambda request, channel: next(rendered, lambda: None)()

    def _for_everybody(self) -> "Callable[[str], BroadcastChannelView]":
        """Return what makes this view anew for a channel: with its arguments, without its request."""
        cls, initkwargs, args, kwargs = type(self), self._initkwargs, self.args, self.kwargs

        def on_channel(channel: str) -> BroadcastChannelView:
            view = cls(**initkwargs)
            view.args, view.kwargs, view.channel = args, kwargs, channel
            return view

        return on_channel


def _overrides(view: BroadcastChannelView, name: str) -> bool:
    return getattr(type(view), name) is not getattr(BroadcastChannelView, name)


async def _waiting(answer: Any) -> Any:
    return await answer
