"""Touches: a save of one object is news for those that show it, a renamed author for their comments."""

import logging
from contextlib import closing
from typing import Any

from django.db.models import Model

from .changes import RELATED, Change, log_failure
from .options import Options, channels_of
from .rendering import UPDATED

logger = logging.getLogger("ds_broadcaster")

TOUCHED = "saved, which others show"

# Objects that are rendered for what they show; with more, their pages are refreshed instead.
MAX_TOUCHED = 200
# Objects whose channels are asked for then.
MAX_ASKED = 10_000
# Objects of one model that one query fetches; SQLite used to stop at 999 parameters.
FETCH_SIZE = 500


class Touch(Change):
    """A save of an object to which others have a `relation`: the face is theirs."""

    __slots__ = ("relation",)

    def __init__(self, options: Options, relation: str, instance: Model, using: str) -> None:
        super().__init__(options, instance, using, TOUCHED)
        self.relation = relation


def expanded(changes: list[Change]) -> list[Change]:
    """Return the changes with those of the objects that show something, in place of its touches."""
    groups: dict[tuple[Any, ...], list[Touch]] = {}
    rest = []
    for change in changes:
        if isinstance(change, Touch):
            groups.setdefault((change.options, change.relation, change.using), []).append(change)
        else:
            rest.append(change)
    for touches in groups.values():
        for begin in range(0, len(touches), FETCH_SIZE):
            some = touches[begin : begin + FETCH_SIZE]
            try:
                rest += _touched(some)
            except Exception:
                log_failure(some[0].options, some[0].instance, TOUCHED)
    return rest


def _touched(touches: list[Touch]) -> list[Change]:
    """Return the changes of the objects that show what was saved, which one query fetches."""
    last = touches[-1]
    options = last.options
    shown = {touch.instance.pk: touch.instance for touch in touches}
    objects: Any = options.model._base_manager.using(last.using).filter(**{f"{last.relation}__in": [*shown.values()]})
    if options.model._meta.get_field(last.relation).many_to_many:
        objects = objects.distinct()
    if options.select_related:
        objects = objects.select_related(*options.select_related)
    if not options.refreshes:
        found = list(objects.order_by("pk")[: MAX_TOUCHED + 1])
        if len(found) <= MAX_TOUCHED:
            return [_change(last, each, UPDATED) for each in found]
    channels = channels_of_all(options, objects)
    return [_change(last, last.instance, RELATED, channels)] if channels else []


def _change(touch: Touch, instance: Model, kind: str, channels: tuple[str, ...] | None = None) -> Change:
    change = Change(touch.options, instance, touch.using, kind, channels)
    change.context, change.tab, change.is_fresh = touch.context, touch.tab, True
    return change


def channels_of_all(options: Options, objects: Any) -> tuple[str, ...]:
    """Return the channels of all objects of a queryset, without keeping the objects."""
    if not callable(options.face.channel):
        return channels_of(options.face.channel)
    names: dict[str, None] = {}
    with closing(objects.iterator(chunk_size=FETCH_SIZE)) as found:
        for number, each in enumerate(found):
            if number == MAX_ASKED:
                label = options.model._meta.label
                logger.warning("More than %d %s changed at once: some pages are not refreshed.", MAX_ASKED, label)
                break
            names |= dict.fromkeys(channels_of(options.channel(each)))
    return tuple(names)
