"""`python -m ds_broadcaster init`: `manage.py broadcaster_init` for a project that does not have the app yet."""

import runpy
import sys
from pathlib import Path

from django.core.management import get_commands

USAGE = """usage: python -m ds_broadcaster init [--dry-run] [--yes]

Adds to the project in this folder what it lacks for live pages, and asks before it writes."""


def main() -> None:
    """Run the command by the project's own manage.py, in the current folder."""
    _, *words = sys.argv
    if words[:1] != ["init"]:
        sys.exit(USAGE)
    if not Path("manage.py").is_file():
        sys.exit(
            "There is no manage.py here. Run this in your project's folder; `django-admin startproject` makes one."
        )
    from .management.commands.broadcaster_init import Command

    # manage.py looks here for commands, and takes one that is loaded as it is.
    get_commands()["broadcaster_init"] = Command()  # type: ignore[assignment]
    sys.argv = ["manage.py", "broadcaster_init", *words[1:]]
    runpy.run_path("manage.py", run_name="__main__")


if __name__ == "__main__":
    main()
