"""A newsroom: what Wagtail and django.contrib.auth hold, listed for each viewer in their own way; and its pages."""

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as admin_urls
from wagtail.documents import urls as document_urls
from wagtail.models import Comment, Page

from ds_broadcaster import BroadcastChannelView
from tests.trial.newsroom.models import Article, Section


def newsroom(request):
    """Return what this viewer sees: staff drafts and inactive users too, and each the articles of their choice."""
    user = request.user
    articles = Article.objects.order_by(request.GET.get("order", "path"))
    articles = articles.filter(title__icontains=request.GET.get("word", "")).prefetch_related("tagged_items__tag")
    users = User.objects.order_by("username").prefetch_related("groups")
    if not user.is_staff:
        articles, users = articles.filter(live=True), users.filter(is_active=True)
    sections = Section.objects.order_by("path")
    return {
        "articles": [(each, each.get_parent()) for each in articles],
        "sections": [(each, articles.descendant_of(each).count()) for each in sections],
        "users": users,
        "comments": Comment.objects.filter(page__in=articles.values("pk")).select_related("user").order_by("-pk"),
    }


class Newsroom(BroadcastChannelView):
    url_path = "newsroom/"

    def channel_name(self):
        return "newsroom"

    def render_snapshot(self):
        return render_to_string("newsroom/_newsroom.html", newsroom(self.request))


class PageChannel(BroadcastChannelView):
    """What readers see of a page, as long as the page is live and its privacy lets them."""

    url_path = "pages/<int:pk>/"

    def get_page(self):
        return get_object_or_404(Page.objects.live(), pk=self.kwargs["pk"])

    def channel_name(self):
        return self.get_page()

    def has_permission(self):
        return all(each.accept_request(self.request) for each in self.get_page().get_view_restrictions())

    def render_snapshot(self):
        return render_to_string("newsroom/_article.html", {"page": self.get_page().specific})


@login_required
def show(request):
    return render(request, "newsroom/newsroom.html", {"follows": request.GET.get("follows"), **newsroom(request)})


urlpatterns = [
    path("newsroom/", show),
    path("events/", include("ds_broadcaster.urls")),
    path("admin/", include(admin_urls)),
    path("documents/", include(document_urls)),
    path("", include(wagtail_urls)),
]
