"""What broadcasting costs a save: python -m benchmarks.save [--short].

In one process, with SQLite in memory and the memory broker. The models differ in nothing but their base class; each
round measures all of them in turn. What they cost more is the median of the differences within a round, so that a
machine that grows slower on the way does so for all. Times are CPU times of the thread.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Callable

SAVES = 500  # a round and model, or a transaction
SILENT, BROADCAST = 15.0, 100.0  # microseconds that the two may cost

TEMPLATE = (
    '<li id="benchmarks-{{ object.pk }}"><b>{{ object.author }}</b> {{ object.text }} <i>{{ object.likes }}</i></li>'
)


def configure() -> None:
    """Set Django up, with a template and nothing else."""
    settings.configure(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "ds_broadcaster", "benchmarks"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [
                        (
                            "django.template.loaders.cached.Loader",
                            [("django.template.loaders.locmem.Loader", {"note.html": TEMPLATE})],
                        )
                    ]
                },
            }
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()


def make_models() -> dict[str, Any]:
    """Return the models that are compared, with their tables."""
    from django.db import connection, models

    from ds_broadcaster import BroadcastOnSave

    def make(name: str, base: type[models.Model], channel: str | None, **attributes: Any) -> type[models.Model]:
        body = {
            "__module__": "benchmarks.save",
            "Meta": type("Meta", (), {"app_label": "benchmarks"}),
            "author": models.CharField(max_length=50, default="ann"),
            "text": models.TextField(default="Some words, as people write them."),
            "likes": models.IntegerField(default=0),
            "broadcast_channel": lambda self: channel,
            "broadcast_template_name": "note.html",
            "broadcast_target": "#notes",
            **attributes,
        }
        model = type(name, (base,), body)
        with connection.schema_editor() as editor:
            editor.create_model(model)
        return model

    return {
        "plain": make("Plain", models.Model, None),
        "silent": make("Silent", BroadcastOnSave, None),
        "no dirty field": make("NoNews", BroadcastOnSave, "notes", broadcast_fields={"text"}),
        "broadcast": make("Broadcast", BroadcastOnSave, "notes"),
    }


def autocommit(instance: Any) -> None:
    """Save one object again and again, each time in a transaction of its own."""
    for number in range(SAVES):
        instance.likes = number
        instance.save()


def together(instance: Any) -> None:
    """Create objects in one transaction."""
    from django.db import transaction

    with transaction.atomic():
        for _ in range(SAVES):
            type(instance).objects.create()


def autocommit_and_render(instance: Any) -> None:
    """Save in the same way, and render each time what a broadcasting save renders, as a view would by hand."""
    # Not in a loop of its own: a render that comes between saves finds less of itself in the processor's caches.
    for number in range(SAVES):
        instance.likes = number
        instance.save()
        render(instance)


def together_and_render(instance: Any) -> None:
    """Create objects in one transaction, and render them after it."""
    together(instance)
    for _ in range(SAVES):
        render(instance)


def render(instance: Any) -> None:
    """Render what a broadcasting save renders, and nothing else."""
    from django.template.loader import render_to_string

    render_to_string("note.html", {"object": instance, "note": instance})


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the microseconds of each in each round."""
    instances = {name: model.objects.create() for name, model in make_models().items()}
    tasks: dict[str, tuple[Callable[[Any], None], Any]] = {
        "plain and render, autocommit": (autocommit_and_render, instances["plain"]),
        "plain and render, one transaction": (together_and_render, instances["plain"]),
    }
    for name, instance in instances.items():
        tasks[f"{name}, autocommit"] = (autocommit, instance)
        if name != "no dirty field":
            tasks[f"{name}, one transaction"] = (together, instance)
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, (task, instance) in tasks.items():
            begin = thread_time()
            task(instance)
            if number:  # The first round warms up.
                taken[name].append((thread_time() - begin) / SAVES * 1e6)
    return taken


def main() -> int:
    """Measure, print the figures and verdicts; 0 if both promises hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.save", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds: a first impression")
    options = parser.parse_args()
    configure()
    taken = measure(7 if options.short else 31)
    for name, figures in taken.items():
        print(f"{name:33} {median(figures):7.1f} us")
    kept = True
    print("\ntargets")
    for way in ("autocommit", "one transaction"):
        plain, silent, rendered, sent = (
            taken[f"{name}, {way}"] for name in ("plain", "silent", "plain and render", "broadcast")
        )
        silence = median(b - a for a, b in zip(plain, silent, strict=True))
        broadcast = median(b - a for a, b in zip(rendered, sent, strict=True))
        for promise, figure, limit in (
            ("a silent save", silence, SILENT),
            ("a broadcasting one, without its render", broadcast, BROADCAST),
        ):
            kept &= figure <= limit
            word = "ok" if figure <= limit else "MISSED"
            print(f"  {word:6}  {promise} costs <= {limit:.0f} us more ({way}): {figure:.1f} us")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
