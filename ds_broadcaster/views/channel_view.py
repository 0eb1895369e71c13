"""Channel views: a class names the channel of a stream, decides who may open it, and renders what its pages show."""

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from inspect import isasyncgen, isawaitable, iscoroutine, isgenerator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

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
from ..hub.grant import Audience
from ..ids import channel_names
from ..observers import observers
from ..present import Present
from ..sse import Fragment, encode_fragment
from ..streams.replayed_requests import is_trouble
from ..streams.requests import (
    StreamOptions,
    checked_channels,
    is_from_datastar,
    is_logged_in,
    is_recheck,
    login_is_required,
)
from ..streams.responses import (
    NO_STORE,
    REFUSALS,
    BroadcastResponse,
    not_now,
    redirect_reason,
    refusal,
    with_reason,
)
from .client_signals import BadSignals, signals_of
from .routes import ChannelViewType

if TYPE_CHECKING:
    from ..hub.channel import PresenceCallback
    from ..sending import ChannelLike
    from ..streams.requests import PresenceMeta, SnapshotCallback

logger = logging.getLogger("ds_broadcaster")

# The views whose mistake in has_permission() is in the log.
_mistaken: WeakSet[type] = WeakSet()


class NotPermitted(PermissionDenied):
    """What has_permission() refused.

    `why` is for the developer alone: a project's 403.html may show an error's text. `is_logged` where the log has it.
    """

    def __init__(self, why: str, *, is_logged: bool = False) -> None:
        super().__init__()
        self.why = why
        self.is_logged = is_logged


class _NoRequest:
    """Raise an error that teaches where a view has no request; setup() stores a real one over this default."""

    def __get__(self, view: object, cls: type) -> Any:
        if view is None:
            return self
        if hasattr(view, "audience_key"):
            raise AttributeError(
                f"{cls.__name__} has no request in render_snapshot(), which runs once for each audience: put what it "
                "needs into what audience() returns, and use self.audience_key."
            )
        raise AttributeError(
            f"{cls.__name__} has no request here: render_presence(), on_join() and on_leave() run once for all clients "
            "on the channel. Use self.kwargs and self.channel; render_snapshot() is for one client."
        )


class BroadcastChannelView(View, metaclass=ChannelViewType):
    """A view that opens a stream. Subclass it in `views.py`:

    >>> class RoomChannel(BroadcastChannelView):
    ...     url_path = "rooms/<int:pk>/"
    ...
    ...     def channel_name(self):
    ...         return f"room-{self.kwargs['pk']}"
    ...
    ...     def has_permission(self):
    ...         return Room.objects.filter(pk=self.kwargs["pk"], members=self.request.user).exists()

    The hooks are plain methods and may use the ORM. Most run for one client, and have `self.request`. Presence belongs
    to the whole channel: render_presence(), on_join() and on_leave() have `self.channel` and `self.kwargs`, and no
    request.
    """

    # The URL.

    url_path: str | None = None
    """Served by `include("ds_broadcaster.urls")`; an abstract base class with a path sets `abstract = True`. A class
    without a path needs a URL pattern of your own, with its as_view().
    """

    url_name: str | None = None
    """Reversed as `ds_broadcaster:<url_name>`; by default the name of the class, "room-channel" for RoomChannel."""

    # The attributes of a subclass.

    presence_template_name: str | None = None
    """The template of the default render_presence()."""

    signals_model: type[BaseModel] | None = None
    """A pydantic model of the signals that the client sends."""

    recheck_interval: float | None = None
    """Seconds between two calls of has_permission(); None stands for DS_BROADCASTER_RECHECK_INTERVAL."""

    compression: bool = True
    """Whether clients that take gzip get it, where DS_BROADCASTER_COMPRESSION is True."""

    # The attributes of an instance: a request has one, and so has the presence of each channel.

    request: HttpRequest = _NoRequest()  # type: ignore[assignment]
    """The stream's request. Hooks that run once for the whole channel have none."""

    channel: str
    """The channel, in render_presence(), on_join() and on_leave()."""

    audience_key: Any
    """What audience() returned, in render_snapshot()."""

    present: Sequence[Present] = ()
    """In render_presence(): everyone on the channel, those who are away too."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012
    # Mixins and hooks are written for a thread, so an async handler is run from one.
    view_is_async = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._initkwargs = kwargs

    # The stream.

    def channel_name(self) -> "ChannelLike | Sequence[ChannelLike]":
        """Return the channel that the stream carries, or a list of several."""
        raise ImproperlyConfigured(
            f"{type(self).__name__} must define channel_name(): return the name of a channel, such as "
            "f\"room-{self.kwargs['pk']}\", or a list of names."
        )

    def has_permission(self) -> bool:
        """Tell whether this request gets the stream: True or False, nothing else; or raise PermissionDenied or Http404.

        By default every user who is logged in does. Asked again, with the same request, every `recheck_interval` and
        after broadcast.recheck().
        """
        return is_logged_in(self.request)

    @cached_property
    def signals(self) -> Any:
        """The signals that the client sent: an instance of `signals_model`, or a dict without one."""
        return signals_of(self.request, self.signals_model)

    def render_snapshot(self) -> Fragment:
        """Return what the page shows now: at a refresh, and for a client that was away for too long."""
        return None

    def audience(self) -> Hashable:
        """Return who sees the same as this request, such as `self.request.user.is_staff`: any hashable value.

        With it, render_snapshot() runs once for each audience. It has `self.audience_key`, which is that value, and no
        `self.request`; language and time zone are the project's.
        """
        return None

    # Presence.

    def presence_meta(self) -> dict[str, Any] | None:
        """Return what presence shows of this client beside its user: a small dict of JSON values, at most 1 KB.

        `Present.meta` has the dicts of all of a user's connections as one, in which the newest connection wins.
        """
        return None

    def render_presence(self, user_ids: list[Any]) -> Fragment:
        """Return what all clients on the channel show when its users change: HTML, signals, or a tuple of both.

        `user_ids` has each user once, those who are away too; `self.present` has a Present for each, in the same order.
        """
        if self.presence_template_name is None:
            return None
        return render_to_string(self.presence_template_name, self.get_presence_context(user_ids))

    def get_presence_context(self, user_ids: list[Any]) -> dict[str, Any]:
        """Return the context of `presence_template_name`.

        It has the URL's arguments, `users`, `user_ids`, `present`, `channel` and `view`.
        """
        users = get_user_model()._default_manager.filter(pk__in=user_ids).order_by("pk")
        found = {"users": users, "user_ids": user_ids, "present": self.present, "channel": self.channel, "view": self}
        return {**self.kwargs, **found}

    def on_join(self, user_id: Any) -> None:
        """Run when a user joins the channel: the first of their connections has opened."""

    def on_leave(self, user_id: Any) -> None:
        """Run when a user leaves the channel: the last connection has closed, the grace is over, no tab is hidden."""

    # The request, from the outside in: as_view(), dispatch(), get().

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view function; it answers a refusal, from wherever it comes, as a stream's client needs it."""
        inner = super().as_view(**initkwargs)

        @wraps(inner)
        def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if served.login_required is not False and login_is_required() and not is_logged_in(request):
                    raise NotPermitted("LoginRequiredMiddleware asks for a login")
                response: Any = inner(request, *args, **kwargs)
                if isawaitable(response):
                    response = async_to_sync(_awaited)(response)
            except BadSignals as error:
                content_type = "text/plain; charset=utf-8"
                bad = HttpResponse(str(error), status=400, content_type=content_type, headers=NO_STORE)
                return with_reason(bad, str(error))
            except (PermissionDenied, Http404) as error:
                own = error if isinstance(error, NotPermitted) else None
                why = repr(error) if own is None else own.why
                _tell_refusal(cls, request, why, is_logged=own is not None and own.is_logged)
                if not is_from_datastar(request):
                    raise
                return refusal(request, 404 if isinstance(error, Http404) else 403, why=f"{cls.__name__}: {why}")
            except Exception as error:
                # A re-check learns the error itself.
                if not is_trouble(error) or not is_from_datastar(request) or is_recheck(request):
                    raise
                logger.exception("%s could not answer at %r: the client will ask again.", cls.__name__, request.path)
                return not_now(f"{cls.__name__} could not answer: {error!r}")
            answer: HttpResponseBase = response
            if isinstance(answer, BroadcastResponse) and cls not in answer.permitted_by:
                raise ImproperlyConfigured(
                    f"{cls.__name__} answered with a stream, and its has_permission() was not asked: "
                    "return super().dispatch(request, *args, **kwargs) in its dispatch(), and open the stream in get()."
                )
            if is_from_datastar(request) and (300 <= answer.status_code < 400 or answer.status_code in REFUSALS):
                why = f"the view answered with {answer.status_code}"
                if "Location" in answer.headers:
                    why += f": {redirect_reason(answer.headers['Location'])}"
                _tell_refusal(cls, request, why)
                status = answer.status_code if answer.status_code in REFUSALS else 403
                return refusal(request, status, why=f"{cls.__name__}: {why}")
            answer.headers.setdefault("Cache-Control", "no-store")
            return answer

        served: Any = view
        # LoginRequiredMiddleware would redirect: None leaves the answer to us. login_not_required() sets False, on
        # dispatch() or on the function that is returned here.
        served.login_required = getattr(inner, "login_required", None)
        return view

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Check the permission, then the signals, then let the method answer."""
        if request.method != "OPTIONS":
            self._check_permission()
            if self.signals_model is not None:
                _ = self.signals
        response: Any = super().dispatch(request, *args, **kwargs)
        if isawaitable(response):
            response = async_to_sync(_awaited)(response)
        if isinstance(response, BroadcastResponse) and request.method != "OPTIONS":
            response.permitted_by += (type(self),)
        answer: HttpResponseBase = response
        return answer

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Open the stream."""
        options = StreamOptions(
            presence_callback=self._presence_callback(),
            snapshot_callback=self._snapshot_callback(),
            attendance_hook=self._attendance_hook(),
            recheck_interval=self.recheck_interval,
            audience=self._audience(),
            presence_meta=self._presence_meta(),
            compress=self.compression,
        )
        return broadcast.opener.open(checked_channels(self._channel_names(), request, options), request, options)

    def _check_permission(self) -> None:
        try:
            allowed: Any = self.has_permission()
        except (PermissionDenied, Http404, BadSignals, ImproperlyConfigured):
            raise
        except Exception as error:
            # Many queries need a user: `members=self.request.user` fails for an anonymous one.
            if is_trouble(error) or is_logged_in(self.request):
                raise
            raise NotPermitted(f"has_permission() failed for an anonymous user: {error!r}") from error
        if allowed is True:
            return
        if allowed is False:
            user = f"user {self.request.user.pk!r}" if is_logged_in(self.request) else "an anonymous user"
            raise NotPermitted(f"has_permission() returned False for {user}")
        name = f"{type(self).__name__}.has_permission()"
        if allowed is None:
            told = "returned None, which refuses every user: write `return` before its result"
            self._log_mistake(f"{name} {told}.")
            raise NotPermitted(f"has_permission() {told}", is_logged=True)
        if isawaitable(allowed) or isgenerator(allowed) or isasyncgen(allowed) or callable(allowed):
            if iscoroutine(allowed):
                allowed.close()
            hint = "write `def`, not `async def`, and call what you return."
        elif isinstance(allowed, HttpResponseBase):
            hint = "to refuse, return False, or raise PermissionDenied or Http404."
        else:
            hint = "write for example bool(...), or the exists() of a query."
        # Most of these are true, whatever they mean.
        mistake = f"{name} must return True or False, not {allowed!r}: {hint}"
        self._log_mistake(mistake)
        raise ImproperlyConfigured(mistake)

    def _log_mistake(self, message: str) -> None:
        """Log a mistake of the class, once: each request makes it again."""
        if type(self) not in _mistaken:
            _mistaken.add(type(self))
            logger.error("%s Asked for %r; this is logged once.", message, self.request.path)

    def _channel_names(self) -> tuple[str, ...]:
        returned: Any = self.channel_name()
        try:
            names = channel_names(returned)
            "".join(names).encode()
        except ValueError as error:
            # Part of a URL, or a signal, can be empty, or hold a line break or half a surrogate pair.
            raise Http404(f"channel_name() returned what names no channel: {error}") from error
        except TypeError as error:
            if iscoroutine(returned):
                returned.close()
            raise TypeError(
                f"{type(self).__name__}.channel_name() must return a channel, or a list of several: {error}"
            ) from error
        return names

    # Callbacks. Those of a whole channel outlive the request: they keep the view's arguments, and nothing else of it.

    def _presence_callback(self) -> "PresenceCallback | None":
        if not _overrides(self, "render_presence") and self.presence_template_name is None:
            return None
        return _PresenceCallback(self._view_of_channel(), type(self))

    def _presence_meta(self) -> "PresenceMeta | None":
        if not _overrides(self, "presence_meta"):
            return None

        def meta(request: HttpRequest) -> dict[str, Any] | None:
            return self.presence_meta()

        meta.__qualname__ = f"{type(self).__name__}.presence_meta"  # An error names it.
        return meta

    def _attendance_hook(self) -> AttendanceHook | None:
        if not (_overrides(self, "on_join") or _overrides(self, "on_leave")):
            return None
        view_of = self._view_of_channel()

        def attend(channel: str, user_id: Any, joined: bool) -> None:
            view = view_of(channel)
            (view.on_join if joined else view.on_leave)(user_id)

        return attend

    def _snapshot_callback(self) -> "SnapshotCallback | None":
        if not _overrides(self, "render_snapshot"):
            return None
        rendered = iter([self.render_snapshot])  # Once for the client, however many of its channels have a gap.

        def render(request: HttpRequest, channel: str) -> Fragment:
            return next(rendered, lambda: None)()

        render.__qualname__ = f"{type(self).__name__}.render_snapshot"  # Observers name it.
        return render

    def _audience(self) -> Audience | None:
        if not _overrides(self, "audience"):
            return None
        value = self.audience()
        cls, initkwargs, args, kwargs = type(self), self._initkwargs, self.args, self.kwargs
        key = cls, tuple((name, id(each)) for name, each in initkwargs.items()), args, tuple(kwargs.items()), value
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(
                f"{cls.__name__}.audience() must return a hashable value, such as True or a tuple, not {value!r}."
            ) from error

        def render() -> bytes:
            view = cls(**initkwargs)
            view.args, view.kwargs, view.audience_key = args, kwargs, value
            return encode_fragment(view.render_snapshot())

        render.__qualname__ = f"{cls.__name__}.render_snapshot"
        return Audience(value, key, render if _overrides(self, "render_snapshot") else None)

    def _view_of_channel(self) -> "Callable[[str], BroadcastChannelView]":
        """Return a function that makes this view for a channel: with its arguments, without its request."""
        cls, initkwargs, args, kwargs = type(self), self._initkwargs, self.args, self.kwargs

        def view_of(channel: str) -> BroadcastChannelView:
            view = cls(**initkwargs)
            view.args, view.kwargs, view.channel = args, kwargs, channel
            return view

        return view_of


class _PresenceCallback:
    """Renders the presence of a channel, with the view's arguments."""

    takes_present = True

    def __init__(self, view_of: Callable[[str], BroadcastChannelView], cls: type) -> None:
        self._view_of = view_of
        self.__qualname__ = f"{cls.__name__}.render_presence"

    def __call__(self, channel: str, user_ids: list[Any], present: Sequence[Present] = ()) -> Fragment:
        view = self._view_of(channel)
        view.present = present
        return view.render_presence(user_ids)


def _overrides(view: BroadcastChannelView, name: str) -> bool:
    return getattr(type(view), name) is not getattr(BroadcastChannelView, name)


def _tell_refusal(cls: type, request: HttpRequest, why: str, *, is_logged: bool = False) -> None:
    for each in observers:
        each.refused(cls.__name__, request.path, why)
    if is_logged:
        return
    # It may be a mistake in the view, for its developers to see; in production it is one visitor among many.
    level = logging.WARNING if settings.DEBUG else logging.INFO
    logger.log(level, "%s refused the stream at %r: %s", cls.__name__, request.path, why)


async def _awaited(response: Any) -> Any:
    return await response
