"""The log tells of names and paths from outside, none of which can forge a line of it."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.models.outbox import log_failure
from ds_broadcaster.streams.replayed_requests import OriginalRequest, still_allowed
from ds_broadcaster.streams.responses import broker_is_away
from ds_broadcaster.views.subscription import BadToken, make_token, read_token
from tests.fakes import virtual_world

FORGED = "room\nCRITICAL:root:forged"
# Names no line of an SSE event, but some readers of a log begin a new line there.
NO_LINE_BREAK = "room\u2028CRITICAL:root:forged"


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "ds_broadcaster")

    def lines():
        assert caplog.records
        return [entry.getMessage() for entry in caplog.records]

    return lines


async def _answer_500(scope, receive, send):
    await send({"type": "http.response.start", "status": 500, "headers": []})


async def _raise(scope, receive, send):
    raise RuntimeError


@pytest.mark.parametrize("application", [_answer_500, _raise])
def test_path_of_a_request_that_runs_again(lines, application):
    scope = {"type": "http", "method": "GET", "path": FORGED}
    connection = SimpleNamespace(request=OriginalRequest(application, scope), is_open=True, user_id=None)
    assert asyncio.run(still_allowed(connection)) is None
    assert not any("\n" in line for line in lines())


def test_channel_that_the_broker_cannot_serve(lines):
    broker_is_away((FORGED, "other"), BrokerUnavailable("away"))
    assert lines() == [f"A stream of {FORGED!r}, 'other' could not be granted: away"]


def test_channel_of_a_client_that_falls_behind(lines):
    with virtual_world() as world:
        world.client(NO_LINE_BREAK)
        (connection,) = world.connections
        connection.fall_behind()
        world.settle()
    assert lines() == [f"A client on {NO_LINE_BREAK!r} fell behind its history and has to return."]


def test_key_of_a_model_instance(lines):
    instance = SimpleNamespace(pk=FORGED, _meta=SimpleNamespace(label="chat.Message"))
    log_failure(None, instance, "created")
    assert not any("\n" in line for line in lines())


def test_user_of_a_token():
    token = make_token(["room"], SimpleNamespace(pk=FORGED, is_authenticated=True))
    with pytest.raises(BadToken) as refused:
        read_token(token, None)
    assert "\n" not in str(refused.value)
