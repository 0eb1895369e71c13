"""What people do in an editorial office, with the forms of Wagtail's admin, and what each viewer sees of it."""

from django.contrib.auth.models import Group, User
from django.test import TestCase
from django.urls import reverse
from wagtail.models import Comment, Locale, Page, PageViewRestriction, Site

from ds_broadcaster import broadcast_saved
from ds_broadcaster.testing import BroadcastTestMixin
from ds_broadcaster.testing.dom import Document
from tests.trial.newsroom.models import Article, Section
from tests.trial.newsroom.site import PageChannel

# Each viewer's page: what it lists and in which order, and whether a view renders it anew or the page fetches itself.
# Chief is staff, and sees drafts and inactive users.
PAGES = {
    "chief": "/newsroom/?follows=view&order=title",
    "ann": "/newsroom/?follows=view&order=-pk",
    "bob": "/newsroom/?follows=itself&order=title&word=budget",
}


def page(title):
    return Page.objects.get(title=title).specific


class NewsroomTestCase(BroadcastTestMixin, TestCase):
    """A site of two sections with an article each, and its people."""

    @classmethod
    def setUpTestData(cls):
        Locale.objects.create(language_code="en")
        root = Page.add_root(title="Root", slug="root")
        front = root.add_child(instance=Section(title="Front page"))
        for section, title in {"News": "Budget vote", "Sport": "Cup final"}.items():
            front.add_child(instance=Section(title=section)).add_child(instance=Article(title=title))
        Site.objects.create(hostname="testserver", root_page=front, is_default_site=True)
        cls.users = {name: User.objects.create_user(name) for name in ("ann", "bob", "carl")}
        cls.users["chief"] = User.objects.create_superuser("chief")

    def admin(self, view, *args, form="form", **fields):
        """Fill in a form of the admin and send it, as the chief's browser would."""
        self.client.force_login(self.users["chief"])
        url = reverse(view, args=args)
        shown = Document(self.client.get(url).content.decode()).select_one(form)
        response = self.client.post(url, {**shown.fields, **fields})
        is_done = response.status_code == 302 or response.headers["Content-Type"] == "application/json"
        assert is_done, response.content.decode()

    def edit(self, title, /, **fields):
        self.admin("wagtailadmin_pages:edit", page(title).pk, form="#page-edit-form", **fields)

    def publish(self, title, /, **fields):
        self.edit(title, **fields, **{"action-publish": "1"})


class ViewersTests(NewsroomTestCase):
    def setUp(self):
        super().setUp()
        self.pages = {name: self.live_page(url, user=self.users[name]) for name, url in PAGES.items()}

    def see(self, selector, **expected):
        """Assert what each viewer's page lists, and that all else on it is what it would be now."""
        for name, page in self.pages.items():
            page.settle()
            assert (page.state, page.warnings) == ("live", [])
            assert [each.text for each in page.select(f"{selector} li")] == expected[name], name
            self.client.force_login(self.users[name])
            now = Document(self.client.get(PAGES[name]).content.decode())
            assert page.select_one("main").text == now.select_one("main").text

    def test_a_draft_is_for_staff_until_it_is_published(self):
        place = ("newsroom", "article", page("News").pk)
        new = {"title": "Budget leak", "slug": "leak"}
        self.admin("wagtailadmin_pages:add", *place, form="#page-edit-form", **new)
        self.see(
            "#articles",
            chief=["Budget leak (News, draft)", "Budget vote (News)", "Cup final (Sport)"],
            ann=["Cup final (Sport)", "Budget vote (News)"],
            bob=["Budget vote (News)"],
        )
        self.publish("Budget leak")
        self.see(
            "#articles",
            chief=["Budget leak (News)", "Budget vote (News)", "Cup final (Sport)"],
            ann=["Budget leak (News)", "Cup final (Sport)", "Budget vote (News)"],
            bob=["Budget leak (News)", "Budget vote (News)"],
        )

    def test_a_page_is_renamed_and_tagged(self):
        self.publish("Budget vote", title="Vote on the budget", tags="money")
        self.see(
            "#articles",
            chief=["Cup final (Sport)", "Vote on the budget (News) #money"],
            ann=["Cup final (Sport)", "Vote on the budget (News) #money"],
            bob=["Vote on the budget (News) #money"],
        )

    def test_a_page_is_moved(self):
        self.admin("wagtailadmin_pages:move_confirm", page("Budget vote").pk, page("Sport").pk)
        self.see(
            "#sections",
            chief=["Front page: 2", "News: 0", "Sport: 2"],
            ann=["Front page: 2", "News: 0", "Sport: 2"],
            bob=["Front page: 1", "News: 0", "Sport: 1"],
        )

    def test_a_section_is_renamed(self):
        self.publish("Sport", title="Games")
        self.see(
            "#articles",
            chief=["Budget vote (News)", "Cup final (Games)"],
            ann=["Cup final (Games)", "Budget vote (News)"],
            bob=["Budget vote (News)"],
        )

    def test_a_section_is_unpublished_with_its_pages(self):
        self.admin("wagtailadmin_pages:unpublish", page("Sport").pk, include_descendants="on")
        self.see(
            "#articles",
            chief=["Budget vote (News)", "Cup final (Sport, draft)"],
            ann=["Budget vote (News)"],
            bob=["Budget vote (News)"],
        )

    def test_a_section_is_deleted_with_its_pages(self):
        self.admin("wagtailadmin_pages:delete", page("Sport").pk)
        everyone = ["Budget vote (News)"]
        self.see("#articles", chief=everyone, ann=everyone, bob=everyone)

    def test_a_page_is_copied(self):
        copy = {"new_title": "Budget vote 2", "new_slug": "vote-2", "publish_copies": "on"}
        self.admin("wagtailadmin_pages:copy", page("Budget vote").pk, **copy)
        self.see(
            "#articles",
            chief=["Budget vote (News)", "Budget vote 2 (News)", "Cup final (Sport)"],
            ann=["Budget vote 2 (News)", "Cup final (Sport)", "Budget vote (News)"],
            bob=["Budget vote (News)", "Budget vote 2 (News)"],
        )

    def test_pages_are_unpublished_in_one_query(self):
        Article.objects.update(live=False)
        broadcast_saved(Article.objects.all())
        self.see("#articles", chief=["Budget vote (News, draft)", "Cup final (Sport, draft)"], ann=[], bob=[])

    def test_a_user_is_created_and_another_made_inactive(self):
        new = {"username": "dora", "email": "dora@example.com", "first_name": "Dora", "last_name": "Day"}
        self.admin("wagtailusers_users:add", **new, password1="horse-staple", password2="horse-staple")
        everyone = ["ann", "bob", "carl", "chief", "dora"]
        self.see("#people", chief=everyone, ann=everyone, bob=everyone)
        self.users["carl"].is_active = False
        self.users["carl"].save(update_fields=["is_active"])
        others = ["ann", "bob", "chief", "dora"]
        self.see("#people", chief=["ann", "bob", "carl (inactive)", "chief", "dora"], ann=others, bob=others)

    def test_users_join_a_group_that_is_deleted(self):
        group = Group.objects.create(name="editors")
        group.user_set.add(self.users["ann"], self.users["carl"])
        everyone = ["ann: editors", "bob", "carl: editors", "chief"]
        self.see("#people", chief=everyone, ann=everyone, bob=everyone)
        group.delete()
        everyone = ["ann", "bob", "carl", "chief"]
        self.see("#people", chief=everyone, ann=everyone, bob=everyone)

    def test_comments_show_the_name_of_their_author(self):
        page("News").add_child(instance=Article(title="Budget leak", live=False))
        for title, text in [("Budget vote", "At last."), ("Cup final", "Close!"), ("Budget leak", "Who leaked it?")]:
            Comment.objects.create(page=page(title), user=self.users["carl"], text=text, contentpath="title")
        self.users["carl"].username = "charles"
        self.users["carl"].save()
        self.see(
            "#comments",
            chief=["charles: Who leaked it?", "charles: Close!", "charles: At last."],
            ann=["charles: Close!", "charles: At last."],
            bob=["charles: At last."],
        )


class ReadersTests(NewsroomTestCase):
    def test_a_reader_sees_what_is_published_of_a_page(self):
        reader = self.live_page("/news/budget-vote/")
        self.edit("Budget vote", body="It is close.")
        reader.settle()
        assert reader.select_one("#page p").text == ""
        self.publish("Budget vote")
        reader.settle()
        assert reader.select_one("#page p").text == "It is close."

    def test_a_page_that_is_unpublished_loses_its_readers(self):
        vote = page("Budget vote").pk
        reader = self.live_page("/news/budget-vote/")
        self.admin("wagtailadmin_pages:unpublish", vote)
        reader.settle()
        assert reader.state == "closed"
        self.assertRefused(None, PageChannel, pk=vote, status=404)

    def test_a_section_becomes_private(self):
        vote = page("Budget vote").pk
        editors = Group.objects.create(name="editors")
        self.users["ann"].groups.add(editors)
        ann, bob = (self.live_page("/news/budget-vote/", user=self.users[name]) for name in ("ann", "bob"))
        rule = {"restriction_type": PageViewRestriction.GROUPS, "groups": str(editors.pk)}
        self.admin("wagtailadmin_pages:set_privacy", page("News").pk, **rule)
        ann.settle()
        bob.settle()
        assert (ann.state, bob.state) == ("live", "closed")
        self.assertMayListen(self.users["chief"], PageChannel, pk=vote)
        self.assertMayListen(self.users["bob"], PageChannel, pk=page("Cup final").pk)

    def test_a_shared_password_opens_the_page_and_its_stream(self):
        vote = page("Budget vote")
        kind = PageViewRestriction.PASSWORD
        restriction = PageViewRestriction.objects.create(page=vote, restriction_type=kind, password="sesame")
        self.assertRefused(None, PageChannel, pk=vote.pk, client=self.client)
        url = reverse("wagtailcore_authenticate_with_password", args=(restriction.pk, vote.pk))
        self.client.post(url, {"password": "sesame", "return_url": "/news/budget-vote/"})
        self.assertMayListen(None, PageChannel, pk=vote.pk, client=self.client)
