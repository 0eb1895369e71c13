"""The two kinds of pages that a project of Wagtail has to define, and nothing about broadcasts."""

from django.db import models
from modelcluster.contrib.taggit import ClusterTaggableManager
from modelcluster.fields import ParentalKey
from taggit.models import TaggedItemBase
from wagtail.admin.panels import FieldPanel
from wagtail.models import Page


class Section(Page):
    pass


class ArticleTag(TaggedItemBase):
    content_object = ParentalKey("Article", on_delete=models.CASCADE, related_name="tagged_items")


class Article(Page):
    body = models.TextField(blank=True)
    tags = ClusterTaggableManager(through=ArticleTag, blank=True)

    content_panels = (*Page.content_panels, FieldPanel("body"), FieldPanel("tags"))
