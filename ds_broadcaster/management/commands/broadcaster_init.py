"""`manage.py broadcaster_init`: add to a project what it lacks for live pages."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ..project_setup import Setup
from ..source import TextFile


class Command(BaseCommand):
    help = (
        "Adds to the project what it lacks for live pages: the apps, the middleware, the URLs, the ASGI application, "
        "and the script in the base template. Shows the changes as a diff, and asks before it writes them."
    )
    # What is missing may be what they report.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--yes", "-y", action="store_true", help="write without asking")
        parser.add_argument("--no-input", "--noinput", action="store_false", dest="interactive", help="the same")
        parser.add_argument("--dry-run", "--diff", action="store_true", help="only show the diff, and write nothing")

    def handle(
        self, *args: Any, yes: bool = False, interactive: bool = True, dry_run: bool = False, **options: Any
    ) -> None:
        setup = Setup(settings)
        self._show(setup.changes)
        if setup.by_hand:
            lines = ["To do by hand, because the files are not as in a new project:", *setup.by_hand]
            self.stdout.write(self.style.WARNING("\n  - ".join(lines)))
        if not setup.changes:
            if not setup.by_hand:
                self.stdout.write("Nothing is missing: the project has all that live pages need.")
            return
        if dry_run:
            return
        if interactive and not yes and not self._is_wanted():
            self.stdout.write("Nothing was written.")
            return
        _write(setup.changes)
        self.stdout.write(self.style.SUCCESS("Written. Now run:"))
        self.stdout.write("    python manage.py migrate\n    python manage.py runserver")
        self.stdout.write("Templates of live pages extend base.html and begin with {% load ds_broadcaster %}.")

    def _show(self, changes: list[TextFile]) -> None:
        styles = {"+": self.style.SUCCESS, "-": self.style.ERROR}
        for file in changes:
            for line in file.diff(Path.cwd()):
                self.stdout.write(styles.get(line[:1], str)(line))
        if changes:
            self.stdout.write("")

    def _is_wanted(self) -> bool:
        try:
            return input("Write these changes? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            self.stdout.write("")
            return False


def _write(changes: list[TextFile]) -> None:
    if fixed := [str(each.path) for each in changes if not each.is_writable]:
        raise CommandError(f"Nothing was written, because these are read-only: {', '.join(fixed)}.")
    for number, file in enumerate(changes):
        try:
            file.write()
        except OSError as error:
            done = ", ".join(str(each.path) for each in changes[:number]) or "nothing"
            raise CommandError(f"{file.path} cannot be written: {error.strerror}. Written so far: {done}.") from error
