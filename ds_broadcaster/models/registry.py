"""The registry: which faces a save of each model reaches, its own and those of the models that it inherits."""

from typing import NamedTuple

from django.db.models import Model

from .options import Options, lineage


class Faces(NamedTuple):
    """What the saves and deletions of one model reach."""

    # All of them, those of the model itself first.
    of_saves: tuple[Options, ...]
    # Without those of a parent that show a new object in the same place as the model's own.
    of_creations: tuple[Options, ...]
    # Those of the model's own table: Django deletes the parent's row with signals of its own.
    of_deletions: tuple[Options, ...]
    # (name, attribute) of the fields whose values in the database are kept.
    tracked: tuple[tuple[str, str], ...]


# The faces of each model, as BroadcastOnSave and bind_broadcasts() declare them.
declared: dict[type[Model], list[Options]] = {}
# What Django's signals are looked up in.
registered: dict[type[Model], Faces] = {}


def declare(options: Options) -> list[type[Model]]:
    """Add a face of a model; return the models whose saves may reach it."""
    declared.setdefault(options.model, []).append(options)
    return [options.model, *descendants(options.model)]


def withdraw(model: type[Model]) -> list[type[Model]]:
    """Forget the faces of a model; return the models whose saves may have reached them."""
    declared.pop(model, None)
    return [each for each in registered if model in lineage(each)]


def resolve(model: type[Model]) -> Faces | None:
    """Find the faces of a model anew; None for a model without any."""
    own: list[Options] = []
    inherited: list[Options] = []
    tables = set()
    for each in lineage(model):
        table = each._meta.concrete_model
        # A proxy has the faces of its model, or its own.
        if each not in declared or table in tables:
            continue
        tables.add(table)
        if table is model._meta.concrete_model:
            own += declared[each]
        else:
            inherited += [face for face in declared[each] if own or inherited or face.subclasses]
    if not (own or inherited):
        registered.pop(model, None)
        return None
    places = [_place_of(face) for face in own]
    elsewhere = [face for face in inherited if _place_of(face) not in places]
    echoes = [face if face in elsewhere else face.echo() for face in inherited]
    tracked = dict.fromkeys(field for face in (*own, *inherited) for field in face.tracked)
    registered[model] = Faces((*own, *echoes), (*own, *elsewhere), tuple(own), tuple(tracked))
    return registered[model]


def _place_of(face: Options) -> tuple[object, object]:
    return face.written("channel"), face.written("target")


def descendants(model: type[Model]) -> list[type[Model]]:
    """Return the proxies of a model and the models that inherit its table, and theirs."""
    found = []
    for each in model.__subclasses__():
        if each._meta.apps is model._meta.apps and not each._meta.abstract:
            found.append(each)
        # An abstract model may stand between a model and those that inherit it.
        found += descendants(each)
    return list(dict.fromkeys(found))
