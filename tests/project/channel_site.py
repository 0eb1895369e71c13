"""Channel views as a project would write them, and a ROOT_URLCONF that serves them beside the test project."""

import gc

import redis
from django.contrib.auth import get_user_model, login
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.mixins import LoginRequiredMixin, PermissionRequiredMixin, UserPassesTestMixin
from django.contrib.auth.models import AnonymousUser, Group
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse, HttpResponseForbidden, JsonResponse
from django.urls import path, register_converter
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from pydantic import BaseModel, Field

from ds_broadcaster import BroadcastChannelView, broadcast
from tests.project import urls


class FourDigits:
    regex = "[0-9]{4}"

    def to_python(self, value):
        return int(value)

    def to_url(self, value):
        return f"{value:04}"


register_converter(FourDigits, "four_digits")


def user_of_header(get_response):
    """Middleware that takes the user from a header, without a database."""

    def answer(request):
        name = request.headers.get("x-user")
        request.user = AnonymousUser() if name is None else get_user_model()(pk=7, username=name)
        return get_response(request)

    return answer


class ClubChannel(BroadcastChannelView):
    """A group's channel, for its members."""

    url_path = "clubs/<int:pk>/"
    presence_template_name = "club_members.html"

    def channel_name(self):
        return f"club-{self.kwargs['pk']}"

    def has_permission(self):
        return Group.objects.filter(pk=self.kwargs["pk"], user=self.request.user.pk).exists()

    def render_snapshot(self):
        return f'<p id="snapshot">for {self.request.user}</p>'

    def on_join(self, user_id):
        broadcast.signals("attendance", {"came": [self.channel, self.kwargs["pk"], user_id]})

    def on_leave(self, user_id):
        broadcast.signals("attendance", {"left": [self.channel, self.kwargs["pk"], user_id]})


class AnybodyChannel(BroadcastChannelView):
    """No has_permission(), so for every user who is logged in. Several channels."""

    url_path = "any/<slug:first>/<slug:second>/"
    url_name = "anybody"

    def channel_name(self):
        return [self.kwargs["first"], self.kwargs["second"]]

    def render_presence(self, user_ids):
        return {"online": {self.channel: len(user_ids)}}


class OpenChannel(BroadcastChannelView):
    """Public; its permission is the answer that the request asks for."""

    url_path = "open/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def has_permission(self):
        answer = self.request.GET.get("answer", "yes")
        if answer == "denied":
            raise PermissionDenied
        if answer == "missing":
            raise Http404
        return answer == "yes"


class PeekingChannel(BroadcastChannelView):
    """Reads the request in its presence, which has none."""

    url_path = "peeking/<slug:name>/"

    def channel_name(self):
        return self.kwargs["name"]

    def render_presence(self, user_ids):
        if self.kwargs["name"].startswith("signals"):
            return self.signals
        if self.kwargs["name"].startswith("property"):
            return self.reader
        return f'<p id="peek">{self.request.user}</p>'

    @property
    def reader(self):
        return self.request.user


class Filter(BaseModel):
    query: str = Field(alias="searchFor", max_length=5)
    page: int = 1


class SearchChannel(BroadcastChannelView):
    url_path = "search/"
    signals_model = Filter

    def channel_name(self):
        return f"search-{self.signals.query}-{self.signals.page}"


class LoginChannel(LoginRequiredMixin, BroadcastChannelView):
    url_path = "with-login/"

    def channel_name(self):
        return "with-login"

    def has_permission(self):
        return True


class StaffChannel(UserPassesTestMixin, BroadcastChannelView):
    url_path = "with-test/"

    def channel_name(self):
        return "with-test"

    def test_func(self):
        return self.request.user.is_staff


class AllowedChannel(PermissionRequiredMixin, BroadcastChannelView):
    url_path = "with-permission/"
    permission_required = "auth.change_group"

    def channel_name(self):
        return "with-permission"


@method_decorator(login_required, name="dispatch")
class DecoratedChannel(BroadcastChannelView):
    url_path = "decorated/"

    def channel_name(self):
        return "decorated"

    def has_permission(self):
        return True


class AsyncChannel(LoginRequiredMixin, BroadcastChannelView):
    url_path = "async/"

    def channel_name(self):
        return "async"

    async def get(self, request, *args, **kwargs):
        return await broadcast.aconnect(self.channel_name(), request)


class WordChannel(BroadcastChannelView):
    """Takes the channel's name from the URL."""

    url_path = "words/<str:word>/"

    def channel_name(self):
        return self.kwargs["word"]

    def has_permission(self):
        return True


class PathChannel(WordChannel):
    url_path = "paths/<path:word>"


class SaidChannel(BroadcastChannelView):
    """Makes a channel's name from what the client says, without a model."""

    url_path = "said/"

    def channel_name(self):
        return self.signals.get("name", "")

    def has_permission(self):
        return True


class YearChannel(BroadcastChannelView):
    """A converter of the project's own; setup() of the view's own."""

    url_path = "years/<four_digits:year>/"

    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self.century = self.kwargs["year"] // 100

    def channel_name(self):
        return f"century-{self.century}"


@method_decorator(login_not_required, name="dispatch")
@method_decorator(never_cache, name="dispatch")
class PublicChannel(BroadcastChannelView):
    """Public, with LoginRequiredMiddleware too."""

    url_path = "public/"

    def channel_name(self):
        return "public"

    def has_permission(self):
        return True


class FailingChannel(OpenChannel):
    """Its hooks fail."""

    url_path = "failing/<slug:name>/"

    def on_join(self, user_id):
        raise RuntimeError("on_join() fails")

    def on_leave(self, user_id):
        raise RuntimeError("on_leave() fails")

    def render_snapshot(self):
        raise RuntimeError("render_snapshot() fails")


class BareChannel(BroadcastChannelView):
    def has_permission(self):
        return True


class OddChannel(OpenChannel):
    """Its has_permission() returns values that are true by accident."""

    def has_permission(self):
        if self.kwargs["answer"] == "coroutine":
            return self.ask()
        if self.kwargs["answer"] == "generator":
            return (each for each in "no")
        if self.kwargs["answer"] == "method":
            return self.refuse
        return {
            "object": object(),
            "zero": 0,
            "query": Group.objects.none(),
            "response": HttpResponse(),
            "refusal": HttpResponseForbidden(),
        }[self.kwargs["answer"]]

    async def ask(self):
        return False

    def refuse(self):
        return False


class ByHandChannel(BroadcastChannelView):
    """Not in the table: the urlconf below serves it."""

    name = "by-hand"

    def channel_name(self):
        return self.name

    def render_snapshot(self):
        return f'<p id="snapshot">{self.name}</p>'


class ArgumentChannel(BroadcastChannelView):
    """Shows the arguments of its as_view()."""

    greeting = "of the class"

    def channel_name(self):
        return "with-arguments"

    def render_presence(self, user_ids):
        return f'<p id="said">{self.greeting}, {self.presence_template_name}, {user_ids}</p>'


class ImpatientChannel(ClubChannel):
    url_path = "impatient/<int:pk>/"
    recheck_interval = 0.3


class CarelessChannel(BroadcastChannelView):
    """The query of the README, which fails for an anonymous user."""

    url_path = "careless/<int:pk>/"

    def channel_name(self):
        return f"careless-{self.kwargs['pk']}"

    def has_permission(self):
        return Group.objects.filter(pk=self.kwargs["pk"], user=self.request.user).exists()


class ServedElsewhereChannel(BroadcastChannelView):
    """Asks a service, which fails as `/service/<error>/` says."""

    url_path = "elsewhere/"
    error = ""
    asked = 0

    def channel_name(self):
        return "elsewhere"

    def has_permission(self):
        ServedElsewhereChannel.asked += 1
        if self.error == "away":
            raise redis.ConnectionError("away")
        if self.error == "mistake":
            raise ValueError("mistake")
        return self.request.user.is_authenticated


def service(request, error):
    ServedElsewhereChannel.error = error
    return HttpResponse()


@login_not_required
def service_asked(request):
    return JsonResponse({"asked": ServedElsewhereChannel.asked})


class GoneChannel(BroadcastChannelView):
    """Fails for a group that is gone."""

    url_path = "gone/<int:pk>/"

    def channel_name(self):
        return f"gone-{Group.objects.get(pk=self.kwargs['pk']).pk}"


@login_required
def decorated_function(request, channel):
    return broadcast.connect(channel, request)


@login_not_required
def remove_club(request, pk):
    Group.objects.filter(pk=pk).delete()
    return HttpResponse()


@login_not_required
def membership(request, pk, username, verb):
    """Add a user to a club, or remove them."""
    group, _ = Group.objects.get_or_create(pk=pk, defaults={"name": f"club {pk}"})
    user = get_user_model().objects.get(username=username)
    (group.user_set.add if verb == "add" else group.user_set.remove)(user)
    return HttpResponse()


@login_not_required
def account(request, username, verb):
    """Change a user's account: `off`, `password`, `delete`, or a mere `name`."""
    user = get_user_model().objects.get(username=username)
    if verb == "delete":
        user.delete()
        return HttpResponse()
    if verb == "off":
        user.is_active = False
    elif verb == "on":
        user.is_active = True
    elif verb == "password":
        user.set_password("another one")
    else:
        user.first_name = "Somebody"
    user.save()
    return HttpResponse()


@login_not_required
def log_in_again(request, username):
    login(request, get_user_model().objects.get(username=username), "django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


@login_not_required
async def held(request):
    """Count what idle streams must not hold: requests (but this one) and views."""
    gc.collect()
    things = gc.get_objects()
    return JsonResponse(
        {
            "requests": sum(type(thing) is ASGIRequest for thing in things) - 1,
            "views": sum(issubclass(type(thing), BroadcastChannelView) for thing in things),
        }
    )


urlpatterns = [
    path("bare/", BareChannel.as_view()),
    path("odd/<answer>/", OddChannel.as_view(), {"name": "odd"}),
    path("with-template/", ByHandChannel.as_view(name="templated", presence_template_name="club_members.html")),
    path("events/with-arguments/", ArgumentChannel.as_view(greeting="given", presence_template_name="x.html")),
    path("held/", held),
    path("service/", service_asked),
    path("service/<error>/", service),
    path("by-hand/", ByHandChannel.as_view(name="by-our-hand")),
    path("login-by-hand/", login_required(ByHandChannel.as_view())),
    path("function/<channel>/", decorated_function, name="function"),
    path("remove-club/<int:pk>/", remove_club),
    path("membership/<int:pk>/<username>/<verb>/", membership),
    path("account/<username>/<verb>/", account),
    *urls.urlpatterns,
]
