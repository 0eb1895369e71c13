"""BroadcastOnSave, the model mixin: its attributes and methods become the Options of each subclass."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import class_prepared

from ..sse import Fragment
from .dirty_fields import note_saved, tracked_values
from .options import ATTRIBUTES, Face, Options, PlaceMode
from .receivers import mark_known, watch
from .registry import registered

if TYPE_CHECKING:
    from ..sending import Channels


class BroadcastOnSave(models.Model):
    """A model whose saves and deletions reach the pages that show it.

    >>> class Message(BroadcastOnSave):
    ...     room = models.ForeignKey(Room, models.CASCADE)
    ...     text = models.TextField()
    ...
    ...     broadcast_target = "#messages"
    ...
    ...     def broadcast_channel(self):
    ...         return f"room-{self.room_id}"

    The fragment of a created object goes to the target. That of a changed one replaces the element with the same id,
    `{{ object|dom_id }}`. The element of a deleted one is removed. All this happens after the commit, with the changes
    of one transaction to one element merged into one.
    """

    # An abstract model, not a plain class: migrations would list a plain one among a model's bases, and their
    # historical models would broadcast.

    broadcast_template_name: ClassVar[str | Sequence[str] | None] = None
    """The template of the fragment, or several to choose from; by default "<app_label>/_<model_name>.html". Its
    context is the instance, as `object` and as `<model_name>`; there is no request.
    """

    broadcast_target: ClassVar[str | None] = None
    """The selector of the place for created objects; without one, the fragment replaces the element with its id."""

    broadcast_mode: ClassVar[PlaceMode] = "append"
    """How it goes there: "append", "prepend", "before", "after", "inner", "outer" or "replace"."""

    broadcast_limit: ClassVar[int | None] = None
    """How many elements the target holds: "append" and "prepend" remove those over it at the other end."""

    broadcast_fields: ClassVar[Collection[str] | None] = None
    """The fields whose changes are broadcast; all of them without it."""

    broadcast_moves: ClassVar[Collection[str] | None] = None
    """The fields on which the channel hangs: where they change it, the object is removed from the former channel and
    added to the new one.
    """

    broadcast_select_related: ClassVar[Sequence[str]] = ()
    """What the template reads through foreign keys: fetched with one query for all objects of a transaction."""

    broadcast_exclude_sender: ClassVar[bool] = False
    """Leave out the tab whose request made the change; needs ds_broadcaster.middleware.BroadcasterMiddleware."""

    broadcast_refreshes: ClassVar[bool] = False
    """Instead of fragments, have each page on the channel show what its view renders now, for its own viewer."""

    broadcast_audience: ClassVar[bool] = False
    """Render the template where the streams are, once for each audience of their views: see the guide."""

    broadcast_touches: ClassVar[Mapping[str, str] | None] = None
    """The relations to objects whose saves are news for this one, which shows them, and the accessors of their way
    back: {"author": "comment_set"}.
    """

    broadcast_faces: ClassVar[Sequence[Face]] = ()
    """Further ways of showing the objects, in other places; the only ones without a broadcast_channel()."""

    class Meta:
        abstract = True

    def broadcast_channel(self) -> "Channels | None":
        """Return the channel: a name or a saved instance, several in a list, or None to stay silent."""
        raise ImproperlyConfigured(f"{type(self).__name__} must define broadcast_channel().")

    def broadcast_shown(self) -> bool:
        """Return whether lists show the object now: a saved one is added or replaced where they do, else removed."""
        return True

    def render_broadcast(self) -> str:
        """Render the fragment that shows this object."""
        return registered[type(self)].of_saves[0].render(self)

    def broadcast_created(self) -> Fragment:
        """Return what to send about a new object: HTML, signals, or a tuple of both.

        An empty string removes its element, None sends nothing.
        """
        return self.render_broadcast()

    def broadcast_updated(self) -> Fragment:
        """Return what to send about a changed object; see broadcast_created()."""
        return self.render_broadcast()

    def broadcast_deleted(self) -> Fragment:
        """Return what to send about a deleted object; see broadcast_created(). HTML replaces its element."""
        return ""

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any) -> Self:
        """Note that pages may show what was loaded, for broadcast_saved()."""
        new = super().from_db(db, field_names, values, **kwargs)
        mark_known(new)
        return new

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Compare later saves with the refreshed values."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        faces = registered.get(type(self))
        if faces is not None and faces.tracked:
            # They may be what this transaction wrote, and takes back.
            note_saved(self, tracked_values(faces.tracked, self, fields), committed=False)


def faces_of(model: type[BroadcastOnSave]) -> list[Options]:
    """Return the faces that the attributes and methods of a subclass stand for."""
    faces: Any = model.broadcast_faces  # May be of another type: problems() tells.
    found = [
        Options(model, face, name=f"faces[{number}]", prefix=f"{ATTRIBUTES}faces[{number}].")
        for number, face in enumerate(faces if isinstance(faces, Sequence) else ())
        if isinstance(face, Face)
    ]
    has_channel = model.broadcast_channel is not BroadcastOnSave.broadcast_channel
    return [_own_face_of(model), *found] if has_channel or not found else found


def _own_face_of(model: type[BroadcastOnSave]) -> Options:
    # Read from the instance, which may have attributes of its own and properties. methodcaller() would take longer.
    is_always_shown = model.broadcast_shown is BroadcastOnSave.broadcast_shown
    face = Face(
        channel=lambda instance: instance.broadcast_channel(),
        template_name=attrgetter("broadcast_template_name"),
        target=attrgetter("broadcast_target"),
        mode=attrgetter("broadcast_mode"),
        fields=model.broadcast_fields,
        select_related=model.broadcast_select_related,
        exclude_sender=model.broadcast_exclude_sender,
        refreshes=model.broadcast_refreshes,
        audience=model.broadcast_audience,
        moves=model.broadcast_moves,
        limit=model.broadcast_limit,
        touches=model.broadcast_touches,
        shown=None if is_always_shown else lambda instance: instance.broadcast_shown(),
        created=lambda instance: instance.broadcast_created(),
        updated=lambda instance: instance.broadcast_updated(),
        deleted=lambda instance: instance.broadcast_deleted(),
    )
    return Options(model, face, prefix=ATTRIBUTES, default=BroadcastOnSave)


def _prepared(sender: type[models.Model], **kwargs: Any) -> None:
    if issubclass(sender, BroadcastOnSave):
        watch(*faces_of(sender))


# When `__init_subclass__` runs, a model's fields are not known yet.
class_prepared.connect(_prepared, dispatch_uid="ds_broadcaster.models")
