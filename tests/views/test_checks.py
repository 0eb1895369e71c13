"""`manage.py check` finds the mistakes of channel views before a request does."""

from functools import partialmethod

import pytest
from django.contrib.auth.mixins import LoginRequiredMixin, PermissionRequiredMixin, UserPassesTestMixin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.test import RequestFactory
from django.views.generic import DetailView, View
from django.views.generic.detail import SingleObjectMixin
from pydantic import BaseModel

from ds_broadcaster import BroadcastChannelView
from ds_broadcaster.views.checks import check_view, check_views
from ds_broadcaster.views.routes import routes


class Fine(BroadcastChannelView):
    presence_template_name = "page.html"
    signals_model = BaseModel
    recheck_interval = 2.5

    def channel_name(self):
        return "fine"


def ids(view):
    return [message.id.removeprefix("ds_broadcaster.") for message in check_view(view)]


def test_view_without_a_mistake_passes():
    assert ids(Fine) == []
    assert check_views() == []


async def awaited(self, *args):
    pass


@pytest.mark.parametrize(
    "attributes, expected, says",
    [
        (
            {"channel_name": BroadcastChannelView.channel_name},
            "E020",
            "Broken must define channel_name().",
        ),
        ({"has_permission": awaited}, "E021", "Broken.has_permission() must be a plain method."),
        ({"render_presence": awaited}, "E021", "Broken.render_presence() must be"),
        ({"on_join": awaited}, "E021", "Broken.on_join() must be"),
        ({"presence_template_name": "nowhere.html"}, "E022", "'nowhere.html' does not exist"),
        ({"signals_model": dict}, "E023", "signals_model must be a pydantic model"),
        ({"recheck_interval": 0}, "E024", "recheck_interval must be a number of seconds"),
        ({"recheck_interval": "60"}, "E024", "recheck_interval must be a number of seconds"),
    ],
)
def test_mistake_is_named_with_what_to_write(attributes, expected, says):
    (message,) = check_view(type("Broken", (Fine,), attributes))
    assert message.id == f"ds_broadcaster.{expected}"
    assert says in message.msg
    assert message.hint


class Allowed(PermissionRequiredMixin, Fine):
    permission_required = "auth.change_group"


class Stricter(Allowed):
    def has_permission(self):
        return super().has_permission() and self.request.user.is_staff


class Hiding(Allowed):
    def has_permission(self):
        return self.request.user.is_staff


class HidingUnderAnother(Allowed):
    has_permission = partialmethod(lambda self, answer: answer, True)


@pytest.mark.parametrize(
    "view, expected", [(Allowed, []), (Stricter, []), (Hiding, ["E025"]), (HidingUnderAnother, ["E025"])]
)
def test_permission_that_is_never_checked_is_named(view, expected):
    assert ids(view) == expected


@pytest.mark.parametrize("mixin", [PermissionRequiredMixin, UserPassesTestMixin, LoginRequiredMixin])
def test_mixin_after_the_view_is_an_error(mixin):
    """Its dispatch() would never be called, so it would refuse no request."""
    with pytest.raises(ImproperlyConfigured, match=rf"class Late\({mixin.__name__}, BroadcastChannelView\)"):
        type(Fine)("Late", (Fine, mixin), {})
    type(Fine)("InTime", (mixin, Fine), {})


HOOKS = [
    *("channel_name", "has_permission", "render_presence", "render_snapshot", "get_presence_context"),
    *("on_join", "on_leave", "signals", "as_view", "setup", "dispatch", "get", "options", "http_method_not_allowed"),
    *("http_method_names", "recheck_interval", "signals_model", "presence_template_name"),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_of_a_mixin_that_is_never_asked_is_an_error(hook):
    mixin = type("Guard", (), {hook: lambda self, *args: False})
    told = rf"Late: Guard comes after BroadcastChannelView, which hides its {hook}: .*`class Late\(Guard, Broadcast"
    with pytest.raises(ImproperlyConfigured, match=told):
        type(Fine)("Late", (Fine, mixin), {})
    with pytest.raises(ImproperlyConfigured, match=told):
        type(Fine)("Late", (Fine, type("Heir", (mixin,), {})), {"has_permission": lambda self: True})
    type(Fine)("InTime", (mixin, Fine), {})


def test_view_after_the_view_is_an_error_where_its_hooks_are_hidden():
    with pytest.raises(ImproperlyConfigured, match=r"BaseDetailView comes after BroadcastChannelView, .* its get"):
        type(Fine)("Late", (Fine, DetailView), {})
    guard = type("Guard", (View,), {"has_permission": lambda self: False})
    with pytest.raises(ImproperlyConfigured, match="which hides its has_permission"):
        type(Fine)("Late", (Fine, guard), {})


def test_mixin_after_the_view_may_bring_what_is_reached():
    type(Fine)("Detail", (Fine, SingleObjectMixin), {})
    type(Fine)("Helped", (Fine, type("Helper", (), {"members": lambda self: [], "_private": 1})), {})

    class Guard(View):
        def setup(self, request, *args, **kwargs):
            raise PermissionDenied("setup")

        def dispatch(self, request, *args, **kwargs):
            raise PermissionDenied("dispatch")

    for hook in ("setup", "dispatch"):
        mixin = type("One", (View,), {hook: vars(Guard)[hook]})
        view = type(Fine)("Guarded", (Fine, mixin), {"has_permission": lambda self: True, "signals_model": None})
        with pytest.raises(PermissionDenied, match=hook):
            view.as_view()(RequestFactory().get("/"))


def test_template_with_a_mistake_inside_exists(settings):
    loader = ("django.template.loaders.locmem.Loader", {"broken.html": "{% nonsense %}"})
    settings.TEMPLATES = [
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": [loader]}}
    ]
    assert ids(type("Broken", (Fine,), {"presence_template_name": "broken.html"})) == []
    assert ids(type("Missing", (Fine,), {"presence_template_name": "missing.html"})) == ["E022"]


def test_own_render_presence_needs_no_template():
    attributes = {"presence_template_name": "nowhere.html", "render_presence": lambda self, user_ids: ""}
    assert ids(type("Own", (Fine,), attributes)) == []


def test_view_that_opens_its_stream_by_hand_needs_no_channel_name():
    attributes = {"channel_name": BroadcastChannelView.channel_name, "get": lambda self, request: None}
    assert ids(type("ByHand", (Fine,), attributes)) == []


def test_check_covers_every_view_with_a_url():
    view = type("Served", (BroadcastChannelView,), {"url_path": "checked/", "__module__": __name__})
    try:
        assert [(message.id, message.obj) for message in check_views()] == [("ds_broadcaster.E020", view)]
    finally:
        routes.remove(f"{__name__}.Served")
