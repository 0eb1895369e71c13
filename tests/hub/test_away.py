"""Users whose tabs are all hidden are away, and not gone; and what presence says of a user."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from ds_broadcaster import Present
from ds_broadcaster.brokers import Command
from ds_broadcaster.hub.hidden import MOST
from ds_broadcaster.present import MAX_META_BYTES, UserPart, merged
from tests.fakes import KINDS, virtual_world
from tests.hub.test_rechecks import nothing_is_left

GRACE, AWAY = 2.0, 300.0

urlpatterns = []  # Of a project that does not include ours.


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


def tab(number):
    return f"tab-number-{number}"


def enter(world, user=1, number=1, channels="room", element="stream", **options):
    """Open the stream of an element in a tab."""
    query = f'datastar={{"broadcastTab":"{tab(number)}"}}&element={element}'.encode()
    return world.client(channels, user, query=query, **options)


def hide(world, client):
    """End a stream without a word, as the client does in a hidden tab."""
    client.vanish()
    world.settle()


def close(world, user=1, number=1):
    """Say that a page closes."""
    world.broadcast.opener.close_tab(user, tab(number))
    world.settle()


def told(world):
    """Return what was told of users: the end of each signal's name, and the user."""
    return [(name.removeprefix("user_"), user) for name, _, user in world.signals if name.startswith("user_")]


def present(world, channel="room"):
    """Return each user's number of tabs and whether they are away."""
    return {each.user_id: (each.tabs, each.away) for each in world.broadcast.get_presence(channel)}


# Away


@pytest.mark.parametrize("kind", KINDS)
def test_user_whose_tab_is_hidden_is_away_after_the_grace_then_gone(world, kind):
    client = enter(world, kind=kind)
    hide(world, client)
    assert present(world) == {1: (1, False)}
    world.advance(GRACE + 0.5)
    assert present(world) == {1: (1, True)}
    assert world.broadcast.get_users("room") == []
    assert told(world) == [("joined", 1), ("away", 1)]
    world.advance(AWAY - 1)
    assert present(world) == {1: (1, True)}
    world.advance(1)
    assert present(world) == {}
    assert told(world) == [("joined", 1), ("away", 1), ("left", 1)]
    nothing_is_left(world)


def test_user_who_shows_the_tab_is_back(world):
    hide(world, enter(world))
    world.advance(60)
    enter(world)
    world.advance(2 * AWAY)
    assert told(world) == [("joined", 1), ("away", 1), ("back", 1)]
    assert present(world) == {1: (1, False)}


def test_tab_that_is_shown_within_the_grace_was_never_away(world):
    hide(world, enter(world))
    world.advance(GRACE - 0.5)
    enter(world)
    world.advance(2 * AWAY)
    assert told(world) == [("joined", 1)]


def test_user_with_another_tab_open_is_not_away(world):
    hide(world, enter(world, number=1))
    enter(world, number=2)
    world.advance(60)
    assert present(world) == {1: (2, False)}
    world.advance(AWAY)
    assert present(world) == {1: (1, False)}
    assert told(world) == [("joined", 1)]


def test_user_is_away_with_the_last_tab_that_is_hidden(world):
    tabs = [enter(world, number=number) for number in (1, 2)]
    hide(world, tabs[0])
    world.advance(60)
    hide(world, tabs[1])
    world.advance(60)
    assert present(world) == {1: (2, True)}
    world.advance(AWAY - 100)
    assert present(world) == {1: (1, True)}
    world.advance(60)
    assert told(world) == [("joined", 1), ("away", 1), ("left", 1)]


def test_users_who_are_away_are_in_what_the_callback_gets(world):
    lists = []
    watcher = world.client(user_id=9, presence_callback=lambda channel, users: lists.append(users) or {"n": len(users)})
    hide(world, enter(world))
    world.advance(60)
    assert lists[-1] == [9, 1]
    assert watcher.end is None


@override_settings(DS_BROADCASTER_PRESENCE_AWAY=0)
def test_without_a_time_for_it_a_user_leaves_after_the_grace(world):
    hide(world, enter(world))
    world.advance(GRACE + 0.5)
    assert told(world) == [("joined", 1), ("left", 1)]


@override_settings(ROOT_URLCONF=__name__)
def test_without_our_urls_a_page_cannot_say_that_it_closes_and_no_user_is_away(world):
    hide(world, enter(world))
    world.advance(GRACE + 0.5)
    assert told(world) == [("joined", 1), ("left", 1)]


@override_settings(DS_BROADCASTER_PRESENCE_GRACE=0)
def test_without_a_grace_a_user_is_away_at_once(world):
    hide(world, enter(world))
    assert told(world) == [("joined", 1), ("away", 1)]
    close(world)
    assert told(world) == [("joined", 1), ("away", 1), ("left", 1)]


def test_client_without_an_element_leaves_as_before(world):
    hide(world, world.client(user_id=1))
    world.advance(GRACE + 0.5)
    assert told(world) == [("joined", 1), ("left", 1)]


# Closed


@pytest.mark.parametrize("is_word_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_user_whose_page_closes_leaves_after_the_grace(world, kind, is_word_first):
    """Whichever the server notices first: the page's word, or the end of its stream."""
    client = enter(world, kind=kind)
    if is_word_first:
        close(world)
    hide(world, client)
    if not is_word_first:
        close(world)
    assert world.broadcast.get_users("room") == []
    world.advance(GRACE + 0.5)
    assert told(world) == [("joined", 1), ("left", 1)]
    nothing_is_left(world)


def test_reload_is_no_leave(world):
    for _ in range(3):
        client = enter(world)
        close(world)
        hide(world, client)
        world.advance(GRACE - 0.5)
    enter(world, number=2)
    world.advance(60)
    assert told(world) == [("joined", 1)]


def test_page_that_closes_while_it_is_hidden_leaves_after_the_grace(world):
    hide(world, enter(world))
    world.advance(60)
    close(world)
    assert present(world) == {1: (1, True)}
    world.advance(GRACE + 0.5)
    assert told(world) == [("joined", 1), ("away", 1), ("left", 1)]


def test_tab_that_closes_leaves_the_others(world):
    tabs = [enter(world, number=number) for number in (1, 2)]
    for each in tabs:
        hide(world, each)
    world.advance(60)
    close(world, number=1)
    world.advance(60)
    assert present(world) == {1: (1, True)}
    assert told(world) == [("joined", 1), ("away", 1)]


@pytest.mark.parametrize("user, number", [(2, 1), (1, 2), (None, 1)])
def test_word_of_another_user_or_tab_changes_nothing(world, user, number):
    client = enter(world)
    close(world, user, number)
    assert client.end is None
    hide(world, client)
    world.advance(60)
    close(world, user, number)
    world.advance(60)
    assert told(world) == [("joined", 1), ("away", 1)]


def test_late_word_costs_a_page_that_came_back_a_reconnect(world):
    hide(world, enter(world))
    back = enter(world)
    close(world)
    assert back.end == "cut"
    world.advance(1)
    enter(world)
    world.advance(60)
    assert told(world) == [("joined", 1)]


# Ended by others


@pytest.mark.parametrize("verb", ["disconnect", "kill"])
def test_disconnect_and_kill_are_a_leave_at_once(world, verb):
    hide(world, enter(world, number=1))
    enter(world, number=2)
    hide(world, enter(world, 2, number=3))
    world.advance(60)
    before = len(told(world))
    if verb == "kill":
        world.broadcast.kill("room")
    else:
        for user in (2, 1):
            world.disconnect("room", user)
    world.settle()
    assert told(world)[before:] == [("left", 2), ("left", 1)]
    world.advance(60)
    assert present(world) == {}
    nothing_is_left(world)


def test_disconnect_from_one_channel_leaves_a_user_away_on_the_other(world):
    hide(world, enter(world, number=1, channels=["room", "hall"]))
    enter(world, number=2, channels=["room", "hall"])
    world.disconnect("room", 1)
    world.settle()
    assert (present(world), present(world, "hall")) == ({}, {1: (1, True)})


@pytest.mark.parametrize(
    "command, is_gone",
    [
        (Command("recheck", 1), True),
        (Command("recheck", 2), False),
        (Command("recheck"), False),
        (Command("review", 1), False),
    ],
)
def test_user_who_may_not_be_allowed_any_more_is_not_away(world, command, is_gone):
    """A hidden tab has no stream to ask about: after a logout, its user is gone."""
    hide(world, enter(world))
    world.client(user_id=3)
    world.advance(60)
    world.broker.command("room", command)
    world.settle()
    assert (1 in present(world)) is not is_gone


def test_streams_that_end_with_the_server_leave_no_tab(world):
    enter(world)
    world.hub.shutdown()
    world.advance(60)
    assert ("away", 1) not in told(world)


# Bounds


def test_user_has_no_more_hidden_tabs_than_the_most(world):
    with override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=None):
        for number in range(MOST + 10):
            hide(world, enter(world, number=number))
    assert present(world) == {1: (MOST, False)}
    world.advance(2 * AWAY)
    nothing_is_left(world)


def test_tab_with_two_elements_counts_once(world):
    streams = [enter(world, element=element) for element in ("one", "two")]
    assert present(world) == {1: (1, False)}
    for each in streams:
        hide(world, each)
    world.advance(60)
    assert present(world) == {1: (1, True)}
    enter(world, element="one")
    assert present(world) == {1: (1, False)}


def test_each_tab_has_its_time_from_the_last_of_its_streams(world):
    streams = [enter(world, element=element) for element in ("one", "two")]
    other = enter(world, 2, number=2)
    for each in (streams[0], other, streams[1]):
        hide(world, each)
        world.advance(10)
    world.advance(AWAY + GRACE - 20 + 0.5)
    assert present(world) == {1: (1, True)}
    world.advance(10)
    assert present(world) == {}


# What presence says


def test_record_says_since_when_and_outlives_a_tab(world):
    before = datetime.now(UTC)
    tabs = [enter(world, number=number) for number in (1, 2)]
    [one] = world.broadcast.get_presence("room")
    assert before - timedelta(milliseconds=1) <= one.since <= datetime.now(UTC)
    close(world, number=1)
    hide(world, tabs[0])
    world.advance(60)
    [later] = world.broadcast.get_presence("room")
    assert later == Present(1, one.since, 1, False, {})


def test_connections_that_name_no_tab_count_each(world):
    for _ in range(2):
        world.client(user_id=1)
    world.client()
    assert present(world) == {1: (2, False)}


def test_metadata_is_the_users_with_the_newest_connection_last(world):
    first = enter(world, number=1, presence_meta={"page": 1, "device": "phone"})
    enter(world, number=2, presence_meta=lambda request: {"page": 2})
    enter(world, number=3)
    [one] = world.broadcast.get_presence("room")
    assert list(one.meta.items()) == [("device", "phone"), ("page", 2)]
    hide(world, first)
    [one] = world.broadcast.get_presence("room")
    assert one.meta == {"device": "phone", "page": 2}
    close(world, number=1)
    [one] = world.broadcast.get_presence("room")
    assert one.meta == {"page": 2}


@pytest.mark.parametrize("element", ["stream", ""])
def test_metadata_stays_while_a_page_is_reloaded(world, element):
    client = enter(world, element=element, presence_meta={"name": "ann"})
    hide(world, client)
    close(world)
    [one] = world.broadcast.get_presence("room")
    assert one.meta == {"name": "ann"}
    enter(world, element=element)
    assert world.broadcast.get_presence("room")[0].meta == {}


@pytest.mark.parametrize(
    "meta, error, said",
    [
        ("page", TypeError, "presence_meta must be a function"),
        (lambda request: "page", TypeError, "must be a small dict of JSON values"),
        ({1: 2}, TypeError, "strings as names"),
        ({"a": object()}, TypeError, "JSON"),
        ({"a": float("nan")}, TypeError, "JSON"),
        (
            {"a": "x" * MAX_META_BYTES},
            ValueError,
            f"{MAX_META_BYTES + 8} bytes of JSON, and {MAX_META_BYTES} are the most",
        ),
    ],
)
def test_metadata_that_is_none_is_refused(world, meta, error, said):
    client = enter(world, presence_meta=meta)
    with pytest.raises(error, match=said):
        client.task.result()


def test_metadata_may_be_empty_or_as_large_as_it_may_be(world):
    for number, meta in enumerate([None, {}, {"a": "x" * (MAX_META_BYTES - 8)}]):
        assert enter(world, number, number, presence_meta=meta).end is None


# Several processes


def test_parts_of_a_user_make_one_record():
    parts = [
        UserPart(1, 20.0, True, (), ("a", "b"), 0, {"page": (5.0, "old"), "device": (5.0, "phone")}),
        UserPart(2, 0.0, False, (), (), 0),
        UserPart(1, 10.0, False, ("a",), (), 2, {"page": (6.0, "new")}),
    ]
    one, two = merged(parts)
    # The tab that is hidden in the first process has returned to the other.
    assert one == Present(1, datetime.fromtimestamp(10, UTC), 4, False, {"device": "phone", "page": "new"})
    assert (two.user_id, two.tabs, two.away) == (2, 1, False)
    assert [each.away for each in merged([parts[0]])] == [True]
