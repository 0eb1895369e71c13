"""System checks of the channel views: mistakes that each request would answer with an error."""

from collections.abc import Iterator
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import get_resolver
from pydantic import BaseModel

from .channel_view import BroadcastChannelView
from .routes import routes

PERMISSION_MIXIN = "django.contrib.auth.mixins.PermissionRequiredMixin"
HOOKS = ("channel_name", "has_permission", "render_presence", "render_snapshot", "on_join", "on_leave")


def check_views(**kwargs: Any) -> list[CheckMessage]:
    """Report the mistakes of all channel views with a URL."""
    if getattr(django_settings, "ROOT_URLCONF", None):
        _ = get_resolver().url_patterns  # Imports every module that defines a view.
    views: list[Any] = [route.view for route in routes]
    return [message for view in views for message in check_view(view.view_class)]


def check_view(view: type[BroadcastChannelView]) -> Iterator[CheckMessage]:
    """Report the mistakes of one class."""
    is_ours = view.get is BroadcastChannelView.get and view.dispatch is BroadcastChannelView.dispatch
    if is_ours and view.channel_name is BroadcastChannelView.channel_name:
        yield Error(
            f"{view.__name__} must define channel_name().",
            hint="Return the name of a channel, such as f\"room-{self.kwargs['pk']}\", or a list of names.",
            obj=view,
            id="ds_broadcaster.E020",
        )
    for hook in HOOKS:
        if iscoroutinefunction(getattr(view, hook)):
            yield Error(
                f"{view.__name__}.{hook}() must be a plain method.",
                hint="Write `def`, not `async def`: it runs in a thread and may use the ORM.",
                obj=view,
                id="ds_broadcaster.E021",
            )
    mixin = next((each for each in view.__mro__ if f"{each.__module__}.{each.__name__}" == PERMISSION_MIXIN), None)
    if mixin is not None and not _calls(view, mixin):
        yield Error(
            f"{view.__name__} ignores its permission_required: nothing calls the mixin's has_permission().",
            hint="Name the mixin before BroadcastChannelView, and call super().has_permission() in your own.",
            obj=view,
            id="ds_broadcaster.E025",
        )
    renders = view.render_presence is BroadcastChannelView.render_presence
    if renders and view.presence_template_name is not None and not _exists(view.presence_template_name):
        yield Error(
            f"{view.__name__}.presence_template_name = {view.presence_template_name!r} does not exist.",
            hint="Create it in a `templates` folder that Django searches, or define render_presence().",
            obj=view,
            id="ds_broadcaster.E022",
        )
    model: Any = view.signals_model
    if model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
        yield Error(
            f"{view.__name__}.signals_model must be a pydantic model, not {model!r}.",
            hint='Write for example `class RoomSignals(pydantic.BaseModel): query: str = ""`.',
            obj=view,
            id="ds_broadcaster.E023",
        )
    interval: Any = view.recheck_interval
    if interval is not None and not (isinstance(interval, (int, float)) and interval > 0):
        yield Error(
            f"{view.__name__}.recheck_interval must be a number of seconds, more than 0, not {interval!r}.",
            hint="Leave it out to use DS_BROADCASTER_RECHECK_INTERVAL.",
            obj=view,
            id="ds_broadcaster.E024",
        )


def _calls(view: type[BroadcastChannelView], mixin: type) -> bool:
    """Tell whether has_permission() reaches the mixin's: each one before it must call super()."""
    for each in view.__mro__:
        if each is mixin:
            return True
        if "has_permission" in vars(each):
            code = getattr(vars(each)["has_permission"], "__code__", None)
            if code is None or "super" not in code.co_names:
                return False
    return True


def _exists(template_name: str) -> bool:
    try:
        get_template(template_name)
    except TemplateDoesNotExist:
        return False
    except Exception:  # A mistake inside it is not ours to report.
        return True
    return True
