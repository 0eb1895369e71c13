"""What guards every stream of a running server: reserved names, answers that nobody stores or reads, an honest log."""

from urllib.parse import quote

import pytest

from ds_broadcaster.inspector.overview import CHANNEL
from tests.attack.conftest import FULL, running
from tests.harness import MODES
from tests.harness.server import RemoteError
from tests.live import begun

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.servers]

DATASTAR = {"Datastar-Request": "true"}
FORGED = ["\nERROR django: forged", "\r\nERROR django: forged", "\x1b[2K\rERROR django: forged", "\u2028ERROR forged"]


@pytest.fixture(scope="module", params=MODES if FULL else ["handoff"])
def server(request, django_db_setup):
    with running(f"{request.param}/memory") as site:
        yield site.server


@pytest.mark.parametrize("staff", [False, True])
def test_nobody_gets_the_inspectors_stream_by_its_name(server, channel, staff):
    ann = server.login("ann", staff=staff)
    assert ann.get(f"/connect/{CHANNEL}/").status >= 400
    assert ann.get(f"/connect/{channel},{CHANNEL}/").status >= 400
    assert ann.get(f"/subscription/{CHANNEL}/").status >= 400
    for verb, *arguments in [("elements", "<p id=a>"), ("signals", {"a": 1}), ("kill",), ("disconnect", ann.user_id)]:
        with pytest.raises(RemoteError, match="ValueError"):
            server.call(verb, CHANNEL, *arguments)


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("path", ["/connect/{}/", "/events/clubs/{}/", "/events/subscribe/{}/", "/{}/"])
def test_no_path_forges_a_line_of_the_log(server, text, path):
    size = server.log_size()
    for headers in ({}, DATASTAR, DATASTAR | {"last-event-id": "a-1"}):
        server.connect(path=path.format(quote(f"a{text}")), headers=headers).close()
    lines = server.log(size).splitlines()
    assert not [line for line in lines if line.startswith(("ERROR django: forged", "ERROR forged"))]
    assert "\x1b" not in server.log(size)


@pytest.mark.parametrize("text", FORGED[:2])
def test_no_name_forges_a_line_of_the_log(server, channel, text):
    size = server.log_size()
    for name in (f"{channel}{text}", channel):
        for arguments in (("<p>", f"#a{text}"), ("<p>", "#a", text)):
            with pytest.raises(RemoteError, match="ValueError"):
                server.call("elements", name, *arguments)
    assert "\nERROR django: forged" not in server.log(size)


def test_streams_and_refusals_are_stored_by_nobody_and_read_by_no_other_site(server, channel):
    ann = server.login("ann")
    elsewhere = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    stream = ann.connect(path=f"/events/users/{channel}/", headers=elsewhere)
    begun(stream)
    refusals = [
        server.get(f"/events/users/{channel}/", headers=elsewhere | headers)
        for headers in (DATASTAR, DATASTAR | {"last-event-id": "a-1"})
    ]
    assert [answer.status for answer in refusals] == [403, 204]
    for headers in (stream.response_headers, *[answer.headers for answer in refusals]):
        found = {name.lower(): value for name, value in headers.items()}
        assert "no-store" in found["cache-control"]
        assert not [name for name in found if name.startswith("access-control")]
        assert "x-ds-broadcaster-handoff" not in found
