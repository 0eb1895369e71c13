"""The trial on apps of others: everyday steps in Wagtail and django.contrib.auth, and three viewers of them."""

from typing import NamedTuple

import pytest

from tests.harness import Server, expect
from tests.harness.requirements import require_wagtail
from tests.live import until

# Each viewer's page: what it lists and in which order, and whether a view renders it anew or the page fetches itself.
# Chief is staff, and sees drafts and inactive users.
VIEWERS = {
    "chief": "/newsroom/?follows=view&order=title",
    "ann": "/newsroom/?follows=view&order=-pk",
    "bob": "/newsroom/?follows=itself&order=title&word=budget",
}


class Step(NamedTuple):
    """A function of `steps.py`, and a part of the page as each viewer must see it after that."""

    does: str
    selector: str
    chief: list[str]
    ann: list[str]
    bob: list[str]


STEPS = [
    Step(
        "a_draft_is_written",
        "#articles li",
        chief=["Budget leak (News, draft)", "Budget vote (News)", "Cup final (Sport)"],
        ann=["Cup final (Sport)", "Budget vote (News)"],
        bob=["Budget vote (News)"],
    ),
    Step(
        "a_draft_is_published",
        "#articles li",
        chief=["Budget leak (News)", "Budget vote (News)", "Cup final (Sport)"],
        ann=["Budget leak (News)", "Cup final (Sport)", "Budget vote (News)"],
        bob=["Budget leak (News)", "Budget vote (News)"],
    ),
    Step(
        "a_page_is_renamed",
        "#articles li",
        chief=["Budget vote (News)", "Cup final (Sport)", "Leak of the budget (News)"],
        ann=["Leak of the budget (News)", "Cup final (Sport)", "Budget vote (News)"],
        bob=["Budget vote (News)", "Leak of the budget (News)"],
    ),
    Step(
        "a_page_is_moved",
        "#sections li",
        chief=["News: 1", "Sport: 2"],
        ann=["News: 1", "Sport: 2"],
        bob=["News: 1", "Sport: 1"],
    ),
    Step(
        "a_page_is_unpublished",
        "#articles li",
        chief=["Budget vote (News)", "Cup final (Sport)", "Leak of the budget (Sport, draft)"],
        ann=["Cup final (Sport)", "Budget vote (News)"],
        bob=["Budget vote (News)"],
    ),
    Step(
        "a_section_is_renamed",
        "#articles li",
        chief=["Budget vote (News)", "Cup final (Games)", "Leak of the budget (Games, draft)"],
        ann=["Cup final (Games)", "Budget vote (News)"],
        bob=["Budget vote (News)"],
    ),
    Step(
        "a_user_is_created",
        "#people li",
        chief=["ann", "bob", "carl", "chief", "dora"],
        ann=["ann", "bob", "carl", "chief", "dora"],
        bob=["ann", "bob", "carl", "chief", "dora"],
    ),
    Step(
        "two_users_join_a_group",
        "#people li",
        chief=["ann", "bob", "carl: editors", "chief", "dora: editors"],
        ann=["ann", "bob", "carl: editors", "chief", "dora: editors"],
        bob=["ann", "bob", "carl: editors", "chief", "dora: editors"],
    ),
    Step(
        "comments_are_written",
        "#comments li",
        chief=["dora: Who leaked it?", "carl: Close!", "dora: At last."],
        ann=["carl: Close!", "dora: At last."],
        bob=["dora: At last."],
    ),
    Step(
        "an_author_is_renamed",
        "#comments li",
        chief=["theodora: Who leaked it?", "carl: Close!", "theodora: At last."],
        ann=["carl: Close!", "theodora: At last."],
        bob=["theodora: At last."],
    ),
    Step(
        "a_user_is_made_inactive",
        "#people li",
        chief=["ann", "bob", "carl: editors (inactive)", "chief", "theodora: editors"],
        ann=["ann", "bob", "chief", "theodora: editors"],
        bob=["ann", "bob", "chief", "theodora: editors"],
    ),
    Step(
        "a_group_is_deleted",
        "#people li",
        chief=["ann", "bob", "carl (inactive)", "chief", "theodora"],
        ann=["ann", "bob", "chief", "theodora"],
        bob=["ann", "bob", "chief", "theodora"],
    ),
    Step(
        "a_section_is_deleted_with_its_pages",
        "#counters",
        chief=["2 articles, 1 comment, 5 people"],
        ann=["2 articles, 1 comment, 4 people"],
        bob=["2 articles, 1 comment, 4 people"],
    ),
    Step(
        "all_pages_are_unpublished_in_one_query",
        "#articles li",
        chief=["Budget passed (News, draft)", "Budget vote (News, draft)"],
        ann=[],
        bob=[],
    ),
]


@pytest.fixture
def server():
    require_wagtail()
    settings = {
        "DS_BROADCASTER_DATASTAR_URL": "/client/datastar.js",
        "DS_BROADCASTER_REFRESH_INTERVAL": 0.05,
        "DS_BROADCASTER_REFRESH_SPREAD": 0.05,
    }
    with Server(settings=settings, env={"DJANGO_SETTINGS_MODULE": "tests.trial.settings"}) as server:
        server.get(f"/begin/{','.join([*VIEWERS, 'carl'])}/")
        yield server


@pytest.mark.servers
def test_three_viewers_end_each_step_with_their_own_right_page(server, chromium):
    viewers = {name: server.login(name) for name in VIEWERS}
    tabs = {name: chromium.tab(viewer) for name, viewer in viewers.items()}
    for name, tab in tabs.items():
        tab.goto(VIEWERS[name])
        expect(tab.locator("#state")).to_have_text("live")
    for step in STEPS:
        assert server.get(f"/do/{step.does}/").text == "done"
        for name, tab in tabs.items():
            expect(tab.locator(step.selector)).to_have_text(getattr(step, name))
            # And all else is what the page would be now.
            until(lambda tab=tab, name=name: main_of(tab.content()) == main_of(viewers[name].get(VIEWERS[name]).text))
    assert [tab.errors for tab in tabs.values()] == [[], [], []]


def main_of(page):
    return page[page.index("<main") : page.index("</main>")]
