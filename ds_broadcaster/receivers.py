"""What the package hears from Django: requests that come in, logouts, and changes of accounts.

A user's streams are rechecked at once after a logout, and after a change of the account. Nothing is decided here: the
stream's own request decides, when it runs again. See hub/rechecks.py.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, transaction
from django.db.models.signals import post_delete, post_save

from .broadcaster import broadcast
from .streams.replayed_requests import is_in_recheck

logger = logging.getLogger("ds_broadcaster")

# Fields that no permission depends on: every login writes them.
_HARMLESS = {"last_login"}


def note_arrival(sender: Any, scope: Any = None, **kwargs: Any) -> None:
    """Note when a request comes in; receives Django's request_started. A stream obeys what is said from here on."""
    if scope is not None:
        broadcast.opener.note_arrival(scope)


def watch_users() -> None:
    """Connect to Django's signals about users."""
    user_logged_out.connect(_logged_out, dispatch_uid="ds_broadcaster")
    try:
        user_model = get_user_model()
    except ImproperlyConfigured:  # A project without users.
        return
    for model in apps.get_models():
        # Proxies and children too: each one is a sender of its own.
        if issubclass(model, user_model):
            post_save.connect(_saved, sender=model, dispatch_uid="ds_broadcaster")
            post_delete.connect(_deleted, sender=model, dispatch_uid="ds_broadcaster")


def _logged_out(sender: Any, request: Any = None, user: Any = None, **kwargs: Any) -> None:
    if user is None:
        return
    recheck = partial(_on_commit, broadcast.recheck, user.pk, None)
    recheck()
    # Django tells of a logout before it ends the session, and other receivers may take their time.
    session = getattr(request, "session", None)
    if isinstance(session, SessionBase):
        _after(session, recheck)


def _after(session: Any, call: Callable[[], None]) -> None:
    """Call a function when a session was flushed."""
    flush, aflush = session.flush, session.aflush

    def flush_and_call() -> None:
        flush()
        call()

    async def aflush_and_call() -> None:
        await aflush()
        await sync_to_async(call)()

    session.flush, session.aflush = flush_and_call, aflush_and_call


def _saved(
    sender: Any, instance: Any, created: bool, raw: bool, using: str, update_fields: Any = None, **kwargs: Any
) -> None:
    if is_in_recheck():
        return  # A middleware may save the user of each request: the re-check would be the reason for the next.
    if not created and not raw and (update_fields is None or not _HARMLESS.issuperset(update_fields)):
        _on_commit(broadcast.review, instance.pk, using)


def _deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    _on_commit(broadcast.recheck, instance.pk, using)


def _on_commit(ask: Callable[..., None], user_id: Any, using: str | None) -> None:
    """Ask about a user's streams when the change is visible to other connections."""
    call = partial(_call, ask, user_id)
    try:
        transaction.on_commit(call, using=using)
    except (Error, ImproperlyConfigured):  # Without autocommit there is no such hook; a project may have no database.
        call()


def _call(ask: Callable[..., None], user_id: Any) -> None:
    try:
        ask(user_id=user_id)
    except Exception:
        # A save or a logout must not fail for its streams.
        logger.exception("The streams of user %r could not be rechecked.", user_id)
