"""Asks again at once about the streams of somebody whose account changed: logged out, switched off, another password.

Nothing here decides anything: the stream's own request does, when it runs again. See rechecks.py.
"""

import logging
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, transaction
from django.db.models.signals import post_delete, post_save

from .broadcaster import broadcast

logger = logging.getLogger("ds_broadcaster")

# Written at every login, and nothing that a permission hangs on.
_HARMLESS = {"last_login"}


def watch_users() -> None:
    """Connect to what Django tells about users."""
    user_logged_out.connect(_logged_out, dispatch_uid="ds_broadcaster")
    try:
        user_model = get_user_model()
    except ImproperlyConfigured:  # A project without users.
        return
    for model in apps.get_models():
        # Proxies and children too: Django tells of each under its own name.
        if issubclass(model, user_model):
            post_save.connect(_saved, sender=model, dispatch_uid="ds_broadcaster")
            post_delete.connect(_deleted, sender=model, dispatch_uid="ds_broadcaster")


def _logged_out(sender: Any, user: Any = None, **kwargs: Any) -> None:
    if user is not None:
        _ask_again(user.pk, None)


def _saved(
    sender: Any, instance: Any, created: bool, raw: bool, using: str, update_fields: Any = None, **kwargs: Any
) -> None:
    if not created and not raw and (update_fields is None or not _HARMLESS.issuperset(update_fields)):
        _ask_again(instance.pk, using)


def _deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    _ask_again(instance.pk, using)


def _ask_again(user_id: Any, using: str | None) -> None:
    """Ask when what happened can be seen by others."""
    recheck = partial(_recheck, user_id)
    try:
        transaction.on_commit(recheck, using=using)
    except (Error, ImproperlyConfigured):  # Whoever commits by hand tells nobody when; or there is no database.
        recheck()


def _recheck(user_id: Any) -> None:
    try:
        broadcast.recheck(user_id=user_id)
    except Exception:
        # Somebody's save or logout must not fail for it.
        logger.exception("The streams of user %r could not be asked about again.", user_id)
