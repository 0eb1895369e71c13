"""What people do in an editorial office; `test_trial.py` says what each of its viewers must see after that."""

from django.contrib.auth.models import Group, User
from wagtail.models import Comment, Locale, Page

from ds_broadcaster import broadcast_saved
from tests.trial.models import Article, Section


def begin(users):
    """Make two sections with an article each, these users, and a group."""
    Locale.objects.create(language_code="en")
    root = Page.add_root(title="Root", slug="root")
    for section, title in {"News": "Budget vote", "Sport": "Cup final"}.items():
        root.add_child(instance=Section(title=section)).add_child(instance=Article(title=title))
    for name in users:
        User.objects.create_user(name, is_staff=name == "chief")
    Group.objects.create(name="editors")


def page(title):
    return Page.objects.get(title=title).specific


def a_draft_is_written():
    page("News").add_child(instance=Article(title="Budget leak", live=False))


def a_draft_is_published():
    page("Budget leak").save_revision().publish()


def a_page_is_renamed():
    leak = page("Budget leak")
    leak.title = "Leak of the budget"
    leak.save_revision().publish()


def a_page_is_moved():
    page("Leak of the budget").move(page("Sport"), pos="last-child")


def a_page_is_unpublished():
    page("Leak of the budget").unpublish()


def a_section_is_renamed():
    games = page("Sport")
    games.title = "Games"
    games.save_revision().publish()


def a_user_is_created():
    User.objects.create_user("dora")


def two_users_join_a_group():
    Group.objects.get().user_set.add(*User.objects.filter(username__in=["carl", "dora"]))


def comments_are_written():
    said = [("Budget vote", "dora", "At last."), ("Cup final", "carl", "Close!")]
    for title, name, text in [*said, ("Leak of the budget", "dora", "Who leaked it?")]:
        user = User.objects.get(username=name)
        Comment.objects.create(page=page(title), user=user, text=text, contentpath="title")


def an_author_is_renamed():
    dora = User.objects.get(username="dora")
    dora.username = "theodora"
    dora.save()


def a_user_is_made_inactive():
    carl = User.objects.get(username="carl")
    carl.is_active = False
    carl.save(update_fields=["is_active"])


def a_group_is_deleted():
    Group.objects.get().delete()


def a_section_is_deleted_with_its_pages():
    page("News").add_child(instance=Article(title="Budget passed"))
    page("Games").delete()


def all_pages_are_unpublished_in_one_query():
    Article.objects.update(live=False)
    broadcast_saved(Article.objects.all())
