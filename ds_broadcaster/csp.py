"""What a Content-Security-Policy has to allow: the client's file, its expressions, and the streams of the site."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

# In the settings of Django's and django-csp's middleware an object stands for the nonce of a page; the header has it.
_NONCE = re.compile(r"NONCE|^'nonce-", re.IGNORECASE)
_HASH = re.compile(r"'sha(?:256|384|512)-")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

EVAL = "ds_broadcaster.W031"
CLIENT = "ds_broadcaster.W032"
STREAMS = "ds_broadcaster.W033"


class Problem(NamedTuple):
    """What a policy stops, and what to write instead; `id` is that of the system check."""

    id: str
    message: str
    hint: str


Policy = Mapping[str, Collection[str]]


def parsed(header: str) -> Iterator[Policy]:
    """Yield the policies in a header: each of them has to allow what a page does."""
    for policy in header.split(","):
        directives: dict[str, list[str]] = {}
        for directive in policy.split(";"):
            name, *sources = directive.split() or [""]
            directives.setdefault(name.lower(), sources)
        yield directives


def problems(policy: Policy, client: str | None, *, has_attribute: bool, host: str | None = None) -> Iterator[Problem]:
    """Yield what a policy stops of a page with an element of ours.

    `client` is the address of the client's file, None where it is not known. `has_attribute` tells whether the page's
    root element has the nonce. `host` is the site's own; without it, any host that the policy names may be.
    """
    scripts = _sources(policy, "script-src")
    if scripts is not None and "'unsafe-eval'" not in scripts and not (has_nonce(scripts) and has_attribute):
        yield Problem(
            EVAL,
            "The Content-Security-Policy stops the Datastar client: pages stay at `connecting`, with an EvalError in "
            "the browser's console.",
            "With a nonce in script-src, write `<html {% datastar_nonce %}>` in the pages' templates. Or add "
            "'unsafe-eval' to script-src.",
        )
    files = _sources(policy, "script-src-elem", "script-src")
    # The element has the nonce; with 'strict-dynamic' it is all that counts.
    if client and files is not None and not has_nonce(files) and not _allows_file(files, client, host):
        source = _origin(client) or "'self'"
        yield Problem(
            CLIENT,
            f"The Content-Security-Policy does not allow the file of the Datastar client, {client}: pages stay as they "
            "are rendered.",
            f"Add {source} to script-src, or a nonce, which {{% datastar_script %}} writes.",
        )
    connections = _sources(policy, "connect-src")
    if connections is not None and not _allows_own(connections, host):
        yield Problem(
            STREAMS,
            "The Content-Security-Policy does not allow the site's streams: pages stay at `connecting`, then `lost`.",
            "Add 'self' to connect-src.",
        )


def has_nonce(sources: Collection[str]) -> bool:
    """Tell whether a nonce is among the sources of a directive."""
    return any(_NONCE.search(each) for each in sources)


def _sources(policy: Policy, *names: str) -> Collection[str] | None:
    """Return the sources of the first of these directives that the policy has, None where all are allowed."""
    return next((policy[name] for name in (*names, "default-src") if name in policy), None)


def _allows_file(sources: Collection[str], url: str, host: str | None) -> bool:
    if "'strict-dynamic'" in sources:
        return False
    if any(_HASH.match(each) for each in sources):
        return True  # Browsers differ in whether the hash of a file is enough.
    if _origin(url) is None:
        return _allows_own(sources, host)
    address = urlsplit(url if "://" in url else f"https:{url}")
    return any(_matches(each, address.scheme, address.hostname or "") for each in sources)


def _allows_own(sources: Collection[str], host: str | None) -> bool:
    if "'self'" in sources:
        return True
    if host is None:
        return any(not each.startswith("'") for each in sources)
    return any(_matches(each, None, host) for each in sources)


def _matches(source: str, scheme: str | None, host: str) -> bool:
    """Tell whether a source allows a host; paths and ports are taken as they are meant to be."""
    if source == "*":
        return True
    if source.startswith("'"):
        return False
    if _SCHEME.fullmatch(source):
        return scheme is None or source.lower() in (f"{scheme}:", "http:")
    named = (urlsplit(source if "://" in source else f"//{source}").hostname or "").lower()
    return host.endswith(named[1:]) if named.startswith("*.") else named == host.lower()


def _origin(url: str) -> str | None:
    """Return the origin of an address elsewhere, None for the site's own."""
    if url.startswith("/") and not url.startswith("//"):
        return None
    parts = urlsplit(url if "://" in url else f"https:{url}")
    return f"{parts.scheme}://{parts.netloc}"
