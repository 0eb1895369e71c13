"""Presence over real sockets: who is told what when people come, reload, and go."""

import json
import time
from itertools import pairwise

import pytest
from django.contrib.auth import get_user_model

from tests.harness import each_mode
from tests.live import begun, each_mode_of, until

# Short times, so that the tests need not wait long; far enough apart that a busy machine does not mix them up.
GRACE, INTERVAL = 0.8, 0.1
live = each_mode_of(settings={"DS_BROADCASTER_PRESENCE_GRACE": GRACE, "DS_BROADCASTER_PRESENCE_INTERVAL": INTERVAL})

needs_orm = pytest.mark.django_db(transaction=True)


def enter(server, channel, pk, word="hello"):
    """Open a stream as a user whose presence callback tells everything it was given."""
    client = server.visitor().connect(path=f"/presence/{pk}/{channel}/{word}/")
    begun(client)
    return client


def reports(client):
    """Return what the presence callback said, each time this client was told."""
    return [json.loads(event.signals) for event in client.events if event.signals]


def online(client):
    """Return the users online, each time this client was told."""
    return [report["online"] for report in reports(client)]


def wait_online(client, *users, timeout=5):
    client.wait_for(lambda: online(client)[-1:] == [list(users)], timeout, f"presence {users}")


def leaves(client):
    """Return the users who were online in one report and not in the next."""
    told = online(client)
    return [set(before) - set(now) for before, now in pairwise(told) if set(before) - set(now)]


# What is rendered


@needs_orm
def test_html_is_patched_in(live, channel):
    ann, bob = live.login("ann"), live.login("bob")
    first = ann.connect(channel, presence="html")
    event = first.expect("<li>ann</li></ul>")
    assert (event.type, event.elements) == (
        "datastar-patch-elements",
        f'<ul id="presence" data-channel="{channel}"><li>ann</li></ul>',
    )
    bob.connect(channel, presence="html")
    first.expect("<li>ann</li><li>bob</li>")


def test_signals_are_patched(live, channel):
    client = live.visitor().connect(path=f"/as/1/{channel}/?presence=signals")
    event = client.expect("online")
    assert (event.type, event.signals) == ("datastar-patch-signals", '{"online":1}')


@needs_orm
def test_both_are_patched_html_first(live, channel):
    client = live.login("ann").connect(channel, presence="both")
    client.expect("<li>ann</li>")
    client.expect('"online":1')
    assert [event.type for event in client.events] == ["datastar-patch-elements", "datastar-patch-signals"]


def test_without_a_callback_no_page_is_told(live, channel):
    first = live.visitor().connect(path=f"/as/1/{channel}/")
    second = live.visitor().connect(path=f"/as/2/{channel}/")
    begun(first, second)
    live.call("elements", channel, "<p id=a>1</p>")
    first.expect("<p id=a>1</p>")
    assert len(first.events) == 1


def test_the_callback_gets_the_channel_and_each_user_once_as_the_type_of_their_key(live, channel):
    clients = [enter(live, channel, pk) for pk in (5, 5, 3, 5)]
    wait_online(clients[0], 5, 3)
    assert reports(clients[0])[-1] == {"word": "hello", "channel": channel, "online": [5, 3], "broken": []}
    assert sorted(live.call("get_users", channel)) == [3, 5, 5, 5]


def test_anonymous_clients_are_told_and_not_listed(live, channel):
    stranger = live.connect(channel)
    enter(live, channel, 1)
    stranger.expect('"online":[1]')


def test_new_names_a_callback_for_those_who_connect_without_one(live, channel):
    live.get(f"/new/{channel}/")
    live.call("new", channel)
    first = live.visitor().connect(path=f"/as/1/{channel}/")
    first.expect('{"online":1}')
    live.visitor().connect(path=f"/as/2/{channel}/")
    first.expect('{"online":2}')


def test_what_new_named_is_forgotten_with_the_channel(live, channel):
    live.get(f"/new/{channel}/")
    first = live.visitor().connect(path=f"/as/1/{channel}/")
    first.expect('{"online":1}')
    live.call("kill", channel)
    first.wait_end()
    second = live.visitor().connect(path=f"/as/1/{channel}/")
    begun(second)
    third = live.visitor().connect(path=f"/as/2/{channel}/")
    begun(third)
    live.call("elements", channel, "<p id=a>the end</p>")
    second.expect("the end")
    assert len(second.events) == 1


def test_the_newest_callback_renders(live, channel):
    client = enter(live, channel, 1, "old")
    wait_online(client, 1)
    enter(live, channel, 2, "new")
    wait_online(client, 1, 2)
    assert [report["word"] for report in reports(client)] == ["old", "new"]


def test_each_channel_of_a_stream_has_its_own_presence(live, channel):
    names = [f"{channel}-a", f"{channel}-b"]
    alone = enter(live, names[0], 1)
    wait_online(alone, 1)
    both = live.visitor().connect(path=f"/presence/2/{','.join(names)}/x/")
    wait_online(alone, 1, 2)

    def told():
        return {report["channel"]: report["online"] for report in reports(both)}

    both.wait_for(lambda: told() == {names[0]: [1, 2], names[1]: [2]}, what="the presence of both channels")
    live.call("disconnect", names[0], 1)
    both.wait_for(lambda: told() == {names[0]: [2], names[1]: [2]}, what="the leave on one of them")


# Who comes


def test_who_joins_is_told_who_is_there(live, channel):
    first = enter(live, channel, 1)
    wait_online(first, 1)
    second = enter(live, channel, 2)
    wait_online(second, 1, 2)
    wait_online(first, 1, 2)


def test_another_tab_is_told_the_current_presence_and_changes_nothing_for_the_rest(live, channel):
    first = enter(live, channel, 1)
    wait_online(first, 1)
    tab = enter(live, channel, 1)
    wait_online(tab, 1)
    enter(live, channel, 2)
    wait_online(first, 1, 2)
    assert online(first) == [[1], [1, 2]]


def test_presence_moves_no_cursor(live, channel):
    cursor = live.call("cursor")
    first = enter(live, channel, 1)
    enter(live, channel, 2)
    wait_online(first, 1, 2)
    assert {event.id for event in first.events} == {cursor}
    assert live.call("cursor") == cursor


# Who goes


@each_mode
def test_a_reload_is_no_leave(server, channel):
    """The default grace is two seconds; a reload takes a moment."""
    stays = server.login("ann").connect(channel, presence="html")
    stays.expect("<li>ann</li></ul>")
    bob = server.login("bob")
    tab = bob.connect(channel, presence="html")
    stays.expect("<li>bob</li>")
    for end in ("close", "reset"):
        getattr(tab, end)()
        until(lambda: len(server.call("get_users", channel)) == 1)
        tab = bob.connect(channel, presence="html")
        tab.expect("<li>ann</li><li>bob</li>")
    server.call("elements", channel, "<p id=a>the end</p>")
    stays.expect("the end")
    told = [event.elements.count("<li>") for event in stays.events if "presence" in event.data]
    assert told == [1, 2]


def test_the_grace_ends(live, channel):
    stays, goes = enter(live, channel, 1), enter(live, channel, 2)
    wait_online(stays, 1, 2)
    goes.close()
    left = time.monotonic()
    until(lambda: live.call("get_users", channel) == [1], timeout=0.7)
    assert online(stays)[-1] == [1, 2]
    wait_online(stays, 1)
    assert GRACE - 0.1 < time.monotonic() - left < GRACE + 1


def test_the_grace_begins_with_the_last_tab(live, channel):
    stays = enter(live, channel, 1)
    tabs = [enter(live, channel, 2) for _ in range(2)]
    wait_online(stays, 1, 2)
    tabs[0].close()
    until(lambda: len(live.call("get_users", channel)) == 2)
    tabs[1].close()
    left = time.monotonic()
    wait_online(stays, 1)
    assert time.monotonic() - left > GRACE - 0.1
    assert leaves(stays) == [{2}]


def test_a_channel_that_is_empty_but_for_graces_is_not_listed(live, channel):
    client = enter(live, channel, 1)
    wait_online(client, 1)
    client.close()
    until(lambda: channel not in live.call("get_channels"), timeout=0.7)
    back = enter(live, channel, 2)
    wait_online(back, 1, 2)
    wait_online(back, 2)


def test_disconnect_is_a_leave_at_once(live, channel):
    stays, goes = enter(live, channel, 1), enter(live, channel, 2)
    wait_online(stays, 1, 2)
    begin = time.monotonic()
    live.call("disconnect", channel, 2)
    assert goes.wait_end() == "clean"
    wait_online(stays, 1)
    assert time.monotonic() - begin < GRACE - 0.2


def test_disconnect_ends_a_grace(live, channel):
    stays, goes = enter(live, channel, 1), enter(live, channel, 2)
    wait_online(stays, 1, 2)
    goes.close()
    begin = time.monotonic()
    until(lambda: live.call("get_users", channel) == [1], timeout=0.7)
    live.call("disconnect", channel, 2)
    wait_online(stays, 1)
    assert time.monotonic() - begin < GRACE - 0.1


def test_kill_leaves_no_user(live, channel):
    clients = [enter(live, channel, pk) for pk in (1, 2)]
    wait_online(clients[0], 1, 2)
    clients[1].close()
    live.call("kill", channel)
    clients[0].wait_end()
    back = enter(live, channel, 3)
    wait_online(back, 3)
    assert online(back) == [[3]]


# Errors


@pytest.mark.parametrize("word,said", [("error", "this presence callback fails"), ("odd", "not int")])
def test_an_error_in_the_callback_is_logged_with_the_channel_and_ends_no_stream(live, channel, word, said):
    client = enter(live, channel, 1, word)
    log = live.wait_for_log(f"The presence callback of channel '{channel}' failed.")
    assert said in log
    live.call("elements", channel, "<p id=a>still here</p>")
    client.expect("still here")
    # The next one who comes brings a callback that works.
    enter(live, channel, 2)
    wait_online(client, 1, 2)


@needs_orm
def test_the_callbacks_database_connection_is_closed(live, channel):
    before = live.get("/held/").json()["databases"]
    ann = live.login("ann").connect(channel, presence="html")
    ann.expect("<li>ann</li>")
    assert before == 0
    until(lambda: live.get("/held/").json()["databases"] == 0)
    assert get_user_model().objects.filter(username="ann").exists()
