"""The pinned build of the Datastar client: how its file is known, and where a copy of it comes from."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from base64 import b64encode
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from urllib.request import urlopen

from ..conf import DATASTAR_INTEGRITY, DATASTAR_URL

VERSION = DATASTAR_URL.partition("@")[2].partition("/")[0]

# Datastar is in no package registry. This wheel on PyPI has the same file.
WHEEL = ("stario-create==5.2.0", "stario_create/vendor/datastar.js")

# What reading any of the sources may raise.
Unavailable = (OSError, HTTPException, LookupError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile)


def is_pinned(content: bytes) -> bool:
    """Tell whether this is the file that browsers accept for `{% datastar_script %}`."""
    return f"sha384-{b64encode(hashlib.sha384(content).digest()).decode()}" == DATASTAR_INTEGRITY


def fetch() -> tuple[bytes, str]:
    """Return the pinned client and where it was found: in an installed package, on the CDN, or on PyPI.

    A source whose file has another hash counts as having none. Raises LookupError, which says what each source did.
    """
    failures = []
    for name, read in (("an installed package", installed), ("the CDN", download), ("PyPI", from_pypi)):
        try:
            content = read()
        except Unavailable as error:
            failures.append(f"{name}: {error}")
        else:
            if is_pinned(content):
                return content, name
            failures.append(f"{name}: has another file")
    raise LookupError("; ".join(failures))


def installed() -> bytes:
    """Return the client from a Python package that carries it."""
    for distribution in metadata.distributions():
        for file in distribution.files or ():
            if file.name.startswith("datastar") and file.suffix == ".js":
                path = Path(str(file.locate()))
                content = path.read_bytes() if path.is_file() else b""
                if is_pinned(content):
                    return content
    raise LookupError("none has it")


def download() -> bytes:
    """Return what the CDN has."""
    with urlopen(DATASTAR_URL, timeout=10) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def from_pypi() -> bytes:
    """Return the client from a wheel on PyPI, or on the index that pip is configured for."""
    return from_wheel(*WHEEL)


def from_wheel(requirement: str, member: str) -> bytes:
    """Return one file of a wheel, which pip downloads and does not install."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        # A wheel may require another Python, which does not matter for one file.
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.14", "--retries=1", "--timeout=10"]
        command = [*pip, "download", *options, f"--dest={folder}", requirement]
        if subprocess.run(command, check=False, capture_output=True, timeout=120).returncode:  # noqa: S603
            raise LookupError(f"`pip download {requirement}` fails")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
