"""BroadcastOnSave: the model mixin. What it is told to broadcast is sent by `saves` and `changes`."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import class_prepared

from ..sse import Fragment
from .dirty_fields import remember, values_of
from .options import Rules, as_names, registered
from .receivers import mark_known, watch


class BroadcastOnSave(models.Model):
    """A model whose saves and deletions reach the pages that show it.

        class Message(BroadcastOnSave):
            room = models.ForeignKey(Room, models.CASCADE)
            text = models.TextField()

            broadcast_target = "#messages"

            def broadcast_channel(self):
                return f"room-{self.room_id}"

    A created object's fragment goes to the target, a changed one's replaces the element with the same id, which is
    `{{ object|dom_id }}`, and a deleted one's element is removed: after the commit, and with all changes of one
    transaction to one element merged into one.
    """

    # An abstract model, not a plain class: migrations would name a plain one among a model's bases, and the models
    # that migrations work with would broadcast.

    # The template of the fragment, or several to choose from; "<app_label>/_<model_name>.html" without it. Its
    # context is the instance, as `object` and as `<model_name>`; there is no request.
    broadcast_template_name: ClassVar[str | Sequence[str] | None] = None
    # The selector of the place where a created object goes; without one, its fragment replaces the element with its id.
    broadcast_target: ClassVar[str | None] = None
    # How it goes there: "append", "prepend", "before", "after", "inner", "outer" or "replace".
    broadcast_mode: ClassVar[str] = "append"
    # The fields whose changes are news; all of them without it.
    broadcast_fields: ClassVar[Collection[str] | None] = None
    # What the template reads through foreign keys: fetched with one query for all objects of a transaction.
    broadcast_select_related: ClassVar[Sequence[str]] = ()
    # Leave out the tab whose request made the change; needs ds_broadcaster.middleware.BroadcasterMiddleware.
    broadcast_exclude_sender: ClassVar[bool] = False

    class Meta:
        abstract = True

    def broadcast_channel(self) -> Any:
        """Return who gets it: a channel's name or a saved instance, several in a list, or None to stay silent."""
        raise ImproperlyConfigured(f"{type(self).__name__} must define broadcast_channel().")

    def render_broadcast(self) -> str:
        """Render the fragment that shows this object."""
        return registered[type(self)].render(self)

    def broadcast_created(self) -> Fragment:
        """Return what to send about a new object: HTML, signals, a tuple of both, or None."""
        return self.render_broadcast()

    def broadcast_updated(self) -> Fragment:
        """Return what to send about a changed object: HTML, signals, a tuple of both, or None."""
        return self.render_broadcast()

    def broadcast_deleted(self) -> Fragment:
        """Return what to send about a deleted object.

        An empty string removes its element, HTML replaces it, None sends nothing; `("", signals)` removes it and
        sends signals.
        """
        return ""

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any) -> Self:
        """Note that pages may show what was loaded: broadcast_saved() asks."""
        new = super().from_db(db, field_names, values, **kwargs)
        mark_known(new)
        return new

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Compare later saves with the values that this brings, as with those that were loaded first."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        rules = registered.get(type(self))
        if rules is not None and rules.fields:
            # They may be what this transaction wrote, and takes back.
            remember(self, values_of(rules, self, fields), committed=False)


class ModelRules(Rules):
    """What the attributes and methods of a BroadcastOnSave subclass say."""

    prefix = "broadcast_"
    knows_loaded = True
    model: type[BroadcastOnSave]

    def __init__(self, model: type[BroadcastOnSave]) -> None:
        super().__init__(model, model.broadcast_fields)
        self.select_related = as_strings(model.broadcast_select_related)
        self.exclude_sender = bool(model.broadcast_exclude_sender)

    def channel(self, instance: Any) -> Any:
        return instance.broadcast_channel()

    def target(self, instance: Any) -> str | None:
        target: str | None = instance.broadcast_target
        return target

    def mode(self, instance: Any) -> str:
        mode: str = instance.broadcast_mode
        return mode

    def template_names(self, instance: Any) -> Sequence[str]:
        return as_names(instance.broadcast_template_name, type(instance))

    def created(self, instance: Any) -> Fragment:
        fragment: Fragment = instance.broadcast_created()
        return fragment

    def updated(self, instance: Any) -> Fragment:
        fragment: Fragment = instance.broadcast_updated()
        return fragment

    def deleted(self, instance: Any) -> Fragment:
        fragment: Fragment = instance.broadcast_deleted()
        return fragment


def as_strings(names: Any) -> tuple[str, ...]:
    """Return the names in a sequence; a lone string is one name, and a system check reports everything else."""
    if isinstance(names, str):
        return (names,)
    return tuple(each for each in names if isinstance(each, str)) if isinstance(names, Collection) else ()


def _prepared(sender: type[models.Model], **kwargs: Any) -> None:
    if issubclass(sender, BroadcastOnSave):
        watch(sender, ModelRules(sender))


# When `__init_subclass__` runs, a model's fields are not known yet.
class_prepared.connect(_prepared, dispatch_uid="ds_broadcaster.models")
