"""The two kinds of pages that a project of Wagtail has to define, and nothing about broadcasts."""

from django.db import models
from wagtail.models import Page


class Section(Page):
    pass


class Article(Page):
    body = models.TextField(blank=True)
