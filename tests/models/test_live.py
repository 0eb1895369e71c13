"""Saves in the views of a real server reach open pages."""

import json

import pytest

from tests.chat.models import Message
from tests.harness import expect
from tests.live import begun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(start_server, settings):
    middleware = [*settings.MIDDLEWARE, "ds_broadcaster.middleware.BroadcasterMiddleware"]
    return start_server(settings={"ROOT_URLCONF": "tests.chat.site", "MIDDLEWARE": middleware})


def test_pages_follow_the_saves_of_views(site, room):
    visitor = site.visitor()
    client = visitor.connect(f"room-{room.pk}")
    begun(client)
    visitor.post("/post/", {"room": room.pk, "texts": ["undone"], "undo": True})
    first, second = visitor.post("/post/", {"room": room.pk, "texts": ["one", "two"]}).json()
    visitor.post(f"/edit/{first}/", {"text": "<b>uno</b>"})
    visitor.post(f"/edit/{second}/", {})
    client.wait_for(lambda: len(client.events) >= 4, what="four events")
    assert [event.args.get("mode", "outer") for event in client.events] == ["append", "append", "outer", "remove"]
    assert client.events[0].args["selector"] == f"#messages:not(:has(#chat-message-{first}))"
    assert "&lt;b&gt;uno" in client.events[2].elements
    assert client.events[3].args["selector"] == f"#chat-message-{second}"
    assert [message.text for message in Message.objects.all()] == ["<b>uno</b>"]


def test_page_that_was_away_gets_the_saves_it_missed(site, room):
    visitor = site.visitor()
    client = visitor.connect(f"room-{room.pk}")
    begun(client)
    cursor = client.last_event_id
    client.close()
    visitor.post("/post/", {"room": room.pk, "texts": [str(number) for number in range(50)]})
    client = visitor.connect(f"room-{room.pk}", last_event_id=cursor)
    client.wait_for(lambda: len(client.events) >= 50, what="fifty events")
    assert [f">{number} 0" in event.elements for number, event in enumerate(client.events)] == [True] * 50


def test_saving_tab_is_left_out(site, room):
    visitor = site.visitor()
    mine, theirs = [
        visitor.connect(f"room-{room.pk}", datastar=json.dumps({"broadcastTab": f"{name}-12345678"}))
        for name in ("mine", "theirs")
    ]
    begun(mine, theirs)
    visitor.post("/post/", {"room": room.pk, "texts": ["mine"], "broadcastTab": "mine-12345678"})
    visitor.post("/post/", {"room": room.pk, "texts": ["theirs"], "broadcastTab": "theirs-12345678"})
    visitor.post("/post/", {"room": room.pk, "texts": ["all"]})
    for client in (mine, theirs):
        client.wait_for(lambda client=client: len(client.events) >= 2, what="two events")
    mine.expect(">all")
    assert [">mine" in mine.events[0].elements, ">theirs" in theirs.events[0].elements] == [False, False]


def test_streams_are_refreshed_and_render_for_their_audience(site):
    visitor = site.visitor()
    refreshed, named = visitor.connect("labels", snapshot="all labels"), visitor.connect("names")
    begun(refreshed, named)
    pk = visitor.post("/label/", {"name": "red"}).json()["pk"]
    for client in (refreshed, named):
        client.wait_for(lambda client=client: client.events, what="an event")
    assert refreshed.events[0].elements == '<div id="snapshot" data-channel="labels">all labels</div>'
    assert named.events[0].elements.strip() == f'<i id="chat-label-{pk}">red for None</i>'


def test_lists_in_the_browser_are_limited_and_show_what_belongs_there(chromium, site):
    visitor = site.visitor()

    def save(pk=None, **values):
        return visitor.post(f"/save/{pk}/" if pk else "/save/", values).json()["pk"]

    here, there = chromium.tab(visitor), chromium.tab(visitor)
    here.goto("/page/notes-here/?cursor=1")
    there.goto("/page/notes-there/?cursor=1")
    shown = [tab.locator("#target > b") for tab in (here, there)]
    keys = [save(text=text, extra="here") for text in "abcde"]
    expect(shown[0]).to_have_text(["c", "d", "e"])
    save(keys[3], text="hidden")
    expect(shown[0]).to_have_text(["c", "e"])
    save(keys[3], text="back")
    expect(shown[0]).to_have_text(["c", "e", "back"])
    save(keys[2], extra="there", text="moved")
    expect(shown[0]).to_have_text(["e", "back"])
    expect(shown[1]).to_have_text(["moved"])
    assert here.errors == there.errors == []
