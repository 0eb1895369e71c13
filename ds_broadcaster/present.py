"""Who is on a channel, as it is shown: one record for each user, made from the parts of all processes."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from django.core.serializers.json import DjangoJSONEncoder

# The largest metadata of one connection, in bytes of JSON: it is carried between processes at each change.
MAX_META_BYTES = 1024

# What a stream says about itself in presence, after the time of that, in seconds since 1970.
Meta = tuple[float, dict[str, Any]]


class Present(NamedTuple):
    """A user on a channel.

    `since` is the time, aware, at which the user joined. `tabs` counts the user's tabs, open and hidden. `away` tells
    that all of them are hidden. `meta` is what their streams said about themselves: see
    BroadcastChannelView.presence_meta().
    """

    user_id: Any
    since: datetime
    tabs: int
    away: bool
    meta: dict[str, Any]


class UserPart(NamedTuple):
    """What one process has of a user on a channel.

    `since` is in seconds since 1970, 0 where it is unknown. `open` and `hidden` are the marks of tabs, see tab_mark();
    `others` counts the connections that name no tab. `meta` has, by its name, each value with the time of its
    connection.
    """

    user: Any
    since: float = 0.0
    is_away: bool = False
    open: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    others: int = 0
    meta: Mapping[str, tuple[float, Any]] = {}


def merged(parts: Iterable[UserPart]) -> list[Present]:
    """Return each user once, in the order of their first part."""
    by_user: dict[Any, list[UserPart]] = {}
    for part in parts:
        by_user.setdefault(part.user, []).append(part)
    return [_present(user, theirs) for user, theirs in by_user.items()]


def merged_meta(metas: Iterable[Mapping[str, tuple[float, Any]]]) -> dict[str, tuple[float, Any]]:
    """Return the newest value of each name, the newest last."""
    found: dict[str, tuple[float, Any]] = {}
    for meta in metas:
        for name, value in meta.items():
            if name not in found or found[name][0] <= value[0]:
                found[name] = value
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _present(user: Any, parts: list[UserPart]) -> Present:
    # A tab that returned to another process is hidden in the former one until its time there is over.
    tabs = {mark for part in parts for mark in (*part.open, *part.hidden)}
    count = len(tabs) + sum(part.others for part in parts)
    since = min((part.since for part in parts if part.since), default=None)
    return Present(
        user,
        datetime.now(UTC) if since is None else datetime.fromtimestamp(since, UTC),
        max(1, count),  # A user who reloads the page has no tab for a moment.
        all(part.is_away for part in parts),
        {name: value for name, (_, value) in merged_meta(part.meta for part in parts).items()},
    )


def tab_mark(tab: str) -> str:
    """Return what stands for a tab's id where others may read it: the id itself is its page's secret."""
    return blake2b(tab.encode(), digest_size=6).hexdigest()


def checked_meta(meta: Any, source: str) -> dict[str, Any] | None:
    """Return a connection's metadata as JSON carries it, None for none.

    `source` names what returned it. Raises TypeError for what is no dict of JSON values, and ValueError for more than
    MAX_META_BYTES.
    """
    if meta is None:
        return None
    if not isinstance(meta, dict) or not all(isinstance(name, str) for name in meta):
        raise TypeError(
            f'{source} must be a small dict of JSON values with strings as names, such as {{"page": 3}}, '
            f"or None, not {meta!r}."
        )
    try:
        text = json.dumps(meta, cls=DjangoJSONEncoder, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{source} must be a small dict of JSON values: {error}.") from error
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_META_BYTES:
        raise ValueError(
            f"{source} has {size} bytes of JSON, and {MAX_META_BYTES} are the most: it goes to every process at each "
            "change. Keep a key in it, and look up the rest where it is shown."
        )
    loaded: dict[str, Any] = json.loads(text)
    return loaded or None
