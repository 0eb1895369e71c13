"""Fetch the Datastar client once, so that the demo and the browser tests need no network afterwards.

The Datastar project publishes its client to a CDN, not to a package registry. A wheel on PyPI contains the same client
(v1.0.1, self-contained). This script extracts that one file, verifies it and puts it into `client/`, which is never
committed. Without a network it prints a message and exits normally; the demo then uses the CDN.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "starhtml==0.7.0"
MEMBER = "starhtml/static/js/datastar-core.js"
SHA256 = "31c8c9efb895beadeba5f73407c3ca60201dee321c5dea56c182817b475bde9f"
TARGET = Path(__file__).resolve().parent / "client" / "datastar.js"


def is_the_client(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256


def download() -> bytes:
    """Return the client's bytes from the wheel."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        # The wheel requires Python 3.12, which does not matter for the one file we take from it.
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--retries=1"]
        command = [*pip, "download", *options, f"--dest={folder}", PACKAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MEMBER)


def main() -> None:
    if TARGET.exists() and is_the_client(TARGET.read_bytes()):
        TARGET.touch()
        return
    try:
        content = download()
    except (OSError, ValueError, KeyError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        reason = type(error).__name__
        print(f"The Datastar client could not be fetched ({reason}); the demo will use the CDN.")
        return
    if not is_the_client(content):
        print(f"{MEMBER} of {PACKAGE} is not the expected file; the demo will use the CDN.")
        return
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(content)
    print(f"The Datastar client is in {TARGET.parent.name}/{TARGET.name}.")


if __name__ == "__main__":
    main()
