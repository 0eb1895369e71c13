"""What a test needs from the machine, and how to get it.

Without it a test is skipped with a sentence that says what to install. Where CI is set it fails: nothing may
go untested there without anybody noticing.

Tests start the servers they need. Those that break nothing can use others: DS_TEST_REDIS_URL names a Redis or Valkey
whose database (the number in the URL) they may empty, DS_TEST_POSTGRES_URL a PostgreSQL whose user may create
databases.
"""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import pytest
from django.conf import settings


def _missing(sentence: str) -> NoReturn:
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI must not skip this test: {sentence}", pytrace=False)
    pytest.skip(sentence)


def require_chromium() -> str:
    """Return the path of a Chromium: the environment variable CHROMIUM, or one on the PATH."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (path := shutil.which(name)):
            return path
    _missing("needs Chromium: `apt-get install chromium`, or name one with CHROMIUM=/path/to/chrome")


def require_apps(*packages: str) -> None:
    """Require the packages of apps, which come with the extra `test` from Python 3.12 on."""
    missing = [each for each in packages if not _is_installed(each)]
    if missing and sys.version_info < (3, 12):
        pytest.skip(f"runs on the newest Python: elsewhere `pip install {' '.join(missing)}`")
    if missing:
        _missing(f"needs {' and '.join(missing)}, of the extra `test`: `pip install {' '.join(missing)}`")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def require_client_bundle(name: str = "datastar.js") -> Path:
    """Return the path of a Datastar client, by default of the one that the test project serves."""
    path = Path(settings.CLIENT_BUNDLE).with_name(name)
    if not path.exists():
        _missing(f"needs a Datastar client: run `python cookbook/fetch_client.py {name}` with a network")
    return path


def require_redis() -> str:
    """Return the path of redis-server."""
    return shutil.which("redis-server") or _missing("needs Redis: `apt-get install redis-server`")


def require_openssl() -> str:
    """Return the path of openssl."""
    return shutil.which("openssl") or _missing("needs OpenSSL's program: `apt-get install openssl`")


def require_postgres() -> Path:
    """Return the folder of PostgreSQL's server programs, such as initdb and postgres."""
    if postgres := shutil.which("postgres"):
        # The link on the PATH may be the only one beside it.
        return Path(postgres).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return folders[-1] if folders else _missing("needs PostgreSQL: `apt-get install postgresql`")


def require_pgbouncer() -> str:
    """Return the path of pgbouncer, which Debian keeps where only root looks."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    return found or _missing("needs pgbouncer: `apt-get install pgbouncer`")


def require_proxy(name: str) -> str:
    """Return the path of nginx, caddy, haproxy or varnishd, which Debian keeps where only root looks."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return found or _missing(f"needs {name}: `apt-get install {name.replace('varnishd', 'varnish')}`")


def require_network_namespaces() -> str:
    """Return the path of `ip`, which may make network namespaces here."""
    ip = shutil.which("ip") or "/usr/sbin/ip"
    if not Path(ip).exists() or os.geteuid() != 0:
        _missing("needs network namespaces: run as root on Linux, with `apt-get install iproute2`")
    return ip
