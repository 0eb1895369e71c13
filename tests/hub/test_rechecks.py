"""Re-checks, with a loop that has its own clock and an application that answers as it is told to."""

import asyncio
import gc
import logging
import weakref
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db.utils import OperationalError
from django.http import HttpResponse
from django.test import override_settings

from ds_broadcaster.brokers import EVERYWHERE, Command
from ds_broadcaster.hub.connections import Connection
from ds_broadcaster.hub.rechecks import (
    JITTER,
    LATE,
    LATE_OF_USER,
    LATE_OF_VISITORS,
    LONGEST_PATIENCE,
    LONGEST_PAUSE,
    PARALLEL,
    PARALLEL_BY_CLOCK,
    PATIENCE,
    SECOND_LOOK,
    SHORTEST,
    UNANSWERED,
    URGENT_PAUSE,
    Rechecks,
)
from ds_broadcaster.streams.replayed_requests import OriginalRequest, note_failure
from ds_broadcaster.streams.scope import RECHECK_KEY
from tests.fakes import KINDS, FakeClient, VirtualLoop, make_request, make_scope, virtual_world

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world():
    with virtual_world() as world:
        yield world


class Site:
    """An application that is asked again. It grants what it granted before, or answers with `answer(scope)`."""

    def __init__(self, world):
        self.world = world
        self.asked = []
        self.running = self.most = 0
        self.seconds = 0
        self.answer = None
        self.clients = {}

    def client(self, channels="room", user_id=None, **options):
        """Open a stream whose request is this site's."""
        before = set(self.world.connections)
        client = self.world.client(channels, user_id, **options)
        (connection,) = set(self.world.connections) - before
        connection.request = OriginalRequest(self, client.scope | {"number": len(self.clients)})
        self.clients[len(self.clients)] = client
        return client

    def times(self, client):
        return sum(self.clients[number] is client for number in self.asked)

    async def __call__(self, scope, receive, send):
        assert scope[RECHECK_KEY] == []
        client = self.clients[scope["number"]]
        self.asked.append(scope["number"])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            assert (await receive())["more_body"] is False
            if self.seconds:
                await asyncio.sleep(self.seconds)
            response = self.answer(scope) if self.answer is not None else self.grant(scope, client)
            headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.running -= 1

    def grant(self, scope, client, channels=None, user_id=None):
        request = make_request(scope, user_id or client.user_id)
        return self.world.broadcast.connect(channels or client.channels, request)


@pytest.fixture
def site(world):
    return Site(world)


def refuse(scope):
    return HttpResponse(status=403)


def recheck(world, channel=EVERYWHERE, user_id=None):
    """broadcast.recheck() without a user model's say."""
    world.broker.command(channel, Command("recheck", user_id))


def review(world, user_id):
    """What a save of the user asks for."""
    world.broker.command(EVERYWHERE, Command("review", user_id))


def nothing_is_left(world):
    assert world.hub.is_idle()
    assert not asyncio.all_tasks(world.loop)
    assert not [each for each in world.loop._scheduled if not each.cancelled()]


# What an answer means


@each_kind
@pytest.mark.parametrize("status", [204, 302, 400, 401, 403, 404, 410, 200])
def test_stream_that_is_not_granted_now_ends_and_its_client_returns(world, site, kind, status):
    client = site.client(user_id=1, kind=kind)
    other = site.client(user_id=2, kind=kind)
    site.answer = lambda scope: HttpResponse(status=status)
    recheck(world, user_id=1)
    world.settle()
    assert client.end == "cut"
    assert other.end is None
    assert world.broadcast.get_users("room") == [2]


@each_kind
def test_refused_stream_that_is_slow_gets_nothing_more(world, site, kind):
    """What was sent after the removal waits in the log while the client does not read."""
    client = site.client(user_id=1, kind=kind)
    client.stall()
    world.broadcast("room", "<p id=before>")
    world.settle()
    site.answer = refuse
    world.broadcast("room", "<p id=after>")
    recheck(world, user_id=1)
    world.settle()
    client.drain()
    world.settle()
    assert client.end == "cut"
    assert "<p id=after>" not in client.texts


@each_kind
def test_stream_of_our_own_element_ends_cleanly_for_it_returns_all_the_same(world, site, kind):
    client = site.client(user_id=1, kind=kind, query=b"element=stream")
    site.answer = refuse
    recheck(world)
    world.settle()
    assert client.end == "clean"
    assert not any("remove" in event.data for event in client.events)


@each_kind
def test_stream_that_is_granted_now_stays_and_notices_nothing(world, site, kind):
    client = site.client(["room", "hall"], 1, kind=kind)
    before = list(client.frames)
    recheck(world)
    world.advance(5)
    assert site.times(client) == 2
    assert client.frames == before
    assert world.broadcast.get_users("room") == [1]
    assert [each[0] for each in world.signals].count("user_joined") == 2
    assert [each[0] for each in world.signals].count("connection_opened") == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_server_in_trouble_has_not_said_no(world, site, status):
    client = site.client(user_id=1)
    site.answer = lambda scope: HttpResponse(status=status)
    recheck(world)
    world.advance(UNANSWERED - LONGEST_PAUSE)
    assert client.end is None
    # It is asked until it answers, less and less often.
    assert 8 <= site.times(client) <= 14
    site.answer = refuse
    world.advance(LONGEST_PAUSE)
    assert client.end == "cut"


def test_answer_that_never_says_anything_is_no_way_to_stay(world, site):
    """A client may keep its own rate limit exhausted."""
    client, other = site.client(user_id=1), site.client(user_id=2)
    site.answer = lambda scope: HttpResponse(status=429)
    recheck(world, user_id=1)
    world.advance(UNANSWERED + 2 * LONGEST_PAUSE)
    assert client.end == "cut"
    assert other.end is None  # Nothing was said about it.


@each_kind
def test_stream_opens_though_commands_never_end(world, site, kind):
    """A room in which members come and go all the time must not keep others out."""
    asked = []

    async def look(connection):
        asked.append(connection)
        await asyncio.sleep(1)
        return True

    world.client(user_id=9)
    world.hub._rechecks._still_allowed = look
    client = FakeClient(
        world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: recheck(world, EVERYWHERE, 1)
    )
    for _ in range(20):
        world.advance(0.4)
        recheck(world, "room")
    assert client.frames
    assert client.end is None


@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100)
def test_server_that_has_recovered_is_asked_no_more(world, site):
    client = site.client(user_id=1)
    site.answer = lambda scope: HttpResponse(status=503)
    recheck(world)
    world.advance(5)
    site.answer = None
    world.advance(LONGEST_PAUSE)
    asked = site.times(client)
    world.advance(60)
    assert site.times(client) == asked
    assert client.end is None


class Away:
    """A request whose user the database was to tell, which is away."""

    @property
    def user(self):
        raise OperationalError("away")


@pytest.mark.parametrize(
    "request_of, end",
    [
        (lambda: SimpleNamespace(user=SimpleNamespace(pk=1, is_authenticated=True)), None),
        (lambda: SimpleNamespace(user=SimpleNamespace(pk=2, is_authenticated=True)), "cut"),
        (lambda: SimpleNamespace(user=AnonymousUser()), "cut"),
        (Away, None),
    ],
)
def test_trouble_of_the_server_keeps_the_stream_of_a_user_who_is_still_logged_in(world, site, request_of, end):
    client = site.client(user_id=1)

    def fail(scope):
        request = request_of()
        request.scope = scope
        try:
            raise OperationalError("away")
        except OperationalError:
            note_failure(request=request)
        return HttpResponse(status=500)

    site.answer = fail
    recheck(world)
    world.settle()
    assert client.end == end


def test_exception_keeps_the_stream_and_is_logged(world, site, caplog):
    client = site.client(user_id=1)

    def fail(scope):
        raise RuntimeError("no database")

    site.answer = fail
    recheck(world)
    world.settle()
    assert client.end is None
    (record,) = caplog.records
    assert "the stream stays" in record.getMessage()
    assert "no database" in str(record.exc_info[1])


def test_late_answer_keeps_the_stream_is_logged_and_counts_when_it_comes(world, site, caplog):
    client = site.client(user_id=1)
    site.answer = refuse
    site.seconds = PATIENCE + 10
    recheck(world, user_id=1)
    world.advance(PATIENCE - 1)
    assert not caplog.records
    world.advance(2)
    assert client.end is None
    assert "takes more than" in caplog.records[0].getMessage()
    world.advance(10)
    assert client.end == "cut"


@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100)
def test_those_that_hang_by_the_clock_are_few_and_the_others_stay(world, site):
    clients = [site.client(user_id=number % 20) for number in range(100)]
    site.seconds = 10_000
    world.advance(400)
    assert LATE <= site.running < LATE + PARALLEL
    assert sum(client.end is not None for client in clients) == site.running


def test_those_that_hang_have_no_place_and_the_next_is_asked(world, site):
    hanging = [site.client(user_id=number) for number in range(PARALLEL)]
    site.seconds = 10_000
    recheck(world)
    world.settle()
    removed = site.client(user_id=9)
    site.seconds, site.answer = 0, refuse
    recheck(world, user_id=9)
    world.advance(PATIENCE - 1)
    assert removed.end is None
    world.advance(1)
    assert removed.end == "cut"
    assert not any(client.end for client in hanging)


def test_connection_whose_check_hangs_is_not_asked_again_meanwhile(world, site):
    client = site.client(user_id=1, recheck_interval=1)
    site.seconds = 25
    world.advance(24)
    assert site.times(client) == 1
    world.advance(5)
    assert client.end is None
    assert site.times(client) == 2


@pytest.mark.parametrize("interval", [1, None])
def test_check_that_hangs_for_long_is_no_way_to_stay(world, site, interval):
    client = site.client(user_id=1, recheck_interval=interval)
    site.seconds = 10_000
    if interval is None:
        recheck(world, user_id=1)
    world.advance(LONGEST_PATIENCE - 1)
    assert client.end is None
    world.advance(3)
    assert client.end == "cut"


def test_second_command_ends_a_stream_whose_check_hangs(world, site):
    """An answer that never comes must not be a way to stay."""
    client = site.client(user_id=1)
    site.seconds = 10_000
    recheck(world, user_id=1)
    world.advance(PATIENCE)
    assert client.end is None
    recheck(world, user_id=1)
    world.settle()
    assert client.end == "cut"


def test_commands_end_streams_that_nothing_can_ask_about(world, site, caplog):
    """With too many checks that hang, a client has to return and ask for itself."""
    caplog.set_level(logging.ERROR)
    hanging = [site.client(user_id=number) for number in range(LATE)]
    others = [site.client(user_id=100 + number) for number in range(3)]
    site.seconds = 10_000
    for client in hanging:
        recheck(world, user_id=client.user_id)
    world.advance(LATE * PATIENCE)
    assert site.running == LATE
    recheck(world, user_id=100)
    recheck(world, user_id=101)
    world.settle()
    assert [client.end for client in others] == ["cut", "cut", None]
    (record,) = caplog.records
    assert "have not been answered" in record.getMessage()


def test_one_user_whose_checks_hang_takes_no_places_from_others(world, site):
    stubborn = [site.client(user_id=1) for _ in range(50)]
    site.seconds = 10_000
    recheck(world, user_id=1)
    world.advance(PATIENCE + 1)
    assert site.running <= PARALLEL + LATE_OF_USER  # Those that were asked at once.
    assert sum(client.end == "cut" for client in stubborn) == 50 - site.running


def test_two_visitors_whose_checks_hang_do_not_end_the_streams_of_all(world, site):
    """Nothing tells visitors apart who are not logged in."""
    for _ in range(2):
        site.client()
    site.seconds = 10_000
    recheck(world)
    world.advance(PATIENCE)
    site.seconds = 0
    others = [site.client("hall") for _ in range(5)]
    recheck(world, "hall")
    world.advance(5)
    assert not any(client.end for client in others)
    assert {site.times(client) for client in others} == {2}
    assert LATE_OF_VISITORS < LATE


def test_command_does_not_wait_for_what_the_clock_asks(world, site):
    removed = site.client(user_id=1)
    for number in range(100):
        site.client(user_id=100 + number, recheck_interval=2)
    site.seconds = 1
    world.advance(10)
    assert site.running == PARALLEL_BY_CLOCK
    site.seconds, site.answer = 0, refuse
    recheck(world, user_id=1)
    world.settle()
    assert removed.end == "cut"


@override_settings(DS_BROADCASTER_MAX_CONNECTIONS_PER_USER=None)
def test_streams_of_one_user_do_not_delay_another(world, site):
    for _ in range(150):
        site.client(user_id=1)
    removed = site.client(user_id=2)
    site.seconds = 1
    recheck(world, user_id=1)
    recheck(world, user_id=2)
    world.advance(1)
    assert site.times(removed) == 1


def test_connection_is_asked_again_after_a_pause_that_grows(world, site):
    """What a re-check does may be the reason for the next: a task that it starts, for example."""
    client = site.client(user_id=1)
    site.answer = lambda scope: (review(world, user_id=1), site.grant(scope, client))[1]
    review(world, user_id=1)
    world.advance(60)
    assert 8 <= site.times(client) <= 14
    assert client.end is None
    before = site.times(client)
    world.advance(60)
    assert site.times(client) - before <= 60 / LONGEST_PAUSE + 1


@pytest.mark.parametrize("seconds", [0.25, 0.5, 2, 5])
def test_task_that_saves_the_user_a_while_later_is_no_endless_reason_either(world, site, seconds):
    client = site.client(user_id=1)

    def save_later(scope):
        world.loop.call_later(seconds, review, world, 1)
        return site.grant(scope, client)

    site.answer = save_later
    review(world, 1)
    world.advance(60)
    before = site.times(client)
    world.advance(60)
    assert site.times(client) - before <= 60 / LONGEST_PAUSE + 1


def test_logout_does_not_wait_for_the_pause_that_saves_have_caused(world, site):
    client = site.client(user_id=1)
    for _ in range(200):
        review(world, 1)
        world.advance(0.25)
    site.answer = refuse
    recheck(world, user_id=1)
    world.advance(URGENT_PAUSE)
    assert client.end == "cut"


def test_many_rechecks_of_a_connection_are_one_a_second(world, site):
    client = site.client(user_id=1)
    for _ in range(200):
        recheck(world, user_id=1)
        world.advance(0.05)
    assert site.times(client) <= 10 / URGENT_PAUSE + 5


def test_pause_is_short_again_after_a_while(world, site):
    client = site.client(user_id=1)
    for _ in range(100):
        recheck(world, user_id=1)
        world.advance(0.25)
    world.advance(3 * LONGEST_PAUSE)
    asked = site.times(client)
    recheck(world, user_id=1)
    world.settle()
    assert site.times(client) == asked + 1


def test_two_quick_commands_are_both_obeyed_within_a_moment(world, site):
    client = site.client(user_id=1)
    recheck(world, user_id=1)
    world.advance(0.25)
    site.answer = refuse
    recheck(world, user_id=1)
    world.advance(0.25)
    assert client.end == "cut"


@pytest.mark.parametrize("granted", [{"user_id": 9}, {"channels": "hall"}, {"channels": ["room", "hall"]}])
def test_stream_of_other_channels_or_another_user_ends(world, site, granted):
    client = site.client(user_id=1)
    site.answer = lambda scope: site.grant(scope, client, **granted)
    recheck(world)
    world.settle()
    assert client.end == "cut"


def test_order_of_the_channels_means_nothing(world, site):
    client = site.client(["room", "hall"], 1)
    site.answer = lambda scope: site.grant(scope, client, channels=["hall", "room"])
    recheck(world)
    world.advance(5)
    assert client.end is None


def test_stream_that_a_post_opened_ends_unasked(world, site):
    client = site.client(user_id=1)
    (connection,) = world.connections
    connection.request = OriginalRequest(site, make_scope(method="POST") | {"number": 0})
    recheck(world)
    world.settle()
    assert client.end == "cut"
    assert not site.asked


def test_answer_without_end_is_looked_at_no_longer_than_its_head(world):
    client = world.client(user_id=1)
    ended = []

    async def application(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        ended.append(await receive())

    (connection,) = world.connections
    connection.request = OriginalRequest(application, client.scope)
    recheck(world)
    world.settle()
    assert ended == [{"type": "http.disconnect"}]
    assert client.end == "cut"


def test_snapshot_is_not_rendered_in_vain(world, site):
    def render(request, channel):
        raise AssertionError("A snapshot was rendered.")

    client = site.client(user_id=1)
    scope = make_scope(cursor="old-1") | {RECHECK_KEY: True}
    response = world.broadcast.connect("room", make_request(scope, 1), snapshot_callback=render)
    assert response.status_code == 200
    assert client.end is None


def test_session_is_not_kept_alive_by_its_own_stream(world):
    class Session(dict):
        saved = 0

        def save(self, must_create=False):
            self.saved += 1

    for scope, saved in ((make_scope() | {RECHECK_KEY: True}, 0), (make_scope(), 1)):
        request = make_request(scope, 1)
        request.session = Session()
        world.broadcast.connect("room", request)
        request.session.save()
        assert request.session.saved == saved


# When


@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100)
def test_each_stream_is_asked_once_an_interval_and_not_all_at_once(world, site):
    clients = [site.client(user_id=number) for number in range(200)]
    world.advance(100 * (1 - JITTER) - 1)
    assert not site.asked
    world.advance(100 * JITTER / 2)
    assert 40 < len(site.asked) < 160
    world.advance(100 * JITTER / 2 + 2)
    assert {site.times(client) for client in clients} == {1}
    world.advance(100)
    assert {site.times(client) for client in clients} <= {2, 3}


@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100)
def test_view_that_says_no_ends_the_stream_within_the_interval(world, site):
    client = site.client(user_id=1)
    site.answer = refuse
    world.advance(101)
    assert client.end == "cut"


def test_views_own_interval_counts(world, site):
    client = site.client(user_id=1, recheck_interval=10)
    world.advance(101)
    assert 10 <= site.times(client) <= 13


@pytest.mark.parametrize("interval", [0, -5])
def test_interval_of_nothing_does_not_keep_a_processor_busy(world, site, interval):
    client = site.client(user_id=1, recheck_interval=interval)
    world.advance(10)
    assert 1 <= site.times(client) <= 10 / SHORTEST / (1 - JITTER)


def test_recheck_looks_twice_because_what_it_is_about_may_be_on_its_way(world, site):
    client = site.client(user_id=1)
    recheck(world, user_id=1)
    world.settle()
    assert client.end is None
    site.answer = refuse  # The session is gone, a moment after the signal that told of it.
    world.advance(SECOND_LOOK)
    assert client.end == "cut"
    assert site.times(client) == 2


@override_settings(DS_BROADCASTER_RECHECK_INTERVAL=100)
def test_interval_goes_on_after_a_recheck(world, site):
    client = site.client(user_id=1)
    recheck(world)
    world.advance(5)
    world.advance(100)
    assert site.times(client) == 3


def test_recheck_reaches_a_channel_a_user_both_or_all(world, site):
    clients = {
        name: site.client(name[0], user) for name, user in (("a1", 1), ("a2", 2), ("b1", 1), ("b2", 2), ("a0", None))
    }

    def asked(*command):
        site.asked.clear()
        recheck(world, *command)
        world.settle()
        found = {name for name, client in clients.items() if site.times(client)}
        world.advance(5)
        return found

    assert asked("a") == {"a1", "a2", "a0"}
    assert asked(EVERYWHERE, 1) == {"a1", "b1"}
    assert asked("b", 2) == {"b2"}
    assert asked() == set(clients)
    assert asked("empty-room") == set()


def test_verb_takes_a_channel_a_user_both_or_nothing(world, monkeypatch):
    given = []
    monkeypatch.setattr(world.broker, "command", lambda *command: given.append(command))
    broadcast = world.broadcast
    broadcast.recheck()
    broadcast.recheck("room")
    broadcast.recheck(user_id="7")
    broadcast.recheck("room", 7)
    world.loop.run_until_complete(broadcast.arecheck("room", 7))
    assert given == [
        (EVERYWHERE, Command("recheck", None)),
        ("room", Command("recheck", None)),
        (EVERYWHERE, Command("recheck", 7)),
        ("room", Command("recheck", 7)),
        ("room", Command("recheck", 7)),
    ]


@each_kind
@pytest.mark.parametrize("where", [EVERYWHERE, "room"])
def test_recheck_between_grant_and_opening_is_not_lost(kind, where):
    async def refuse(connection):
        return False

    with virtual_world(still_allowed=refuse) as world:
        world.client(user_id=9)  # A hub must be there to be told.
        client = FakeClient(
            world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: recheck(world, where, 1)
        )
        world.settle()
        assert client.end == "cut"


@each_kind
def test_user_who_is_refused_before_the_stream_opens_was_never_there(kind):
    async def refuse(connection):
        return False

    with virtual_world(still_allowed=refuse) as world:
        world.client(user_id=9)
        client = FakeClient(
            world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: recheck(world, EVERYWHERE, 1)
        )
        world.settle()
        assert client.end == "cut"
        assert not any(user == 1 for _, _, user in world.signals)
        world.advance(5)
        assert not any(user == 1 for _, _, user in world.signals)


@each_kind
def test_answer_to_an_earlier_question_opens_no_stream(world, site, kind):
    """A stream that is asked about before it opens, and removed during that."""
    world.client(user_id=9)
    gate = asyncio.Event()
    allowed = [True]

    async def look(connection):
        answer = allowed[0]
        await gate.wait()
        return answer

    world.hub._rechecks._still_allowed = look
    client = FakeClient(
        world.loop, world.broadcast, "room", 1, kind=kind, before_opening=lambda: recheck(world, EVERYWHERE, 1)
    )
    world.settle()
    allowed[0] = False
    recheck(world, user_id=1)
    world.broadcast("room", "<p id=secret>")
    gate.set()
    world.advance(2)
    assert client.end == "cut"
    assert not client.texts


# How many, and what is left


def test_thousand_that_are_due_at_once_are_asked_four_at_a_time(world, site):
    for number in range(1000):
        site.client(user_id=number)
    site.seconds = 0.01
    recheck(world)
    world.loop.advance(SECOND_LOOK - 0.1, step=0.01)
    assert site.most == PARALLEL
    assert len(site.asked) >= 300
    world.loop.advance(10, step=0.01)
    assert site.most == PARALLEL
    assert {site.asked.count(number) for number in range(1000)} <= {1, 2}
    assert set(site.asked) == set(range(1000))
    for client in site.clients.values():
        client.vanish()
    world.advance(5)
    nothing_is_left(world)


@each_kind
def test_closed_stream_leaves_no_timer_no_task_and_no_entry(world, site, kind):
    clients = [site.client(user_id=number, kind=kind, recheck_interval=5) for number in range(10)]
    recheck(world)
    world.settle()
    recheck(world)
    for client in clients:
        client.vanish()
    world.advance(3)
    nothing_is_left(world)


@each_kind
@pytest.mark.parametrize("first", ["disconnect", "recheck"])
def test_stream_that_is_closed_before_it_opens_is_not_watched(world, kind, first):
    world.client(user_id=9)

    def command():
        world.broker.command("room", Command(first, 1))
        world.broker.command("room", Command({"disconnect": "recheck", "recheck": "disconnect"}[first], 1))

    client = FakeClient(world.loop, world.broadcast, "room", 1, kind=kind, before_opening=command)
    world.advance(2)
    assert client.end == "clean"
    for connection in world.connections:
        connection.abort()
    world.advance(3)
    nothing_is_left(world)


@each_kind
def test_stream_that_closes_while_it_is_asked_about_is_left_alone(world, site, kind, caplog):
    client = site.client(user_id=1, kind=kind)
    site.seconds = 1
    site.answer = refuse
    recheck(world)
    world.settle()
    assert site.running == 1
    client.vanish()
    world.advance(4)
    assert not caplog.records
    nothing_is_left(world)


def test_exception_about_a_closed_stream_is_not_logged(world, site, caplog):
    client = site.client(user_id=1)
    site.seconds = 1
    site.answer = lambda scope: 1 / 0
    recheck(world)
    world.settle()
    client.vanish()
    world.advance(4)
    assert not caplog.records


def test_connection_that_is_due_while_the_last_worker_finishes_does_not_wait():
    """Workers see that nothing is due, and in the same turn of the loop something is."""
    loop, asked, gate = VirtualLoop(), [], asyncio.Event()

    async def still_allowed(connection):
        asked.append(connection)
        await gate.wait()
        return True

    rechecks = Rechecks(loop, 300, still_allowed, end=None)
    connections = [Connection(number, None) for number in range(PARALLEL + 1)]
    for connection in connections:
        connection.slot = {}  # It is open.
    for connection in connections[:PARALLEL]:
        rechecks.ask(connection)
    loop.settle()
    gate.set()  # The workers wake in the next turn, in which, after them, another connection becomes due.
    loop.call_soon(rechecks.ask, connections[PARALLEL])
    loop.settle()
    assert asked == connections
    for connection in connections:
        rechecks.forget(connection)
    assert rechecks.is_idle()
    loop.close_down()


def test_streams_that_are_due_at_a_shutdown_are_not_asked_about(world, site):
    """The threads of a server that stops are for the requests that it still has."""
    clients = [site.client(user_id=number) for number in range(PARALLEL + 3)]
    for client in clients:
        client.stall()
    world.broadcast("room", "<p id=a>")
    world.settle()
    site.seconds = 0.1
    recheck(world)
    world.settle()
    world.hub.shutdown()
    world.advance(0.4)
    assert len(site.asked) == PARALLEL
    for client in clients:
        client.drain()


def test_shutdown_does_not_wait_for_those_that_are_due(world, site):
    clients = [site.client(user_id=number) for number in range(50)]
    site.seconds = 0.5
    recheck(world)
    world.settle()
    asked = len(site.asked)
    done = world.hub.shutdown()
    world.advance(1)
    assert done.done()
    assert {client.end for client in clients} == {"cut"}
    assert len(site.asked) == asked
    world.advance(4)
    nothing_is_left(world)


_said = ContextVar("_said", default=None)


def in_context_of(request, call):
    token = _said.set(request)
    try:
        return call()
    finally:
        _said.reset(token)


@each_kind
@pytest.mark.parametrize("by", ["opening", "command"])
def test_recheck_knows_nothing_of_the_request_that_made_the_loop_turn(world, site, kind, by):
    """In plain mode a stream opens in the context of its own request, and a command is obeyed in that of its giver."""
    seen = []
    site.answer = lambda scope: seen.append(_said.get()) or HttpResponse(status=500)

    def happen():
        if by == "opening":
            site.client(user_id=1, kind=kind)
            world.advance(300)
        else:
            recheck(world)
            world.loop.turn(2)

    if by != "opening":
        site.client(user_id=1, kind=kind)
    in_context_of("a request", happen)
    world.advance(5)
    assert seen
    assert set(seen) == {None}


def test_request_that_asked_for_a_recheck_does_not_stay_with_the_streams(world, site):
    class Request:
        pass

    site.client(user_id=1)
    request = Request()
    gone = weakref.ref(request)
    in_context_of(request, lambda: (recheck(world), world.loop.turn(2)))
    world.advance(5)
    del request
    gc.collect()
    assert gone() is None
