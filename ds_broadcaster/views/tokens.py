"""Signed subscriptions: which channels a page may listen to, told by the page's own render."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.core import signing

from ..conf import get_settings

SALT = "ds_broadcaster.subscribe"
# A token is part of a URL, and servers and proxies take 8 kB of one and its headers.
LONGEST = 6000


class BadToken(Exception):
    """A token that opens nothing; the message is the reason, for the log alone."""


def make_token(channels: Sequence[str], user: Any) -> str:
    """Return a token with which this user alone may listen to these channels.

    It is good for DS_BROADCASTER_TOKEN_MAX_AGE seconds. Nobody logged in (None, or AnonymousUser) is a user here
    too. Raises ValueError for more channels than a URL can carry.
    """
    token = signing.dumps([_key(user), *channels], salt=SALT, compress=True)
    if len(token) > LONGEST:
        raise ValueError(
            f"{len(channels)} channels make a token of {len(token)} characters, and a URL carries {LONGEST}: subscribe "
            "to fewer channels, or write a BroadcastChannelView, whose channel_name() may return any number of them."
        )
    return token


def read_token(token: str, user: Any) -> tuple[str, ...]:
    """Return the channels in a token; raises BadToken if it was tampered with, is too old, or not this user's."""
    max_age = timedelta(seconds=get_settings().token_max_age)
    try:
        owner, *channels = signing.loads(token, salt=SALT, max_age=max_age)
    except signing.SignatureExpired as error:
        raise BadToken("the token has expired") from error
    except signing.BadSignature as error:
        raise BadToken("the token was not signed here") from error
    if owner != _key(user):
        raise BadToken(f"{_say(_key(user))} came with the token of {_say(owner)}")
    return tuple(channels)


def _key(user: Any) -> str | None:
    return str(user.pk) if user is not None and user.is_authenticated else None


def _say(key: str | None) -> str:
    return "nobody logged in" if key is None else f"user {key}"
