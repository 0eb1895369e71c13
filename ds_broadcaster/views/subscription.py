"""The stream of `{% broadcast_subscribe %}`: a signed token names its channels and its user."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core import signing
from django.http import HttpRequest
from django.utils.decorators import method_decorator

from ..conf import get_settings
from ..streams.requests import is_authenticated
from .channel_view import BroadcastChannelView, NotPermitted

logger = logging.getLogger("ds_broadcaster")

URL_NAME = "subscribe"
REFRESH_URL_NAME = "subscribe-page"
# The signal that tells the page to fetch itself.
REFRESH_SIGNAL = "_broadcastRefresh"
SALT = "ds_broadcaster.subscribe"
# Characters. A token is part of a URL, and servers and proxies accept 8 kB of URL and headers.
MAX_TOKEN_LENGTH = 6000


# The token decides: public pages may subscribe too.
@method_decorator(login_not_required, name="dispatch")
class Subscription(BroadcastChannelView):
    """Opens a stream of the channels in a token, for the token's user."""

    url_path = "subscribe/<str:token>/"
    url_name = URL_NAME

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Take the token out of the arguments, which pages that see the same have in common."""
        super().setup(request, *args, **kwargs)
        self.token: str = self.kwargs.pop("token")

    def has_permission(self) -> bool:
        """Tell whether the token is good; the reason why not is for the log alone."""
        user: Any = getattr(self.request, "user", None)
        try:
            self.channels = read_token(self.token, user)
        except BadToken as error:
            # Without the path, which holds the token.
            logger.warning("Refused a subscription: %s.", error)
            raise NotPermitted(str(error), is_logged=True) from error
        return True

    def channel_name(self) -> list[str]:
        """Return the channels in the token."""
        return list(self.channels)


class PageSubscription(Subscription):
    """The same for a page that shows the current state by fetching itself."""

    url_path = "subscribe/<str:token>/page/"
    url_name = REFRESH_URL_NAME

    def audience(self) -> None:
        """Return the same for all pages: one render tells them all."""

    def render_snapshot(self) -> dict[str, int]:
        """Return a signal with a new value each time: an unchanged snapshot would not be sent."""
        return {REFRESH_SIGNAL: time.time_ns()}


# Tokens.


class BadToken(Exception):
    """A token that opens no stream; the message is the reason, for the log alone."""


def make_token(channels: Sequence[str], user: Any) -> str:
    """Return a token that opens a stream of these channels for this user alone.

    It expires after DS_BROADCASTER_TOKEN_MAX_AGE seconds. The token of an anonymous user, None or AnonymousUser, is for
    all of them. Raises ValueError for more channels than a URL can carry.
    """
    token = signing.dumps([_key(user), *channels], salt=SALT, compress=True)
    if len(token) > MAX_TOKEN_LENGTH:
        raise ValueError(
            f"{len(channels)} channels make a token of {len(token)} characters, and a URL carries {MAX_TOKEN_LENGTH}: "
            "subscribe to fewer channels, or write a BroadcastChannelView, whose channel_name() may return any number "
            "of them."
        )
    return token


def read_token(token: str, user: Any) -> tuple[str, ...]:
    """Return the channels in a token; raise BadToken if it is forged, expired, or another user's."""
    max_age = timedelta(seconds=get_settings().token_max_age)
    try:
        owner, *channels = signing.loads(token, salt=SALT, max_age=max_age)
    except signing.SignatureExpired as error:
        raise BadToken("the token has expired") from error
    except (signing.BadSignature, UnicodeEncodeError) as error:  # Half a surrogate pair cannot be signed.
        raise BadToken("the token was not signed here") from error
    if owner != _key(user):
        raise BadToken(f"{_describe(_key(user))} came with the token of {_describe(owner)}")
    return tuple(channels)


def _key(user: Any) -> str | None:
    return str(user.pk) if is_authenticated(user) else None


def _describe(key: str | None) -> str:
    return "an anonymous user" if key is None else f"user {key!r}"
