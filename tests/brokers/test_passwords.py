"""No message shows a password: not those about wrong settings, nor those about servers that are away."""

import asyncio
import traceback

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ds_broadcaster.brokers import create_broker
from ds_broadcaster.brokers.redis import RedisBroker
from ds_broadcaster.checks import check_settings
from ds_broadcaster.conf import History, get_settings
from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.testing.brokers.receiver import RecordingReceiver
from tests.harness.redis import RedisServer

REDIS = "ds_broadcaster.brokers.redis.RedisBroker"
POSTGRES = "ds_broadcaster.brokers.postgres.PostgresBroker"

WRONG = [
    {"BACKEND": REDIS, "LOCATION": "redis//:s3cret@host:6379"},
    {"BACKEND": REDIS, "LOCATION": "http://user:s3cret@host"},
    {"BACKEND": REDIS, "LOCATION": "redis://:s3cret@host:port/0"},
    {"BACKEND": REDIS, "LOCATION": "redis://:s3cret/word@host"},
    {"BACKEND": REDIS, "LOCATION": "redis://:s3cret@host:99999/0"},
    {"BACKEND": REDIS, "LOCATION": "redis://:s3cret@[host/0"},
    {"BACKEND": REDIS, "LOCATION": "redis://host/0?password=s3cret&socket_timeout=soon"},
    {"BACKEND": REDIS, "LOCATION": "unix://:s3cret@"},
    {"BACKEND": REDIS, "LOCATION": ["redis://:s3cret@a", "redis://:s3cret@b"]},
    {"BACKEND": REDIS, "LOCATION": ["redis://:s3cret@a", "b:s3cret@c"], "OPTIONS": {"cluster": True}},
    {"BACKEND": REDIS, "LOCATION": ["redis://:s3cret@a"], "OPTIONS": {"cluster": True, "sentinel": "main"}},
    {"BACKEND": REDIS, "LOCATION": "redis://a", "OPTIONS": {"prefix": "{s3cret}"}},
    {"BACKEND": REDIS, "LOCATION": "redis://a", "OPTIONS": {"db": "s3cret"}},
    {"BACKEND": REDIS, "LOCATION": ("redis://:s3cret@host",)},
    {"BACKEND": REDIS, "LOCATION": b"redis://:s3cret@host"},
    {"BACKEND": REDIS, "LOCATION": ["redis://:s3cret@host", 6379]},
    {"BACKEND": REDIS, "LOCATION": {"url": "redis://:s3cret@host"}},
    {"BACKEND": REDIS, "OPTIONS": "s3cret"},
    {"BACKEND": REDIS, "OPTIONS": [("password", "s3cret")]},
    {"BACKEND": REDIS, "PASSWORD": "s3cret"},
    {"BACKEND": POSTGRES, "LOCATION": "postgres://user:s3cret@host/name"},
    {"BACKEND": POSTGRES, "OPTIONS": {"listen": "postgres://user:s3cret@host/name"}},
    {"BACKEND": POSTGRES, "OPTIONS": {"password": "s3cret"}},
    {"BACKEND": "redis://:s3cret@host"},
    "redis://:s3cret@host",
    ["redis://:s3cret@host"],
]


@pytest.mark.parametrize("setting", WRONG, ids=range(len(WRONG)))
def test_wrong_setting_is_named_and_not_shown(setting):
    with override_settings(DS_BROADCASTER_BROKER=setting):
        with pytest.raises(ImproperlyConfigured) as caught:
            create_broker(get_settings())
        [message] = check_settings()
    told = "".join(traceback.format_exception(caught.value)) + str(message)
    assert "DS_BROADCASTER_BROKER" in str(caught.value)
    assert "s3cret" not in told
    assert "word@" not in told


@pytest.mark.brokers
@pytest.mark.parametrize("trouble", ["refused", "away", "unwatched", "scattered"])
def test_server_that_cannot_be_asked_is_named_without_its_password(trouble, caplog):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        with pytest.raises(BrokerUnavailable) as caught:
            await broker.subscribe(receiver, "a")
        broker.detach(receiver)
        return "".join(traceback.format_exception(caught.value))

    options = {
        "refused": {},
        "away": {"password": "s3cret"},
        "unwatched": {"sentinel": "main", "password": "s3cret"},
        "scattered": {"cluster": True, "password": "s3cret"},
    }
    with RedisServer(password="another") as server:
        location = server.url.replace("another", "s3cret") if trouble != "away" else "redis://:s3cret@127.0.0.1:1/0"
        broker = RedisBroker(location, options[trouble], History())
        try:
            with pytest.raises(BrokerUnavailable) as caught:
                broker.publish("a", b"x\n\n")
            told = "".join(traceback.format_exception(caught.value)) + asyncio.run(test()) + caplog.text
        finally:
            broker.close()
    assert "Redis" in told
    assert "trying again" in caplog.text
    assert "s3cret" not in told


@pytest.mark.brokers
def test_message_about_replicas_says_once_what_could_not_be_asked():
    broker = RedisBroker("redis://127.0.0.1:1/0", {"replicas": 1}, History())
    with pytest.raises(BrokerUnavailable) as caught:
        broker.publish("a", b"x\n\n")
    broker.close()
    assert str(caught.value).count("could not be asked") == 1
