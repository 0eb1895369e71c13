"""The permissions of the inspector, which Django keeps for models alone."""

from typing import Any

from django.db import models


class NoObjects(models.Manager[Any]):
    """Asks no database: commands such as dumpdata look at the objects of every model."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


class Inspector(models.Model):
    """Has permissions and neither a table nor objects.

    Where django.contrib.auth is installed, `migrate` makes the permissions, and the admin assigns them.
    """

    objects = NoObjects()

    class Meta:
        # The app need not be installed for BroadcastOnSave to be imported.
        app_label = "ds_broadcaster"
        managed = False
        base_manager_name = "objects"
        default_permissions = ()
        permissions = (
            ("send", "Can send to channels"),
            ("disconnect", "Can disconnect users and kill channels"),
        )

    def __str__(self) -> str:
        return "inspector"
