"""What a project lacks for live pages, as changes of its files."""

import ast
import re
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from django.apps import AppConfig
from django.urls import NoReverseMatch, reverse

from .source import PythonFile, Sequence, TextFile, Unsure, is_the_projects

APP = "ds_broadcaster"
RUNSERVER = "ds_broadcaster.contrib.runserver"
MIDDLEWARE = "ds_broadcaster.middleware.BroadcasterMiddleware"
URLS = "ds_broadcaster.urls"
SCRIPT = "{% datastar_script %}"
LOAD = "{% load ds_broadcaster %}"

ASGI = """\
import os

from ds_broadcaster.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")

application = get_asgi_application()
"""

BASE = """\
{{% load ds_broadcaster %}}<!doctype html>
<html lang="{language}">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{{% block title %}}{{% endblock %}}</title>
  {{% datastar_script %}}
</head>
<body>
{{% block content %}}{{% endblock %}}
</body>
</html>
"""

AnyFile = TypeVar("AnyFile", bound=TextFile)


class Setup:
    """The changes that a project needs, and what remains to be done by hand.

    `settings` is what Django has loaded. The files are only read; `changes` are the ones to write.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.by_hand: list[str] = []
        self._files: dict[Path, TextFile] = {}
        self._module = settings.SETTINGS_MODULE or ""
        self._urlconf = getattr(settings, "ROOT_URLCONF", "")
        for step in (self._apps, self._middleware, self._urls, self._asgi, self._template):
            step()

    @property
    def changes(self) -> list[TextFile]:
        return [each for each in self._files.values() if each.is_changed]

    def _try(self, change: Callable[[], None], by_hand: str) -> None:
        """Change all that belongs together, or nothing of it."""
        before = {file: file.text for file in self._files.values()}
        try:
            change()
        except Unsure as reason:
            for file in self._files.values():
                file.revert_to(before.get(file, file.original))
            self.by_hand.append(f"{by_hand} ({reason})")

    # The settings

    def _apps(self) -> None:
        if not self._lists(APP, "INSTALLED_APPS"):
            self._try(lambda: self._add("INSTALLED_APPS", APP), f'INSTALLED_APPS: add "{APP}".')
        if not self._lists(RUNSERVER, "INSTALLED_APPS"):
            self._try(self._add_runserver, f'INSTALLED_APPS: put "{RUNSERVER}" first.')

    def _add_runserver(self) -> None:
        """Put the app before all others that have a runserver, at the beginning of their list."""
        entries = self.settings.INSTALLED_APPS
        commands = [Path(AppConfig.create(each).path, "management", "commands", "runserver.py") for each in entries]
        others = [entry for entry, command in zip(entries, commands, strict=True) if command.exists()]
        self._add("INSTALLED_APPS", RUNSERVER, first_with=others)

    def _middleware(self) -> None:
        if self._lists(MIDDLEWARE, "MIDDLEWARE"):
            return
        names = ("AuthenticationMiddleware", "RemoteUserMiddleware")
        after = [each for each in self.settings.MIDDLEWARE if each.endswith(names)]
        place = ", after the authentication middleware" if after else ""
        self._try(lambda: self._add("MIDDLEWARE", MIDDLEWARE, after=after), f'MIDDLEWARE: add "{MIDDLEWARE}"{place}.')

    def _lists(self, value: str, setting: str) -> bool:
        """Tell whether a setting has the value, now or in the changed files."""
        if any(each == value or each.startswith(f"{value}.apps.") for each in getattr(self.settings, setting)):
            return True
        try:
            _, literals = self._literals(setting)
        except Unsure:
            return False
        return any(_constant(each) == value for _, sequence in literals for each in sequence.elts)

    def _add(
        self, setting: str, value: str, *, after: Collection[str] = (), first_with: Collection[str] | None = None
    ) -> None:
        """Add a string to a setting's list: at its end, after the last of some, or first where the first of some is."""
        file, literals = self._literals(setting)
        code = f"{_quote(literals, file)}{value}{_quote(literals, file)}"
        places = [
            (sequence, index)
            for _, sequence in literals
            for index, each in enumerate(sequence.elts)
            if _constant(each) in (after or first_with or ())
        ]
        if not places and (after or first_with):
            raise Unsure(f"{setting} has none of its strings in {file.path}")
        if first_with is not None:
            file.insert(places[0][0] if places else literals[0][1], 0, code)
        elif places:
            file.insert(places[-1][0], places[-1][1] + 1, code)
        else:
            # Where there are several lists, one may be for apps such as this.
            sequence = next((each for name, each in literals if "THIRD" in name.upper()), literals[-1][1])
            file.insert(sequence, len(sequence.elts), code)

    def _literals(self, setting: str) -> tuple[PythonFile, list[tuple[str, Sequence]]]:
        file, value = self._assigned(setting)
        literals = file.literals(value, setting)
        if not literals:
            raise Unsure(f"{setting} is no list in {file.path}")
        return file, literals

    def _assigned(self, setting: str) -> tuple[PythonFile, ast.expr]:
        """Return the file that assigns a setting, and what: that of the settings, or one that it imports * from."""
        modules, seen = [self._module], set()
        while modules:
            module = modules.pop(0)
            seen.add(module)
            file = self._python(module)
            if (value := file.assigned(setting)) is not None:
                return file, value
            # What is imported last counts.
            imports = [node for node in file.tree.body if isinstance(node, ast.ImportFrom)]
            names = [
                _absolute(node, module, file) for node in reversed(imports) if node.names[0].name in ("*", setting)
            ]
            modules[:0] = [name for name in names if name not in seen]
        raise Unsure(f"{setting} is in no file of the settings")

    # URLs

    def _urls(self) -> None:
        if self._has_urls():
            return
        route = 'path("events/", include("ds_broadcaster.urls"))'
        self._try(self._add_urls, f"urlpatterns of {self._urlconf}: add {route}.")

    def _has_urls(self) -> bool:
        try:
            if any(_constant(node) == URLS for node in ast.walk(self._python(self._urlconf).tree)):
                return True
        except Unsure:
            pass
        try:
            reverse(f"{APP}:tab-closed", urlconf=self._urlconf)
        except NoReverseMatch:
            return False
        except Exception:  # Of the project's own modules: to be seen at its next command.
            return False
        return True

    def _add_urls(self) -> None:
        file = self._python(self._urlconf)
        value = file.assigned("urlpatterns")
        literals = [] if value is None else file.literals(value)
        if not literals:
            raise Unsure("urlpatterns is no list")
        imported = file.imported()
        if imported.get("path", "django.urls") != "django.urls":
            raise Unsure("`path` is something else")
        _, sequence = literals[0]
        quote = _quote(literals, file)
        strings = [_constant(node) or "" for node in ast.walk(sequence)]
        prefix = "live-events/" if any(each.startswith(("events/", "^events/")) for each in strings) else "events/"
        catching = [index for index, each in enumerate(sequence.elts) if _catches_all(each)]
        code = f"path({quote}{prefix}{quote}, include({quote}{URLS}{quote}))"
        file.insert(sequence, catching[0] if catching else len(sequence.elts), code)
        if missing := [name for name in ("include", "path") if name not in imported]:
            file.add_imports("django.urls", missing)

    # asgi.py

    def _asgi(self) -> None:
        application = getattr(self.settings, "ASGI_APPLICATION", None)
        if not application:
            wsgi = getattr(self.settings, "WSGI_APPLICATION", None)
            package = (wsgi or f"{self._urlconf}.x").rpartition(".")[0].rpartition(".")[0]
            application = f"{package}.asgi.application".lstrip(".")
            line = f'ASGI_APPLICATION = "{application}"'
            self._try(lambda: self._add_setting("ASGI_APPLICATION", application), f"The settings: add {line}.")
        module = application.rpartition(".")[0]
        self._try(
            lambda: self._change_asgi(module),
            f"{module}: import get_asgi_application from ds_broadcaster.asgi, in place of Django's.",
        )

    def _add_setting(self, name: str, value: str) -> None:
        for other in ("WSGI_APPLICATION", "ROOT_URLCONF"):
            try:
                file, neighbour = self._assigned(other)
                if file.assigned(name) is not None:
                    return
            except Unsure:
                continue
            statement = next(each for each in file.tree.body if getattr(each, "value", None) is neighbour)
            quote = file.quote()
            file.insert_after(statement, f"{name} = {quote}{value}{quote}")
            return
        raise Unsure("neither of the neighbours is found")

    def _change_asgi(self, module: str) -> None:
        if _spec_of(module) is None:
            path = self._folder_of(module.rpartition(".")[0]) / "asgi.py"
            file = self._open(path, TextFile)
            file.text = file.text or ASGI.format(settings=self._settings_of(path.with_name("wsgi.py")))
            return
        python = self._python(module)
        if "ds_broadcaster" in python.text:
            return
        for node in python.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "django.core.asgi" and len(node.names) == 1:
                python.replace_module(node, "ds_broadcaster.asgi")
                return
        raise Unsure("Django's application is not imported as usual")

    def _settings_of(self, wsgi: Path) -> str:
        text = wsgi.read_text(encoding="utf-8") if wsgi.exists() else ""
        found = re.search(r"""DJANGO_SETTINGS_MODULE["'],\s*["']([\w.]+)""", text)
        return found[1] if found else self._module

    def _folder_of(self, package: str) -> Path:
        if not package:
            return self._python(self._urlconf).path.parent
        spec = _spec_of(package)
        if spec is None or not spec.submodule_search_locations:
            raise Unsure(f"there is no package {package}")
        return Path(next(iter(spec.submodule_search_locations)))

    # The base template

    def _template(self) -> None:
        self._try(self._change_template, f"The base template: add {LOAD} and {SCRIPT} to its <head>.")

    def _change_template(self) -> None:
        engines = [each for each in self.settings.TEMPLATES if each["BACKEND"].endswith(".DjangoTemplates")]
        if not engines:
            raise Unsure("there are no Django templates")
        own = [Path(each) for engine in engines for each in engine.get("DIRS", ())]
        apps = [Path(AppConfig.create(each).path) / "templates" for each in self.settings.INSTALLED_APPS]
        folders = [*own, *filter(is_the_projects, apps)]
        texts = {path: _text(path) for each in folders for path in sorted(each.rglob("*.html"))}
        if any("datastar_script" in text for text in texts.values()):
            return
        if base := self._base_in(folders):
            self._add_script(self._open(base, TextFile))
            return
        # A new base.html would be that of an app too, which may need its own.
        others = [path for path, text in texts.items() if "</head" in text.lower() and path.parent.name != "admin"]
        others += [each / "base.html" for each in apps if (each / "base.html").exists()]
        if others:
            raise Unsure(f"it may be one of these: {', '.join(map(str, others[:5]))}")
        file = self._open((own or [self._add_template_folder()])[0] / "base.html", TextFile)
        file.text = file.text or BASE.format(language=self.settings.LANGUAGE_CODE)

    def _base_in(self, folders: list[Path]) -> Path | None:
        """Return the base.html of these folders: the one that Django finds, or else that of a folder in them."""
        for each in folders:
            if (each / "base.html").exists():
                return each / "base.html"
        found = [path for each in folders for path in sorted(each.glob("*/base.html")) if path.parent.name != "admin"]
        if len(found) > 1:
            raise Unsure(f"there are several: {', '.join(map(str, found))}")
        return found[0] if found else None

    def _add_script(self, file: TextFile) -> None:
        if SCRIPT in file.text:
            return
        heads = list(re.finditer(r"</head\s*>", file.text, re.IGNORECASE))
        if len(heads) != 1:
            raise Unsure(f"{file.path} has not one </head>")
        before, after = file.text[: heads[0].start()], file.text[heads[0].start() :]
        load = "" if re.search(r"{%\s*load\s[^%]*\bds_broadcaster\b", before) else LOAD
        line = re.search(r"([ \t]*)\S[^\n]*\n([ \t]*)$", before)
        if line:
            # On a line of its own, as far in as the one before it.
            head = line[2]
            before, after = before.removesuffix(head), head + after
            file.text = f"{before}{line[1]}{load}{SCRIPT}{file.newline}{after}"
        else:
            file.text = f"{before}{load}{SCRIPT}{after}"

    def _add_template_folder(self) -> Path:
        """Add `templates` to the settings, and return it."""
        file, value = self._assigned("TEMPLATES")
        base = getattr(self.settings, "BASE_DIR", None)
        if not isinstance(base, Path) or file.assigned("BASE_DIR") is None:
            raise Unsure("BASE_DIR is not as in a new project")
        for engine in value.elts if isinstance(value, (ast.List, ast.Tuple)) else []:
            pairs = list(zip(engine.keys, engine.values, strict=True)) if isinstance(engine, ast.Dict) else []
            entries = {_constant(key): each for key, each in pairs if key is not None}
            folders = entries.get("DIRS")
            if (_constant(entries.get("BACKEND")) or "").endswith(".DjangoTemplates") and folders is not None:
                if isinstance(folders, (ast.List, ast.Tuple)) and not folders.elts:
                    file.insert(folders, 0, f"BASE_DIR / {file.quote()}templates{file.quote()}")
                if "templates" in ast.dump(folders):
                    return base / "templates"
        raise Unsure("TEMPLATES is not as in a new project")

    # Files

    def _python(self, module: str) -> PythonFile:
        spec = _spec_of(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise Unsure(f"{module} is no file")
        if not is_the_projects(path := Path(spec.origin)):
            raise Unsure(f"{module} is not the project's")
        return self._open(path, PythonFile)

    def _open(self, path: Path, kind: type[AnyFile]) -> AnyFile:
        path = path.absolute()
        if path not in self._files:
            self._files[path] = kind(path)
        file = self._files[path]
        assert isinstance(file, kind)
        return file


def _constant(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _quote(literals: list[tuple[str, Sequence]], file: PythonFile) -> str:
    """Return the quotation mark of the strings in these lists, or else that of the file."""
    for _, sequence in literals:
        for each in ast.walk(sequence):
            code = ast.get_source_segment(file.text, each) if _constant(each) is not None else None
            if code and code[0] in "'\"":
                return code[0]
    return file.quote()


def _absolute(node: ast.ImportFrom, module: str, file: PythonFile) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    if file.path.name == "__init__.py":
        parts.append("")
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def _spec_of(module: str) -> Any:
    try:
        return find_spec(module)
    except (ImportError, ValueError):
        return None


def _catches_all(route: ast.expr) -> bool:
    """Tell whether a route may answer what the ones after it are for, as that of a site's pages does."""
    if not isinstance(route, ast.Call) or not route.args:
        return False
    address = _constant(route.args[0])
    if address is None:
        return False
    view = route.args[1] if len(route.args) > 1 else None
    includes = isinstance(view, ast.Call) and isinstance(view.func, ast.Name) and view.func.id == "include"
    return (includes and address in ("", "^")) or any(each in address for each in ("<path:", ".*", ".+"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
