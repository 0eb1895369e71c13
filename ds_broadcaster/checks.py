"""System checks of a project: its settings, its asgi.py, its number of workers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured

from .brokers import create_broker
from .brokers.memory import WHAT_TO_SET, worker_count
from .conf import get_settings, problems

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
