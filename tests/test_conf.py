"""The settings: each with its default, each mistake with what to write instead."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pydantic import ValidationError

from ds_broadcaster import EventTooLarge, conf
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.conf import EXAMPLES, PREFIX, Settings, get_settings, problems

DEFAULTS = {
    "HEARTBEAT_INTERVAL": 15,
    "BROKER": {"BACKEND": "ds_broadcaster.brokers.memory.MemoryBroker", "LOCATION": "", "OPTIONS": {}},
    "HISTORY": {"max_events": 100, "max_age": 300, "max_bytes": 2**20, "max_total_bytes": 64 * 2**20},
    "PRESENCE_AWAY": 300,
    "PRESENCE_GRACE": 2,
    "PRESENCE_INTERVAL": 0.25,
    "REFRESH_INTERVAL": 0.5,
    "REFRESH_SPREAD": 1,
    "RECHECK_INTERVAL": 300,
    "MAX_EVENT_BYTES": 2**20,
    "MAX_CONNECTIONS": None,
    "MAX_CONNECTIONS_PER_USER": 50,
    "MAX_CHANNELS_PER_STREAM": 200,
    "COMPRESSION": True,
    "LANGUAGE": None,
    "TOKEN_MAX_AGE": 86_400,
    "INSPECTOR": True,
    "DATASTAR_URL": "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.4/bundles/datastar.js",
    "DATASTAR_STATIC": None,
}
NAN, INFINITY = float("nan"), float("inf")


def given(name, value):
    return override_settings(**{PREFIX + name: value})


def test_every_setting_has_its_default():
    assert {name.upper(): value for name, value in get_settings().model_dump().items()} == DEFAULTS
    assert problems() == []


def test_every_setting_has_an_example_that_is_right():
    assert EXAMPLES.keys() == {name.upper() for name in Settings.model_fields} == DEFAULTS.keys()
    for name, example in EXAMPLES.items():
        value = eval(example.partition(" (")[0])
        with given(name, value):
            assert get_settings().model_dump()[name.lower()] == value == DEFAULTS[name]


@pytest.mark.parametrize(
    "name, value",
    [
        ("HEARTBEAT_INTERVAL", 0.5),
        ("HEARTBEAT_INTERVAL", 60),
        ("PRESENCE_AWAY", 0),
        ("PRESENCE_GRACE", 0),
        ("PRESENCE_INTERVAL", 1),
        ("REFRESH_INTERVAL", 2),
        ("REFRESH_SPREAD", 0),
        ("RECHECK_INTERVAL", 5),
        ("MAX_EVENT_BYTES", 1),
        ("MAX_CONNECTIONS", 1000),
        ("MAX_CONNECTIONS_PER_USER", None),
        ("MAX_CHANNELS_PER_STREAM", 1),
        ("COMPRESSION", False),
        ("LANGUAGE", "de"),
        ("TOKEN_MAX_AGE", 60),
        ("INSPECTOR", False),
        ("DATASTAR_URL", "/static/datastar.js"),
        ("DATASTAR_STATIC", "js/datastar.js"),
        ("BROKER", {"BACKEND": "somewhere.Broker", "LOCATION": ["redis://a", "redis://b"], "OPTIONS": {"a": 1}}),
        ("HISTORY", {"max_events": 1, "max_age": 0.5, "max_bytes": 1, "max_total_bytes": 1}),
    ],
)
def test_override_settings_takes_effect_and_ends(name, value):
    with given(name, value):
        assert get_settings().model_dump()[name.lower()] == value
    assert get_settings().model_dump()[name.lower()] == DEFAULTS[name]


def test_setting_of_several_values_may_name_some():
    with given("HISTORY", {"max_events": 7}), given("BROKER", {"LOCATION": "here"}):
        assert get_settings().history.max_events == 7
        assert get_settings().history.max_age == 300
        assert get_settings().broker.LOCATION == "here"
        assert DEFAULTS["BROKER"]["BACKEND"] == get_settings().broker.BACKEND


MISTAKES = [
    *(
        (name, value)
        for name in ("HEARTBEAT_INTERVAL", "PRESENCE_INTERVAL", "REFRESH_INTERVAL", "RECHECK_INTERVAL")
        for value in (0, -1, "15", None, True, NAN, INFINITY, [15])
    ),
    *(
        (name, value)
        for name in ("PRESENCE_AWAY", "PRESENCE_GRACE")
        for value in (-0.1, "2", None, True, NAN, INFINITY)
    ),
    *(
        (name, value)
        for name in ("MAX_EVENT_BYTES", "MAX_CHANNELS_PER_STREAM")
        for value in (0, -1, 1.5, "1", None, True)
    ),
    *(
        (name, value)
        for name in ("MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_USER")
        for value in (0, -1, 1.5, "1", True, [50])
    ),
    *(("DATASTAR_URL", value) for value in ("", None, 3, b"x")),
    *(("DATASTAR_STATIC", value) for value in ("", 3, True, "/static/datastar.js", "https://cdn.example/datastar.js")),
    *(("BROKER", value) for value in ("ds_broadcaster.brokers.memory.MemoryBroker", None, ["x"], 3)),
    *(("HISTORY", value) for value in (100, None, "100", [100])),
]


@pytest.mark.parametrize("name, value", MISTAKES)
def test_mistake_is_one_message_with_the_name_and_a_right_value(name, value):
    with given(name, value):
        ((setting, message, hint),) = problems()
        assert setting == f"DS_BROADCASTER_{name}"
        shown = "" if name == "BROKER" else f" = {value!r}"  # It may have a password.
        assert message.startswith(f"DS_BROADCASTER_{name}{shown} is wrong: ")
        assert hint == f"Write for example DS_BROADCASTER_{name} = {EXAMPLES[name]}."
        with pytest.raises(ImproperlyConfigured) as caught:
            get_settings()
        assert str(caught.value) == f"{message} {hint}"


@pytest.mark.parametrize(
    "name, value, place",
    [
        ("HISTORY", {"max_events": 0}, "['max_events'] = 0 "),
        ("HISTORY", {"max_events": 1.5}, "['max_events'] = 1.5 "),
        ("HISTORY", {"max_age": "5m"}, "['max_age'] = '5m' "),
        ("HISTORY", {"max_bytes": -1}, "['max_bytes'] = -1 "),
        ("HISTORY", {"max_total_bytes": None}, "['max_total_bytes'] = None "),
        ("HISTORY", {"max_event": 5}, "['max_event'] = 5 "),
        ("BROKER", {"BACKEND": None}, "['BACKEND'] "),
        ("BROKER", {"backend": "x"}, "['backend'] "),
        ("BROKER", {"OPTIONS": []}, "['OPTIONS'] "),
        ("BROKER", {"LOCATION": 5}, "['LOCATION'] "),
    ],
)
def test_mistake_inside_a_setting_is_one_message_that_says_where(name, value, place):
    with given(name, value):
        ((setting, message, hint),) = problems()
        assert setting == f"DS_BROADCASTER_{name}"
        assert message.startswith(f"DS_BROADCASTER_{name}{place}is wrong: ")
        assert EXAMPLES[name] in hint


@pytest.mark.parametrize("url", ["/static/datastar.js", DEFAULTS["DATASTAR_URL"]])
def test_two_clients_are_one_too_many(url):
    with given("DATASTAR_STATIC", "datastar.js"), given("DATASTAR_URL", url):
        (problem,) = problems()
        assert problem.is_error
        assert problem.message == (
            "DS_BROADCASTER_DATASTAR_STATIC and DS_BROADCASTER_DATASTAR_URL are both set: choose one."
        )
        with pytest.raises(ImproperlyConfigured, match="choose one"):
            get_settings()
    with given("DATASTAR_STATIC", None), given("DATASTAR_URL", url):
        assert problems() == []


def test_several_mistakes_are_several_messages():
    with given("HEARTBEAT_INTERVAL", 0), given("MAX_EVENT_BYTES", "x"), given("HISTORY", {"max_age": 0, "a": 1}):
        assert sorted(setting for setting, _, _ in problems()) == [
            "DS_BROADCASTER_HEARTBEAT_INTERVAL",
            "DS_BROADCASTER_HISTORY",
            "DS_BROADCASTER_HISTORY",
            "DS_BROADCASTER_MAX_EVENT_BYTES",
        ]
        with pytest.raises(ImproperlyConfigured) as caught:
            get_settings()
        assert str(caught.value).count("is wrong") == 4


def test_unknown_name_is_reported_with_the_nearest_and_stops_nothing():
    with given("HEARTBEAT_INTERVALL", 3):
        assert problems() == [
            (
                "DS_BROADCASTER_HEARTBEAT_INTERVALL",
                "DS_BROADCASTER_HEARTBEAT_INTERVALL is not a setting of ds_broadcaster.",
                "Did you mean DS_BROADCASTER_HEARTBEAT_INTERVAL?",
            )
        ]
        assert get_settings().heartbeat_interval == 15
    with given("QQQ", 3):
        ((_, _, hint),) = problems()
        assert all(name in hint for name in EXAMPLES)


def test_settings_cannot_be_changed_behind_the_projects_back():
    with pytest.raises(ValidationError, match="frozen"):
        get_settings().presence_grace = 5


def test_settings_are_read_once():
    assert get_settings() is get_settings()
    with override_settings(DEBUG=True):
        assert conf._load.cache_info().currsize == 1


def test_event_size_limit_takes_effect_at_once():
    broadcaster = Broadcaster()
    broadcaster("room", "x" * 100)
    with given("MAX_EVENT_BYTES", 100), pytest.raises(EventTooLarge, match="DS_BROADCASTER_MAX_EVENT_BYTES allows 100"):
        broadcaster("room", "x" * 100)
    broadcaster("room", "x" * 100)
