"""Fetch the Datastar client once, so that the demo and the browser tests need no network afterwards.

The Datastar project publishes its client to a CDN, not to a package registry. Wheels on PyPI contain the same files:
v1.0.4, the version that the package pins, which the demo serves; and v1.0.1, the oldest that is supported, on which the
tests run again what depends on the client. This script extracts one of them, verifies it and puts it into `client/`,
which is never committed. Without a network it prints a message and exits normally; the demo then uses the CDN.

`manage.py broadcaster_client` is what a project of your own has for this.
"""

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

try:
    from ds_broadcaster.management.pinned_client import WHEEL, Unavailable, from_wheel
except ImportError as error:
    sys.exit(f"Install the package first, with `pip install -e .`: {error}.")

FOLDER = Path(__file__).resolve().parent / "client"


class Client(NamedTuple):
    package: str
    member: str
    sha256: str

    def is_in(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.sha256


# By the name of the file.
CLIENTS = {
    "datastar.js": Client(
        *WHEEL,
        "727844adfc825ee651fb93c544a2a739986f9a21820a94524b35f0cac470cf91",
    ),
    "datastar-1.0.1.js": Client(
        "starhtml==0.7.0",
        "starhtml/static/js/datastar-core.js",
        "31c8c9efb895beadeba5f73407c3ca60201dee321c5dea56c182817b475bde9f",
    ),
}


def fetch(name: str) -> None:
    client, target = CLIENTS[name], FOLDER / name
    if target.exists() and client.is_in(target.read_bytes()):
        target.touch()
        return
    try:
        content = from_wheel(client.package, client.member)
    except Unavailable as error:
        reason = type(error).__name__
        print(f"The Datastar client could not be fetched ({reason}); the demo will use the CDN.")
        return
    if not client.is_in(content):
        print(f"{client.member} of {client.package} is not the expected file; the demo will use the CDN.")
        return
    FOLDER.mkdir(exist_ok=True)
    target.write_bytes(content)
    print(f"The Datastar client is in {FOLDER.name}/{name}.")


if __name__ == "__main__":
    fetch(sys.argv[1] if len(sys.argv) > 1 else "datastar.js")
