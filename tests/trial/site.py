"""A newsroom: what Wagtail and django.contrib.auth hold, listed for each viewer in their own way."""

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.management import call_command
from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import include, path
from wagtail.models import Comment

from ds_broadcaster import BroadcastChannelView
from tests.project import views
from tests.trial import steps
from tests.trial.models import Article, Section


def newsroom(request):
    """Return what this viewer sees: staff drafts and inactive users too, and each the articles of their choice."""
    user = request.user
    articles = Article.objects.order_by(request.GET["order"]).filter(title__icontains=request.GET.get("word", ""))
    users = User.objects.order_by("username").prefetch_related("groups")
    if not user.is_staff:
        articles, users = articles.filter(live=True), users.filter(is_active=True)
    sections = Section.objects.order_by("path")
    return {
        "articles": [(each, each.get_parent()) for each in articles],
        "sections": [(each, articles.descendant_of(each).count()) for each in sections],
        "users": users,
        "comments": Comment.objects.filter(page__in=articles.values("pk")).select_related("user").order_by("-pk"),
        "follows": request.GET["follows"],
    }


class Newsroom(BroadcastChannelView):
    url_path = "newsroom/"

    def channel_name(self):
        return "newsroom"

    def render_snapshot(self):
        return render_to_string("trial/_newsroom.html", newsroom(self.request))


@login_required
def show(request):
    return render(request, "trial/newsroom.html", newsroom(request))


def begin(request, users):
    call_command("migrate", run_syncdb=True, verbosity=0)
    steps.begin(users.split(","))
    return HttpResponse("begun")


def do(request, step):
    getattr(steps, step)()
    return HttpResponse("done")


urlpatterns = [
    path("begin/<users>/", begin),
    path("do/<step>/", do),
    path("newsroom/", show),
    path("ready/", views.ready),
    path("login/<username>/", views.log_in),
    path("client/datastar.js", views.client_bundle, name="client-bundle"),
    path("events/", include("ds_broadcaster.urls")),
]
