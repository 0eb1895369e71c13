"""Refreshes and audiences on real servers: each viewer sees their own page, and nothing of another's."""

import itertools
from urllib.parse import urlencode

import pytest

from tests.harness import MODES, Server
from tests.live import begun, until

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = {"ROOT_URLCONF": "tests.project.viewer_site", "DS_BROADCASTER_REFRESH_INTERVAL": 0.1}

names = (f"viewer{number}" for number in itertools.count(1))


@pytest.fixture(scope="module", params=MODES)
def server(request, django_db_setup):
    with Server("uvicorn-httptools", request.param, settings=SETTINGS) as server:
        yield server


def change(server, **query):
    assert server.get(f"/change/?{urlencode(query, doseq=True)}").status == 200


def viewer(server, path, *, staff=False, **options):
    name = next(names)
    client = server.login(name, staff=staff).connect(path=path, **options)
    client.name = name
    begun(client)
    return client


def test_each_viewer_sees_the_list_in_their_own_order_and_language(server, channel):
    ups = viewer(server, f"/events/list/{channel}/?order=name")
    downs = viewer(server, f"/events/list/{channel}/?order=-name", headers={"Accept-Language": "de"})
    change(server, add=["a-one", "b-two"], refresh=channel)
    assert "<li>a-one</li><li>b-two</li>" in ups.expect("a-one").elements
    got = downs.expect("a-one").elements
    assert "<li>b-two</li><li>a-one</li>" in got
    assert f'<p id="whose">{downs.name} ' in got
    change(server, delete=["a-one"], refresh=channel)
    until(lambda: "a-one" not in ups.events[-1].elements)
    until(lambda: "a-one" not in downs.events[-1].elements)


def test_viewer_who_may_no_longer_see_the_page_loses_the_stream_at_the_first_refresh(server, channel):
    stays, goes = (viewer(server, f"/events/list/{channel}/") for _ in range(2))
    change(server, add=[f"banned-{goes.name}"], refresh=channel)
    stays.expect("banned")
    goes.wait_for(lambda: goes.end, 5, "the end")
    assert "banned" not in str(goes.events)


def test_member_of_an_audience_who_may_no_longer_see_it_loses_the_stream_at_the_first_refresh(server, channel):
    stays, goes = (viewer(server, f"/events/board/{channel}/") for _ in range(2))
    change(server, add=[f"banned-{goes.name}"], refresh=channel)
    stays.expect('id="board"')
    goes.wait_for(lambda: goes.end, 5, "the end")


def test_render_that_fails_is_logged_once_and_the_stream_goes_on(server, channel):
    client = viewer(server, f"/events/list/{channel}/?fails=1")
    since = server.log_size()
    server.call("refresh", channel)
    server.call("elements", channel, '<p id="next">next</p>')
    client.expect("next")
    log = server.log(since)
    assert log.count("ValueError: This page cannot be rendered.") == 1
    assert "ListChannel failed for user" in log


def test_two_audiences_are_two_renders_and_have_nothing_of_a_request(server, channel):
    clients = [viewer(server, f"/events/board/{channel}/?lang=de", staff=number % 2) for number in range(6)]
    before = server.get("/made/").json()["shared"]
    server.call("refresh", channel)
    texts = [client.expect('id="board"').elements for client in clients]
    assert server.get("/made/").json()["shared"] == before + 2
    # The zone that the view activated is its own thread's; the render has the project's.
    assert {text.split()[1] for text in texts} == {'id="board">staff', 'id="board">rest'}
    assert all(" en-us America/Chicago " in text for text in texts)


def test_request_cannot_be_reached_from_a_render_of_an_audience(server, channel):
    client = viewer(server, f"/events/board/leak-{channel}/?how=secret")
    since = server.log_size()
    server.call("refresh", f"leak-{channel}")
    server.call("elements", f"leak-{channel}", '<p id="next">next</p>')
    client.expect("next")
    assert "secret" not in str(client.events)
    assert "has no request in render_snapshot(), which runs once for each audience" in server.log(since)


def test_template_is_rendered_for_each_audience(server, channel):
    change(server, add=["shown"])
    clients = [viewer(server, f"/events/{kind}/{channel}/") for kind in ("plain", "board", "list")]
    server.get(f"/show/{channel}/?group=shown")
    expected = [clients[0].name, "rest", "None"]
    for client, audience in zip(clients, expected, strict=True):
        event = client.expect("<i>")
        assert event.elements == f"<i>{audience} shown &lt;b&gt;,é nobody</i>"
        assert event.args["selector"] == "#board"


def test_client_that_missed_a_refresh_gets_a_snapshot(server, channel):
    visitor = server.login(next(names))
    client = visitor.connect(path=f"/events/list/{channel}/")
    begun(client)
    client.close()
    change(server, add=["late"], refresh=channel)
    back = visitor.connect(path=f"/events/list/{channel}/", last_event_id=client.last_event_id)
    back.expect("<li>late</li>")
