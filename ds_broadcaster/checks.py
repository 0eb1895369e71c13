"""System checks of a project: its settings, its asgi.py, its number of workers."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.core.files.storage import FileSystemStorage
from django.template import engines

from . import csp
from .brokers import create_broker
from .brokers.memory import WHAT_TO_SET, worker_count
from .conf import client_url, get_settings, is_address, problems

MEMORY_BROKER = "ds_broadcaster.brokers.memory.MemoryBroker"


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Report each mistake in the DS_BROADCASTER_* settings, and a broker that cannot be made."""
    messages: list[CheckMessage] = []
    for problem in problems():
        if problem.is_error:
            messages.append(Error(problem.message, hint=problem.hint, id="ds_broadcaster.E001"))
        else:
            messages.append(Warning(problem.message, hint=problem.hint, id="ds_broadcaster.W001"))
    if not any(isinstance(each, Error) for each in messages):
        try:
            messages += create_broker(get_settings()).check()
        except ImproperlyConfigured as error:
            hint = f'Write for example DS_BROADCASTER_BROKER = {{"BACKEND": "{MEMORY_BROKER}"}}.'
            messages.append(Error(str(error), hint=hint, id="ds_broadcaster.E002"))
    return messages


def check_asgi(**kwargs: Any) -> list[CheckMessage]:
    """Recommend the handoff to a project whose asgi.py does not use it."""
    application = getattr(django_settings, "ASGI_APPLICATION", None)
    urls = getattr(django_settings, "ROOT_URLCONF", None)
    if application:
        module = application.rpartition(".")[0]
    elif urls and "." in urls:
        module = urls.rpartition(".")[0] + ".asgi"
    else:
        return []
    try:
        spec = find_spec(module)
        text = Path(spec.origin).read_text() if spec is not None and spec.origin else ""
    except (ImportError, ValueError, OSError):
        return []
    if not text or "ds_broadcaster" in text:
        return []
    return [
        Info(
            f"{module} uses Django's own ASGI application: each open stream keeps a thread, and its memory.",
            hint="Write `from ds_broadcaster.asgi import get_asgi_application` there; the rest stays as it is.",
            id="ds_broadcaster.I001",
        )
    ]


def check_client(**kwargs: Any) -> list[CheckMessage]:
    """Warn of a client that browsers will not find, or that the project's Content-Security-Policy stops."""
    try:
        chosen = get_settings()
    except ImproperlyConfigured:
        return []
    messages: list[CheckMessage] = []
    name, url = chosen.datastar_static, chosen.datastar_url
    if name is not None and not _is_static_file(name):
        messages.append(
            Warning(
                f"DS_BROADCASTER_DATASTAR_STATIC = {name!r} is no static file of the project: pages get no client.",
                hint="Run `manage.py broadcaster_client`, which puts the pinned client there.",
                id="ds_broadcaster.W030",
            )
        )
    elif not is_address(url) and not _is_static_file(url):
        messages.append(
            Warning(
                f"DS_BROADCASTER_DATASTAR_URL = {url!r} is the path of a static file, and there is none.",
                hint='Write DS_BROADCASTER_DATASTAR_STATIC = "datastar.js" in its place, and run `manage.py '
                'broadcaster_client`. Or write a path such as "/static/datastar.js", or a URL.',
                id="ds_broadcaster.W030",
            )
        )
    policies = list(_policies())
    if policies:
        try:
            client = client_url()
        except ValueError:  # Of a storage with a manifest.
            client = None
        has_attribute = _a_template_has_the_nonce()
        found = [csp.problems(policy, client, has_attribute=has_attribute) for policy in policies]
        messages += [Warning(each.message, hint=each.hint, id=each.id) for each in dict.fromkeys(chain(*found))]
    return messages


def _is_static_file(path: str) -> bool:
    try:
        if finders.find(path):
            return True
        # Another storage may be on the network.
        is_local = isinstance(staticfiles_storage, FileSystemStorage)
        return apps.is_installed("django.contrib.staticfiles") and is_local and staticfiles_storage.exists(path)
    except (ImproperlyConfigured, SuspiciousOperation):
        return False


def _policies() -> Iterator[csp.Policy]:
    """Yield the policies of Django's middleware and of django-csp, 4 and 3, as their settings have them."""
    middleware = set(django_settings.MIDDLEWARE)
    given: list[Mapping[str, Any]] = []
    if "django.middleware.csp.ContentSecurityPolicyMiddleware" in middleware:
        given.append(getattr(django_settings, "SECURE_CSP", None) or {})
    if "csp.middleware.CSPMiddleware" in middleware:
        given.append((getattr(django_settings, "CONTENT_SECURITY_POLICY", None) or {}).get("DIRECTIVES") or {})
        names = ("script-src", "script-src-elem", "connect-src", "default-src")
        given.append({name: getattr(django_settings, f"CSP_{name.upper().replace('-', '_')}", None) for name in names})
    for policy in given:
        yield {
            name: sources.split() if isinstance(sources, str) else [str(each) for each in sources]
            for name, sources in policy.items()
            if sources and sources is not True
        }


def _a_template_has_the_nonce() -> bool:
    """Tell whether any HTML template of the project has the tag, or the attribute that it renders."""
    folders = {Path(folder) for engine in engines.all() for folder in engine.template_dirs}
    for folder in folders - {Path(__file__).parent / "templates"}:
        for path in folder.rglob("*.html"):
            text = path.read_bytes()
            if b"datastar_nonce" in text or b"data-nonce" in text:
                return True
    return False


def check_workers(**kwargs: Any) -> list[CheckMessage]:
    """Warn of several worker processes with a broker that reaches only one."""
    workers = worker_count()
    if workers <= 1:
        return []
    try:
        if get_settings().broker.BACKEND != MEMORY_BROKER:
            return []
    except ImproperlyConfigured:
        return []
    return [
        Warning(
            f"{workers} worker processes are configured (WEB_CONCURRENCY, or --workers), and the memory broker reaches "
            "only the clients of the process that sends.",
            hint=f"{WHAT_TO_SET} Or run one worker.",
            id="ds_broadcaster.W002",
        )
    ]
