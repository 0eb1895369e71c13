"""The servers that are attacked: both modes, and a process that shares each broker and gives the commands."""

import contextlib
import os
from dataclasses import dataclass

import pytest

from tests.brokers.test_cluster import OverPostgres, OverRedis
from tests.harness.server import Server

# FULL_ATTACK=1 attacks every mode over every broker, at length.
FULL = bool(os.environ.get("FULL_ATTACK"))
BROKERS = {"memory": None, "redis": OverRedis, "postgres": OverPostgres}
SHORT = ["handoff/memory", "plain/redis", "handoff/postgres"]
WORLDS = [f"{mode}/{broker}" for broker in BROKERS for mode in ("handoff", "plain")] if FULL else SHORT


@dataclass
class Site:
    """A server with streams, and the one from which commands come: itself, or another process over the broker."""

    server: Server
    other: Server


@contextlib.contextmanager
def running(world, **settings):
    """Start what `world` names, as in "handoff/redis"."""
    mode, _, name = world.partition("/")
    with contextlib.ExitStack() as stack:
        settings = {"ROOT_URLCONF": "tests.attack.site", "DS_BROADCASTER_PRESENCE_GRACE": 0} | settings
        if BROKERS[name] is not None:
            settings |= stack.enter_context(BROKERS[name]().running()).settings
        server = stack.enter_context(Server(mode=mode, settings=settings))
        other = server if BROKERS[name] is None else stack.enter_context(Server(mode=mode, settings=settings))
        yield Site(server, other)


@pytest.fixture(scope="module", params=WORLDS)
def site(request, django_db_setup):
    with running(request.param) as site:
        yield site
