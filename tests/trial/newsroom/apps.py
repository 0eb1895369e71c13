from django.apps import AppConfig


class NewsroomConfig(AppConfig):
    name = "tests.trial.newsroom"

    def ready(self):
        from django.contrib.auth.models import Group, User
        from wagtail.models import Comment, Page, PageViewRestriction

        from ds_broadcaster import bind_broadcasts

        for model in (Page, Comment, User, Group):
            bind_broadcasts(model, channel="newsroom", refreshes=True, subclasses=True)
        # What readers see of a page, in the page itself.
        bind_broadcasts(Page, name="reader", channel=lambda page: page, refreshes=True, subclasses=True)
        # A page's privacy is that of the pages below, too.
        bind_broadcasts(
            PageViewRestriction,
            channel=lambda restriction: list(restriction.page.get_descendants(inclusive=True)),
            refreshes=True,
        )
