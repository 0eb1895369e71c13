"""`manage.py broadcaster_client`: serve the Datastar client yourself."""

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.exceptions import SuspiciousOperation
from django.core.management.base import BaseCommand, CommandError

from ...conf import DATASTAR_URL, PREFIX
from ..pinned_client import VERSION, fetch, is_pinned
from ..source import is_the_projects

FILE = "datastar.js"

# The client's last line names its source map. Storages that hash names refuse a file whose references they do not find.
MAP_FILE = "datastar.js.map"
MAP = b'{"version":3,"sources":[],"names":[],"mappings":""}\n'


class Command(BaseCommand):
    help = (
        f"Puts the Datastar client, {VERSION}, into a folder of static files: from an installed package, or else from "
        "the network. The file is written only if it has the hash of the version that ds_broadcaster is tested with."
    )
    # That the file is missing is a message of the checks.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "folder",
            nargs="?",
            type=Path,
            help="the folder of the file; by default, where the file is now, or else the first of STATICFILES_DIRS",
        )

    def handle(self, *args: Any, folder: Path | None = None, **options: Any) -> None:
        name = getattr(settings, f"{PREFIX}DATASTAR_STATIC", None) or FILE
        target = _default_target(name) if folder is None else folder / Path(name).name
        if target.is_file() and is_pinned(target.read_bytes()):
            self.stdout.write(f"{target} is the Datastar client {VERSION} already.")
        else:
            self._put(target)
        source_map = target.with_name(MAP_FILE)
        if not source_map.exists():
            _write(source_map, MAP)
        self._advise(target)

    def _put(self, target: Path) -> None:
        try:
            content, source = fetch()
        except LookupError as error:
            raise CommandError(
                f"The Datastar client {VERSION} was not found ({error.args[0]}).\nOn a machine with a network, load "
                f"{DATASTAR_URL}\nand save it as {target}. Then run this command again, which checks the file."
            ) from error
        verb = "Replaced" if target.exists() else "Wrote"
        _write(target, content)
        self.stdout.write(self.style.SUCCESS(f"{verb} {target}: the Datastar client {VERSION}, from {source}."))

    def _advise(self, target: Path) -> None:
        """Say which settings are missing until pages load this file."""
        lines = []
        name = next(_static_names(target), None)
        if name is None:
            others = "..., " if settings.STATICFILES_DIRS else ""
            lines.append(f"STATICFILES_DIRS = [{others}{_as_code(target.parent)}]")
            name = target.name
        if getattr(settings, f"{PREFIX}DATASTAR_STATIC", None) != name:
            lines.append(f'{PREFIX}DATASTAR_STATIC = "{name}"')
        if lines:
            self.stdout.write("\n".join(["For pages to load it, write in the settings:", *(f"    {x}" for x in lines)]))
        if hasattr(settings, f"{PREFIX}DATASTAR_URL"):
            self.stdout.write(f"And remove {PREFIX}DATASTAR_URL.")


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error


def _default_target(name: str) -> Path:
    found = finders.find(name)
    if found and (is_the_projects(Path(found)) or is_pinned(Path(found).read_bytes())):
        return Path(found)
    for prefix, root in _static_folders():
        return root / name.removeprefix(f"{prefix}/" if prefix else "")
    raise CommandError(
        "Name the folder for the file, such as `manage.py broadcaster_client static`, or write "
        'STATICFILES_DIRS = [BASE_DIR / "static"] in the settings.'
    )


def _static_folders() -> Iterator[tuple[str, Path]]:
    """Return the folders of STATICFILES_DIRS, each with the prefix of its files."""
    folders: list[Any] = list(settings.STATICFILES_DIRS)
    for each in folders:
        prefix, root = each if isinstance(each, (list, tuple)) else ("", each)
        yield prefix, Path(root)


def _as_code(folder: Path) -> str:
    base, folder = getattr(settings, "BASE_DIR", None), folder.resolve()
    if isinstance(base, Path) and base != folder and folder.is_relative_to(base):
        return f'BASE_DIR / "{folder.relative_to(base).as_posix()}"'
    return repr(str(folder))


def _static_names(file: Path) -> Iterator[str]:
    """Return the names, as in `{% static %}`, under which the project's finders find this file."""
    # Finders look once for the folders of apps, and this one may be new.
    finders.get_finder.cache_clear()  # type: ignore[attr-defined]
    file = file.resolve()
    names = [file.relative_to(parent).as_posix() for parent in file.parents]
    for prefix, root in _static_folders():
        if prefix and file.is_relative_to(root.resolve()):
            names.append(f"{prefix}/{file.relative_to(root.resolve()).as_posix()}")
    for name in names:
        try:
            found = finders.find(name)
        except SuspiciousOperation:
            continue
        if found and Path(found).resolve() == file:
            yield name
