"""Every sentence of the spec over real sockets, and what a stream looks like on the wire."""

import http.client
import os
import re
import subprocess
import sys
from contextlib import closing

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from ds_broadcaster.ids import parse_id
from tests.harness import IdOnly, Retry, each_server
from tests.live import begun, each_mode_of, until

live = each_mode_of()
quick = each_mode_of(settings={"DS_BROADCASTER_HEARTBEAT_INTERVAL": 0.3})
locked = each_mode_of(
    settings={"MIDDLEWARE": [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]}
)

needs_orm = pytest.mark.django_db(transaction=True)


def raw_lines(server, path, until_line, **headers):
    """Return the lines of a stream as they stand in the body, up to the one that begins like this."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        lines = []
        while not lines or not lines[-1].startswith(until_line):
            line = response.readline()
            assert line, f"The stream ended: {lines}"
            lines.append(line.decode().removesuffix("\n"))
        return lines


# The room of the spec


@pytest.fixture
def room(live):
    room = Group.objects.create(name="room")
    room.visitors = {name: live.login(name) for name in ("ann", "bob", "eve")}
    for name in ("ann", "bob"):
        room.user_set.add(get_user_model().objects.get(username=name))
    return room


@needs_orm
def test_a_member_is_let_in_and_others_are_not(live, room):
    path = f"/rooms/{room.pk}/connect/"
    begun(room.visitors["ann"].connect(path=path))
    assert room.visitors["eve"].connect(path=path).status == 404
    stranger = live.visitor().connect(path=path)
    assert (stranger.status, stranger.response_headers["location"]) == (302, f"/login/nobody/?next={path}")
    assert live.call("get_users", f"room-{room.pk}") == [room.visitors["ann"].user_id]


@needs_orm
def test_the_presence_of_the_spec_names_who_is_online_and_who_is_not(live, room):
    path = f"/rooms/{room.pk}/connect/"
    ann = room.visitors["ann"].connect(path=path)
    event = ann.expect("<li class=online>ann</li><li>bob</li>")
    assert event.type == "datastar-patch-elements"
    assert event.elements.startswith('<ul id="room-members">')
    room.visitors["bob"].connect(path=path).expect("<li class=online>ann</li><li class=online>bob</li>")
    ann.expect("<li class=online>ann</li><li class=online>bob</li>")


@needs_orm
def test_who_is_removed_from_the_room_is_disconnected_and_the_others_are_told(live, room):
    path = f"/rooms/{room.pk}/connect/"
    ann, bob = (room.visitors[name].connect(path=path) for name in ("ann", "bob"))
    ann.expect("<li class=online>bob</li>")
    room.visitors["bob"].get(f"/rooms/{room.pk}/leave/")
    assert bob.wait_end() == "clean"
    assert ann.expect("room-members").elements == '<ul id="room-members"><li class=online>ann</li></ul>'
    assert room.visitors["bob"].connect(path=path).status == 404


def test_the_apps_urls_are_served_where_the_project_put_them(live):
    assert live.get("/events/inspector/").status in (302, 403)
    assert live.login("boss", staff=True).get("/events/inspector/").status == 200


# What is sent


@pytest.mark.parametrize(
    "verb,args,kwargs,wire",
    [
        ("", ["<p id=a>1</p>"], {}, ["event: datastar-patch-elements", "data: elements <p id=a>1</p>"]),
        (
            "elements",
            ["<li>1</li>", "#list", "append"],
            {},
            [
                "event: datastar-patch-elements",
                "data: mode append",
                "data: selector #list",
                "data: elements <li>1</li>",
            ],
        ),
        (
            "elements",
            ["<b>\n  1\n</b>"],
            {"selector": "#x > a[b='c']", "mode": "inner"},
            [
                "event: datastar-patch-elements",
                "data: mode inner",
                "data: selector #x > a[b='c']",
                "data: elements <b>",
                "data: elements   1",
                "data: elements </b>",
            ],
        ),
        (
            "elements",
            ["<g id=g></g>"],
            {"namespace": "svg", "use_view_transition": True},
            [
                "event: datastar-patch-elements",
                "data: useViewTransition true",
                "data: namespace svg",
                "data: elements <g id=g></g>",
            ],
        ),
        (
            "remove",
            ["#list li"],
            {},
            ["event: datastar-patch-elements", "data: mode remove", "data: selector #list li"],
        ),
        ("signals", [{"key": "value"}], {}, ["event: datastar-patch-signals", 'data: signals {"key":"value"}']),
        (
            "signals",
            [{"a": [1, None]}],
            {"only_if_missing": True},
            ["event: datastar-patch-signals", "data: onlyIfMissing true", 'data: signals {"a":[1,null]}'],
        ),
    ],
)
def test_an_event_on_the_wire(live, channel, verb, args, kwargs, wire):
    cursor = live.call("cursor")
    live.call(verb, channel, *args, **kwargs)
    lines = raw_lines(live, f"/connect/{channel}/?cursor={cursor}", wire[-1])
    epoch, sequence = parse_id(cursor)
    assert lines == [lines[0], f"id: {cursor}", "", f"id: {epoch}-{sequence + 1}", *wire]
    assert re.fullmatch(r"retry: \d{4}", lines[0])


@pytest.mark.parametrize(
    "text",
    [
        "<pre id=p>  two  spaces\n\n\ttab, blank lines \n</pre>",
        "<textarea id=t>\n\n one\n</textarea>",
        "<p id=u>\u2028 \u2029 \x85 \x0b \x0c \x1c é 日本 \U0001f600</p>",
        "<p id=s>data: id: 5\nid: 7\nevent: forged\n: comment\nretry: 1\n</p>",
        "<p>" + "x" * 200_000 + "</p>",
    ],
    ids=["pre", "textarea", "unicode", "fields", "long"],
)
def test_text_arrives_as_it_was_sent(live, channel, text):
    client = live.connect(channel)
    live.call("elements", channel, text)
    event = client.expect("elements")
    assert (event.type, event.elements) == ("datastar-patch-elements", text)
    live.call("signals", channel, {"text": text})
    assert client.expect("signals").signals.startswith('{"text":')
    assert client.retry >= 1000


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_other_line_ends_arrive_as_html_reads_them(live, channel, line_end):
    client = live.connect(channel)
    live.call("elements", channel, f"<pre>a{line_end}{line_end}b</pre>")
    assert client.expect("elements").elements == "<pre>a\n\nb</pre>"


@pytest.mark.parametrize(
    "place", ["view", "async", "thread", "commit"], ids=["sync view", "async view", "thread", "on_commit"]
)
def test_events_arrive_wherever_they_are_sent_from(live, channel, place):
    client = live.connect(channel)
    assert live.get(f"/send/{channel}/{place}/").status == 200
    if place == "commit":
        client.expect("before the commit")
    client.expect(f">{'async view' if place == 'async' else place}</p>")


def test_an_on_commit_hook_of_a_transaction_rolled_back_sends_nothing(live, channel):
    client = live.connect(channel)
    live.get(f"/send/{channel}/rollback/")
    live.get(f"/send/{channel}/view/")
    client.expect(">view<")
    assert len(client.events) == 1


@pytest.mark.parametrize("call", ["call", "acall"])
def test_every_verb_has_an_async_twin(live, channel, call):
    call = getattr(live, call)
    call("new", f"{channel}-new")
    assert f"{channel}-new" in call("get_channels")
    ann, bob = (live.visitor().connect(path=f"/as/{pk}/{channel}/?cursor={call('cursor')}") for pk in (1, 2))
    begun(ann, bob)
    call("elements", channel, "<p id=a>1</p>")
    call("signals", channel, {"a": 1})
    call("remove", channel, "#a")
    call("template", channel, "page.html", {"body": "from a template"}, "#b", "inner")
    for client in (ann, bob):
        for text in ("<p id=a>1</p>", '{"a":1}', "mode remove", "from a template"):
            client.expect(text)
    assert sorted(call("get_users", channel)) == [1, 2]
    call("disconnect", channel, 1)
    assert ann.wait_end() == "clean"
    call("kill", channel)
    assert bob.wait_end() == "clean"
    call("kill", f"{channel}-new")
    assert not {channel, f"{channel}-new"} & set(call("get_channels"))


def test_a_management_shell_can_send_and_is_told_once_that_it_reaches_no_client(django_db_setup):
    code = """
from ds_broadcaster import broadcast
broadcast("a", "<p id=b></p>")
broadcast.signals("a", {"b": 1})
broadcast.kill("a")
print(broadcast.get_channels(), broadcast.get_users("a"))
"""
    shell = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "shell", "-c", code],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (shell.returncode, shell.stdout.strip().splitlines()[-1]) == (0, "[] []"), shell.stderr
    assert shell.stderr.count("this process serves no pages") == 1
    assert "Traceback" not in shell.stderr


def test_connect_under_wsgi_says_what_to_do():
    with pytest.raises(ImproperlyConfigured, match=r"needs an ASGI server.*uvicorn"):
        Client().get("/connect/room/")


def test_connect_in_an_async_view_that_needs_the_user_says_what_to_write(live, channel):
    answer = live.login("ann").get(f"/wrongly/{channel}/")
    assert answer.status == 500
    assert "await broadcast.aconnect" in answer.text


# Channels and users


def test_a_channel_is_there_from_the_first_connect_to_the_last_leave(live, channel):
    assert channel not in live.call("get_channels")
    live.call("elements", channel, "<p id=a>the room is empty</p>")
    assert channel not in live.call("get_channels")
    first, second = live.connect(channel), live.connect(channel)
    begun(first, second)
    assert channel in live.call("get_channels")
    first.close()
    until(lambda: len(live.call("get_channels")) == 1)
    assert channel in live.call("get_channels")
    second.close()
    until(lambda: channel not in live.call("get_channels"))
    assert live.call("get_users", channel) == []


def test_a_new_channel_is_there_before_anybody_connects_and_goes_with_the_last(live, channel):
    live.call("new", channel)
    live.call("new", channel)
    assert live.call("get_channels").count(channel) == 1
    client = live.connect(channel)
    begun(client)
    assert live.call("get_channels").count(channel) == 1
    client.close()
    until(lambda: channel not in live.call("get_channels"))


def test_two_tabs_of_one_user_are_two_connections_and_one_user(live, channel):
    ann = live.login("ann")
    bob = live.login("bob")
    tabs = [ann.connect(channel, presence="both") for _ in range(2)]
    begun(*tabs)
    begun(bob.connect(channel, presence="both"))
    assert sorted(live.call("get_users", channel)) == sorted([ann.user_id, ann.user_id, bob.user_id])
    tabs[0].expect('"online":2')
    tabs[1].close()
    until(lambda: len(live.call("get_users", channel)) == 2)
    assert {'{"online":1}', '{"online":2}'} >= {event.signals for event in tabs[0].events if event.signals}


def test_anonymous_clients_receive_and_are_not_listed(live, channel):
    client = live.connect(channel)
    begun(client)
    assert live.call("get_users", channel) == []
    assert channel in live.call("get_channels")
    live.call("elements", channel, "<p id=a>for all</p>")
    client.expect("for all")


def test_disconnect_ends_all_of_one_users_streams_and_no_other_users(live, channel):
    tabs = [live.visitor().connect(path=f"/as/1/{channel}/") for _ in range(3)]
    elsewhere = live.visitor().connect(path=f"/as/1/{channel}-other/")
    others = [live.visitor().connect(path=f"/as/2/{channel}/"), live.connect(channel)]
    begun(*tabs, elsewhere, *others)
    live.call("elements", channel, "<p id=a>before</p>")
    live.call("disconnect", channel, "1")
    for tab in tabs:
        tab.expect("before")
        assert tab.wait_end() == "clean"
    assert live.call("get_users", channel) == [2]
    assert live.call("get_users", f"{channel}-other") == [1]
    live.call("elements", channel, "<p id=a>after</p>")
    for other in others:
        other.expect("after")
    assert elsewhere.end is None


def test_kill_ends_every_stream_behind_what_was_sent_before(live, channel):
    clients = [live.visitor().connect(path=f"/as/{pk}/{channel}/") for pk in (1, 1, 2)] + [live.connect(channel)]
    other = live.connect(f"{channel}-other")
    begun(*clients, other)
    live.burst(channel, 30)
    live.call("kill", channel)
    for client in clients:
        client.expect(">29<")
        assert client.wait_end() == "clean"
    assert live.call("get_users", channel) == []
    assert channel not in live.call("get_channels")
    assert other.end is None


def test_commands_for_who_is_not_there_are_no_errors(live, channel):
    live.call("kill", channel)
    live.call("disconnect", channel, 12345)
    assert live.call("get_users", channel) == []


@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_a_stream_granted_before_a_kill_or_disconnect_does_not_survive_it(live, channel, verb):
    client = live.visitor().connect(path=f"/between/{channel}/{verb}/")
    assert client.wait_end(2) == "clean"
    assert live.call("get_users", channel) == []
    assert channel not in live.call("get_channels")


@each_server
@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
def test_a_client_who_leaves_is_noticed_at_once(server, channel, leave):
    client = server.connect(channel)
    begun(client)
    assert channel in server.call("get_channels")
    getattr(client, leave)()
    until(lambda: channel not in server.call("get_channels"), timeout=2)


def test_a_client_who_leaves_behind_a_second_request_is_noticed_at_a_heartbeat(quick, channel):
    client = quick.connect(channel)
    begun(client)
    client.socket.sendall(b"GET /ready/ HTTP/1.1\r\nHost: test\r\n\r\n")
    client.wait_for(lambda: len(client.frames) > 3, 2, "a heartbeat")
    client.close()
    until(lambda: channel not in quick.call("get_channels"), timeout=3)


def test_a_client_who_leaves_while_it_does_not_read_is_noticed_at_a_heartbeat(quick, channel):
    with quick.connect(channel, receive_buffer=4096) as client:
        begun(client)
        client.stall()
        for start in range(0, 80, 10):
            quick.burst(channel, 10, start=start, size=100_000)
        assert channel in quick.call("get_channels")
        client.half_close()
        until(lambda: channel not in quick.call("get_channels"), timeout=3)


@each_server
def test_disconnect_ends_a_stream_cleanly_on_every_server(server, channel):
    ann, bob = server.login("ann"), server.login("bob")
    gone, stays = ann.connect(channel), bob.connect(channel, presence="html")
    begun(gone, stays)
    server.call("disconnect", channel, ann.user_id)
    assert gone.wait_end() == "clean"
    stays.expect(lambda event: "<li>bob</li>" in event.data and "<li>ann" not in event.data)
    assert stays.end is None


# How a stream begins, and that it lives


@each_server
def test_a_stream_opens_with_where_it_stands_and_when_to_return(server, channel):
    before = server.call("cursor")
    client = server.connect(channel)
    begun(client)
    (retry, mark) = client.frames[:2]
    assert isinstance(retry, Retry)
    assert 1000 <= retry.milliseconds <= 2000
    assert isinstance(mark, IdOnly)
    assert mark.id == before
    assert client.last_event_id == before


def test_the_time_to_return_differs_among_clients(live, channel):
    clients = [live.connect(channel) for _ in range(10)]
    begun(*clients)
    assert len({client.retry for client in clients}) > 1


def test_heartbeats_come_at_the_interval_of_the_settings_and_carry_the_newest_id(quick, channel):
    client = quick.connect(channel)
    begun(client)
    quick.call("elements", f"{channel}-other", "<p id=a>not for this client</p>")
    now = quick.call("cursor")
    client.wait_for(lambda: client.last_event_id == now, 2, "a heartbeat with the newest id")
    count = len(client.frames)
    client.wait_for(lambda: len(client.frames) >= count + 3, 3, "three more heartbeats")
    beats, times = client.frames[count:], client.times[count:]
    assert all(isinstance(beat, IdOnly) for beat in beats)
    assert 0.2 < (times[2] - times[0]) / 2 < 0.6
    assert client.events == []
    assert client.end is None
    quick.call("elements", channel, "<p id=a>still here</p>")
    client.expect("still here")


# Headers, and middleware around a stream


@each_server
def test_headers_of_a_stream(server, channel):
    client = server.login("ann").connect(
        channel, headers={"Accept-Encoding": "gzip, deflate, br", "If-None-Match": '"x"'}
    )
    assert client.status == 200
    headers = client.response_headers
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache, no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["content-security-policy"].startswith("default-src")
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-encoding"] == "gzip"
    assert "accept-encoding" in headers["vary"].lower()
    assert not {"content-length", "etag", "x-ds-broadcaster-handoff"} & set(headers)
    server.call("elements", channel, f"<p id=a>{'compressible ' * 50}</p>")
    client.expect("compressible")


@each_server
def test_a_head_request_gets_the_headers_and_opens_nothing(server, channel):
    answer = server.visitor().request("HEAD", f"/connect/{channel}/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-ds-broadcaster-handoff"] is None
    assert answer.body == b""
    assert channel not in server.call("get_channels")


def test_what_the_view_wrote_into_the_session_is_kept(live, channel):
    client = live.login("ann").connect(path=f"/session/{channel}/")
    begun(client)
    assert "sessionid=" in client.response_headers["set-cookie"]
    assert "Cookie" in client.response_headers["vary"]


def test_the_login_required_middleware_guards_streams(locked, channel):
    assert locked.connect(path=f"/members/{channel}/").status == 302
    client = locked.login("ann").connect(path=f"/members/{channel}/")
    begun(client)
    locked.call("elements", channel, "<p id=a>for members</p>")
    client.expect("for members")
    assert "x-ds-broadcaster-handoff" not in client.response_headers


def test_a_stream_may_be_opened_by_a_post(live, channel):
    visitor = live.visitor()
    page = visitor.get("/admin/login/")  # It sets the cookie.
    assert page.status == 200
    answer = visitor.post(f"/connect/{channel}/", {"signal": 1})
    assert answer.status == 403  # Django's own protection stands.


# What idle streams hold


def test_idle_streams_hold_no_request_and_no_database_connection(live, channel):
    ann = live.login("ann")
    live.get("/held/")
    before = until(lambda: live.get("/held/").json())
    clients = [ann.connect(channel, presence="html") for _ in range(50)]
    begun(*clients)
    clients[-1].expect("<li>ann</li>")

    def held():
        return live.get("/held/").json()

    if live.mode == "handoff":
        until(lambda: held()["requests"] == 0)
        until(lambda: held()["threads"] <= before["threads"] + 4)
    until(lambda: held()["databases"] == 0)
    live.call("elements", channel, "<p id=a>for all</p>")
    for client in clients:
        client.expect("for all")
    for client in clients:
        client.close()
    until(lambda: channel not in live.call("get_channels"))
    until(lambda: held()["requests"] == 0)
    assert held()["databases"] == 0


# Streams of several channels


def test_one_stream_carries_several_channels_in_the_order_of_their_ids(live, channel):
    names = [f"{channel}-{letter}" for letter in "abc"]
    client = live.visitor().connect(path=f"/as/7/{','.join(names)}/")
    begun(client)
    for number in range(30):
        live.burst(names[number % 3], 1, start=number)
    live.call("elements", f"{channel}-d", "<p id=a>elsewhere</p>")
    client.expect(">29<")
    assert [event.elements for event in client.events] == [f'<li id="item-{n}" title="">{n}</li>' for n in range(30)]
    sequences = [parse_id(event.id)[1] for event in client.events]
    assert sequences == sorted(set(sequences))
    assert [live.call("get_users", name) for name in names] == [[7]] * 3
    assert set(names) <= set(live.call("get_channels"))


def test_one_cursor_replays_a_stream_of_several_channels(live, channel):
    names = [f"{channel}-{letter}" for letter in "abc"]
    client = live.connect(*names)
    begun(client)
    live.burst(names[1], 3)
    client.expect(">2<")
    client.close()
    for number in range(3, 12):
        live.burst(names[number % 3], 1, start=number)
    back = live.connect(*names, last_event_id=client.last_event_id)
    back.expect(">11<")
    assert [event.elements.partition(">")[2] for event in back.events] == [f"{n}</li>" for n in range(3, 12)]


@pytest.mark.parametrize("verb", ["kill", "disconnect"])
def test_the_end_of_one_channel_ends_the_stream_that_carries_it(live, channel, verb):
    names = [f"{channel}-a", f"{channel}-b"]
    both = live.visitor().connect(path=f"/as/7/{','.join(names)}/")
    other = live.visitor().connect(path=f"/as/8/{names[1]}/")
    begun(both, other)
    live.call(verb, names[0], *([7] if verb == "disconnect" else []))
    assert both.wait_end() == "clean"
    assert live.call("get_users", names[1]) == [8]
    assert other.end is None
