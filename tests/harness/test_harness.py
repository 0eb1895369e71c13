"""The tests' own tools, tested: without these, a test that passes says little."""

import re
import signal
from itertools import pairwise

import pytest
from django.contrib.auth import get_user_model
from hypothesis import given
from hypothesis import strategies as st

from cookbook import fetch_client
from ds_broadcaster.conf import get_settings
from tests.harness import SERVERS, Comment, Event, IdOnly, Retry, Server, SSEParser, each_client, expect
from tests.harness.browser import CLIENTS
from tests.harness.requirements import require_client_bundle
from tests.harness.sse import ChunkDecoder

BARE = "tests.project.bare_app:application"


@pytest.fixture(scope="module")
def bare():
    with Server("uvicorn-httptools", app=BARE) as server:
        yield server


# The parser


def parse(*pieces):
    parser = SSEParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


@pytest.mark.parametrize(
    "raw,frames",
    [
        (b"data: one\n\n", [Event("message", "one")]),
        (b"data:one\ndata:  two\ndata\n\n", [Event("message", "one\n two\n")]),
        (b"event: tick\r\ndata: a\r\n\r\n", [Event("tick", "a")]),
        (b"event: tick\rdata: a\r\r", [Event("tick", "a")]),
        (b"id: 7\n\ndata: x\n\n", [IdOnly("7"), Event("message", "x", "7")]),
        (b"id: 7\ndata: x\n\nid\ndata: y\n\n", [Event("message", "x", "7"), Event("message", "y", "")]),
        (b"id: a\0b\ndata: x\n\n", [Event("message", "x", "")]),
        (b"retry: 300\nretry: 3e2\nretry: -1\n\n", [Retry(300)]),
        (b": gap\n:\n", [Comment("gap"), Comment("")]),
        (b"event: only a type\n\ndata: x\n\n", [Event("message", "x")]),
        (b"unknown: field\ndata: x\n\n", [Event("message", "x")]),
        (b"data: never finished\n", []),
        (b"\xef\xbb\xbfdata: \xef\xbb\xbfx\n\n", [Event("message", "\ufeffx")]),
        ("data: \u2028\x85\x0b\n\n".encode(), [Event("message", "\u2028\x85\x0b")]),
    ],
)
def test_parser_follows_the_rules(raw, frames):
    assert parse(raw) == frames


@given(st.text(alphabet="\r\n: adeitv7é€"), st.lists(st.integers(0, 60)))
def test_parser_does_not_care_how_the_bytes_are_cut(text, cuts):
    raw = text.encode()
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    assert parse(*(raw[a:b] for a, b in pairwise(edges))) == parse(raw)


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 9))
def test_chunks_are_joined_however_they_are_cut(chunks, step):
    raw = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    decoder = ChunkDecoder()
    assert b"".join(decoder.feed(raw[i : i + step]) for i in range(0, len(raw), step)) == b"".join(chunks)
    assert decoder.done


def test_datastar_lines_are_read_by_their_first_word():
    (event,) = parse(b"event: datastar-patch-elements\ndata: mode inner\ndata: elements <a>\ndata: elements </a>\n\n")
    assert event.args == {"mode": "inner", "elements": "<a>\n</a>"}
    assert event.elements == "<a>\n</a>"


# Streams


def test_client_reads_a_stream_to_its_clean_end(bare):
    client = bare.connect(path="/clean/")
    client.expect("last")
    assert client.wait_end() == "clean"
    assert client.frames[:3] == [Comment("open"), Retry(700), IdOnly("1")]
    assert (client.status, client.retry, client.last_event_id) == (200, 700, "2")


def test_client_tells_a_cut_stream_from_a_clean_end(bare):
    assert bare.connect(path="/cut/").wait_end() == "cut"


def test_client_sends_its_headers(bare):
    bare.connect(path="/open/", last_event_id="41").expect("back from 41")


def test_expect_says_what_did_arrive(bare):
    client = bare.connect(path="/open/")
    client.expect("back")
    with pytest.raises(AssertionError, match=r"(?s)Waited 0.05 s for an event with 'nothing'.*back from"):
        client.expect("nothing", timeout=0.05)


def test_expect_fails_at_once_when_the_stream_has_ended(bare):
    with pytest.raises(AssertionError, match=r"ended \(clean\) before an event with 'nothing'"):
        bare.connect(path="/clean/").expect("nothing", timeout=60)


def test_stalled_client_reads_nothing_and_later_everything(bare):
    client = bare.connect(path="/flood/", receive_buffer=4096)
    client.stall()
    read = client.bytes_read
    assert bare.get("/ready/").text == "ready"
    assert client.bytes_read == read
    assert client.end is None
    client.resume()
    client.expect("flooded", timeout=20)
    assert client.wait_end() == "clean"
    assert sum(event.data.startswith("xxx") for event in client.events) == 2000


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_client_leaves(bare, leave):
    client = bare.connect(path="/open/")
    getattr(client, leave)()
    assert client.wait_end() == "closed"


# Servers


@pytest.mark.servers
@pytest.mark.parametrize("kind", SERVERS)
def test_every_server_starts_streams_and_dies(kind):
    with Server(kind, app=BARE) as server:
        client = server.connect(path="/open/")
        client.expect("back")
        process = server.process
    assert process.returncode == -signal.SIGKILL
    assert client.wait_end() in ("cut", "reset")


@pytest.mark.servers
def test_server_comes_back_on_its_port():
    with Server("uvicorn-h11", app=BARE) as server:
        port = server.port
        assert server.sigterm() < 10
        assert not server.alive
        server.kill()
        assert server.start().port == port
        assert "Uvicorn running" in server.log()


@pytest.mark.servers
def test_server_that_cannot_start_says_why():
    with pytest.raises(AssertionError, match=r"No module named|Could not import"):
        Server("uvicorn-h11", app="tests.project.no_such_app:application").start()


def test_settings_reach_the_server(start_server, settings):
    server = start_server(settings={"LANGUAGE_CODE": "de"})
    assert settings.LANGUAGE_CODE != "de"
    assert server.get("/ready/").status == 200
    assert '<html lang="de"' in server.get("/admin/login/").text


# The test project


@pytest.mark.django_db(transaction=True)
def test_server_and_test_share_one_database(server):
    ann = server.login("ann")
    assert get_user_model().objects.get(username="ann").pk == ann.user_id


def test_facts_of_a_server(server):
    facts = server.facts()
    assert facts["pid"] in server.pids()
    assert facts["threads"] >= 1
    assert facts["memory"] > 10_000_000


# The browser


@pytest.mark.django_db(transaction=True)
def test_browser_runs_the_real_client_while_the_test_uses_the_orm(chromium, server, channel):
    tab = chromium.tab(server.login("ann"))
    tab.goto(f"/page/{channel}/")
    expect(tab.locator("#count")).to_have_text("0")
    assert get_user_model().objects.filter(username="ann").exists()
    assert tab.title() == "Test page"


def test_hidden_tab_is_told_so(chromium, server, channel):
    tab = chromium.tab(server.visitor())
    tab.goto(f"/page/{channel}/")
    tab.evaluate("""() => {
        window.seen = [];
        document.addEventListener('visibilitychange', () => window.seen.push(document.hidden));
    }""")
    tab.hide()
    tab.show()
    assert tab.evaluate("window.seen") == [True, False]


@pytest.mark.django_db(transaction=True)
def test_window_that_is_used_again_shows_nothing_of_the_test_before(chromium, server, channel):
    first = chromium.tab(server.login("ann"))
    first.goto(f"/page/{channel}/")
    first.set_viewport_size({"width": 360, "height": 640})
    assert first.cookies()
    chromium.close_tabs()
    second = chromium.tab(server.visitor())
    assert second.wrapped is first.wrapped
    second.goto(f"/page/{channel}/")
    second.evaluate("console.error('from the second test')")
    assert (first.errors, second.errors) == ([], ["from the second test"])
    assert (second.cookies(), second.evaluate("innerWidth")) == ({}, 1280)
    # The clock stays with the window, whatever it shows.
    second.clock.install()
    chromium.close_tabs()
    third = chromium.tab()
    third.goto(server.url + "/ready/")
    assert third.evaluate("typeof __pwClock") == "undefined"


def test_client_bundle_is_the_checked_one():
    path = require_client_bundle()
    client = fetch_client.CLIENTS[path.name]
    assert path.parent == fetch_client.FOLDER
    assert client.is_in(path.read_bytes())


def test_demo_and_the_browser_tests_run_the_client_that_users_get():
    [version] = re.findall(r"@(v[0-9.]+)/", get_settings().datastar_url)
    assert require_client_bundle().read_text().startswith(f"// Datastar {version}\n")
    assert version == f"v{CLIENTS[0]}"


@each_client
def test_page_runs_the_client_that_the_test_asks_for(chromium, server, channel):
    tab = chromium.tab(server.visitor())
    tab.goto(f"/page/{channel}/")
    bundle = tab.evaluate("fetch('/client/datastar.js').then(answer => answer.text())")
    assert bundle.startswith(f"// Datastar v{chromium.client}")
