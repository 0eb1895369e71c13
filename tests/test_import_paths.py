"""The import paths that users have: whatever moves inside, these stay."""

from importlib import import_module

import pytest

PATHS = [
    ("ds_broadcaster", "BroadcastChannelView"),
    ("ds_broadcaster", "BroadcastOnSave"),
    ("ds_broadcaster", "BroadcasterError"),
    ("ds_broadcaster", "BrokerUnavailable"),
    ("ds_broadcaster", "EventTooLarge"),
    ("ds_broadcaster", "Present"),
    ("ds_broadcaster", "bind_broadcasts"),
    ("ds_broadcaster", "broadcast"),
    ("ds_broadcaster", "broadcast_saved"),
    ("ds_broadcaster", "suppress_broadcasts"),
    ("ds_broadcaster.asgi", "get_asgi_application"),
    ("ds_broadcaster.brokers", "Broker"),
    ("ds_broadcaster.brokers.memory", "MemoryBroker"),
    ("ds_broadcaster.brokers.packing", "pack_user"),
    ("ds_broadcaster.brokers.postgres", "PostgresBroker"),
    ("ds_broadcaster.brokers.redis", "RedisBroker"),
    ("ds_broadcaster.conf", "get_settings"),
    ("ds_broadcaster.contrib.postgres.apps", "PostgresConfig"),
    ("ds_broadcaster.exceptions", "BroadcasterError"),
    ("ds_broadcaster.exceptions", "BrokerUnavailable"),
    ("ds_broadcaster.exceptions", "EventTooLarge"),
    ("ds_broadcaster.exceptions", "Gap"),
    ("ds_broadcaster.ids", "dom_id"),
    ("ds_broadcaster.log", "Log"),
    ("ds_broadcaster.middleware", "BroadcasterMiddleware"),
    ("ds_broadcaster.models", "BroadcastOnSave"),
    ("ds_broadcaster.signals", "connection_closed"),
    ("ds_broadcaster.signals", "connection_opened"),
    ("ds_broadcaster.signals", "user_away"),
    ("ds_broadcaster.signals", "user_back"),
    ("ds_broadcaster.signals", "user_joined"),
    ("ds_broadcaster.signals", "user_left"),
    ("ds_broadcaster.templatetags.ds_broadcaster", "register"),
    ("ds_broadcaster.testing", "BrokerContract"),
    ("ds_broadcaster.urls", "urlpatterns"),
    ("ds_broadcaster.views", "BroadcastChannelView"),
]


@pytest.mark.parametrize("module, name", PATHS)
def test_path_stays(module, name):
    assert hasattr(import_module(module), name)
