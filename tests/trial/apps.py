from django.apps import AppConfig


class TrialConfig(AppConfig):
    name = "tests.trial"

    def ready(self):
        from django.contrib.auth.models import Group, User
        from wagtail.models import Comment, Page

        from ds_broadcaster import bind_broadcasts

        for model in (Page, Comment, User, Group):
            bind_broadcasts(model, channel="newsroom", refreshes=True, subclasses=True)
