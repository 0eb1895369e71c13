"""The settings: flat, named DS_BROADCASTER_*, validated here and nowhere else."""

import difflib
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_core import PydanticCustomError

PREFIX = "DS_BROADCASTER_"

# The build of the Datastar client that this version is tested with, and its hash for browsers.
DATASTAR_URL = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.4/bundles/datastar.js"
DATASTAR_INTEGRITY = "sha384-twbOvafhSBQ0rJDNPzJdUw6DRvthVgAVfSIG1BQVmCiNO7Qh2zeVn7T5qstgjJ9q"

# What the message about each setting suggests instead.
EXAMPLES = {
    "HEARTBEAT_INTERVAL": "15 (seconds, more than 0)",
    "BROKER": '{"BACKEND": "ds_broadcaster.brokers.memory.MemoryBroker", "LOCATION": "", "OPTIONS": {}}',
    "HISTORY": '{"max_events": 100, "max_age": 300, "max_bytes": 1_048_576, "max_total_bytes": 67_108_864}',
    "PRESENCE_GRACE": "2 (seconds, 0 or more)",
    "PRESENCE_AWAY": "300 (seconds, 0 switches it off)",
    "PRESENCE_INTERVAL": "0.25 (seconds, more than 0)",
    "REFRESH_INTERVAL": "0.5 (seconds, more than 0)",
    "REFRESH_SPREAD": "1 (seconds, 0 or more)",
    "RECHECK_INTERVAL": "300 (seconds, more than 0)",
    "MAX_EVENT_BYTES": "1_048_576 (bytes, more than 0)",
    "MAX_CONNECTIONS": "None (no limit, or a number such as 10_000)",
    "MAX_CONNECTIONS_PER_USER": "50 (None for no limit)",
    "MAX_CHANNELS_PER_STREAM": "200",
    "COMPRESSION": "True (False switches it off)",
    "LANGUAGE": 'None (the language that is active when a model is saved), or a code such as "en"',
    "TOKEN_MAX_AGE": "86_400 (seconds, more than 0)",
    "INSPECTOR": "True (False switches it off)",
    "DATASTAR_URL": f'"{DATASTAR_URL}"',
    "DATASTAR_STATIC": 'None (the client of DATASTAR_URL), or the name of a static file such as "datastar.js"',
}


class _Strict(BaseModel):
    """No silent conversions ("15" is not a number of seconds), no unknown keys, no changes after the start."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class History(_Strict):
    """How much of each channel is kept for clients that return or are slow.

    `max_age` is in seconds, the sizes are in bytes; `max_total_bytes` caps all channels together.
    """

    max_events: PositiveInt = 100
    max_age: PositiveFloat = 300
    max_bytes: PositiveInt = 1 << 20
    max_total_bytes: PositiveInt = 64 << 20


class BrokerSettings(_Strict):
    """Shaped like an entry of Django's CACHES."""

    BACKEND: str = "ds_broadcaster.brokers.memory.MemoryBroker"
    LOCATION: str | list[str] = ""
    OPTIONS: dict[str, Any] = Field(default_factory=dict)


class Settings(_Strict):
    """Every setting with its default; the attribute `heartbeat_interval` is DS_BROADCASTER_HEARTBEAT_INTERVAL."""

    heartbeat_interval: PositiveFloat = 15
    broker: BrokerSettings = BrokerSettings()
    history: History = History()
    presence_grace: float = Field(2, ge=0)
    presence_away: float = Field(300, ge=0)
    presence_interval: PositiveFloat = 0.25
    refresh_interval: PositiveFloat = 0.5
    refresh_spread: float = Field(1, ge=0)
    recheck_interval: PositiveFloat = 300
    max_event_bytes: PositiveInt = 1 << 20
    max_connections: PositiveInt | None = None
    max_connections_per_user: PositiveInt | None = 50
    max_channels_per_stream: PositiveInt = 200
    compression: bool = True
    language: str | None = Field(None, min_length=1)
    token_max_age: PositiveFloat = 86_400
    inspector: bool = True
    datastar_url: str = Field(DATASTAR_URL, min_length=1)
    datastar_static: str | None = Field(None, min_length=1)

    @field_validator("datastar_static")
    @classmethod
    def _is_name_of_static_file(cls, name: str | None) -> str | None:
        if name is not None and is_address(name):
            raise PydanticCustomError(
                "static", "the name of a static file is as in {{% static %}}, without its address"
            )
        return name


def client_url() -> str:
    """Return the address of the client's file, which is a static file of the project or an address in the settings.

    Raises what the project's storage raises for a static file that it does not have.
    """
    chosen = get_settings()
    url = chosen.datastar_static or chosen.datastar_url
    # A URL without a slash in front is that of a static file too, as in the Media of a form.
    return url if is_address(url) else static(url)


def is_address(url: str) -> bool:
    """Tell whether a browser finds this URL from each page: it is no path of a static file."""
    return url.startswith(("/", "http://", "https://"))


def _given() -> dict[str, Any]:
    """Return the DS_BROADCASTER_* settings that the project sets."""
    return {name: getattr(django_settings, name) for name in dir(django_settings) if name.startswith(PREFIX)}


class Problem(NamedTuple):
    """A setting, what is wrong with it, and what to write instead."""

    setting: str
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        """Tell whether streams cannot be served like this. An unknown setting does no harm."""
        return self.setting.removeprefix(PREFIX) in EXAMPLES


def problems() -> list[Problem]:
    """Return what is wrong in the project's settings."""
    return _load()[1]


def get_settings() -> Settings:
    """Return the validated settings; raises ImproperlyConfigured with every mistake in them."""
    settings, found = _load()
    if settings is None:
        raise ImproperlyConfigured(" ".join(f"{each.message} {each.hint}" for each in found if each.is_error))
    return settings


@lru_cache(maxsize=1)
def _load() -> tuple[Settings | None, list[Problem]]:
    values: dict[str, Any] = {}
    found = []
    for setting, value in _given().items():
        name = setting.removeprefix(PREFIX)
        if name in EXAMPLES:
            values[name.lower()] = value
        else:
            near = difflib.get_close_matches(name, EXAMPLES, n=1)
            hint = f"Did you mean {PREFIX}{near[0]}?" if near else f"The settings are {', '.join(EXAMPLES)}."
            found.append(Problem(setting, f"{setting} is not a setting of ds_broadcaster.", hint))
    if values.get("datastar_static") and "datastar_url" in values:
        both = f"{PREFIX}DATASTAR_STATIC", f"{PREFIX}DATASTAR_URL"
        hint = f"Keep {both[0]} for a static file of the project, or {both[1]} for a client of another place."
        return None, [*found, Problem(both[0], f"{both[0]} and {both[1]} are both set: choose one.", hint)]
    try:
        return Settings.model_validate(values), found
    except ValidationError as error:
        # By place: where a value may be of several types, pydantic complains once for each of them.
        complaints = {detail["loc"][:2]: detail for detail in reversed(error.errors())}
    for (field, *path), detail in sorted(complaints.items(), key=str):
        setting = f"{PREFIX}{str(field).upper()}"
        place = setting + "".join(f"[{key!r}]" for key in path)
        # LOCATION and OPTIONS have passwords, and no message may show them.
        value = f" = {detail['input']!r}" if field != "broker" else ""
        message = f"{place}{value} is wrong: {detail['msg']}."
        hint = f"Write for example {setting} = {EXAMPLES[str(field).upper()]}."
        found.append(Problem(setting, message, hint))
    return None, found


def forget_settings(*, setting: str = PREFIX, **kwargs: Any) -> None:
    """Read the settings again at their next use; receives Django's setting_changed."""
    if setting.startswith(PREFIX):
        _load.cache_clear()
