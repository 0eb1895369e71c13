"""`manage.py broadcaster_init`: what a project lacks, as changes of its own files."""

import builtins
import itertools
import os
import subprocess
import sys
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import global_settings
from django.core.management import call_command
from django.core.management.base import CommandError

from ds_broadcaster.__main__ import main
from ds_broadcaster.management import project_setup
from ds_broadcaster.management.commands import broadcaster_init
from ds_broadcaster.management.project_setup import APP, MIDDLEWARE, RUNSERVER, URLS, Setup

ROOT = Path(project_setup.__file__).parents[2]
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"

# No two tests share the names of modules.
names = (f"site{number}" for number in itertools.count())


class Project:
    """A project in a folder; `settings` are loaded from its files."""

    def __init__(self, folder):
        self.folder = folder
        self.name = next(names)

    def start(self):
        """Make it as `django-admin startproject` does."""
        call_command("startproject", self.name, str(self.folder))
        return self

    def path(self, path):
        return self.folder / path.replace("NAME", self.name)

    def write(self, files):
        """Write files; NAME stands for the project's name."""
        for path, text in files.items():
            self.path(path).parent.mkdir(parents=True, exist_ok=True)
            self.path(path).write_text(text.replace("NAME", self.name))
        return self

    def read(self, path):
        return self.path(path).read_text()

    def replace(self, path, old, new):
        assert old in self.read(path)
        self.path(path).write_text(self.read(path).replace(old, new))

    def setup(self, module="settings"):
        """Return what it lacks, as seen by a new process."""
        for each in [each for each in sys.modules if each.partition(".")[0] == self.name]:
            del sys.modules[each]
        module = import_module(f"{self.name}.{module}")
        return Setup(SimpleNamespace(**{**vars(global_settings), **vars(module), "SETTINGS_MODULE": module.__name__}))

    def init(self, module="settings"):
        """Write what it lacks, see that nothing is missing then, and return what is to be done by hand."""
        setup = self.setup(module)
        for file in setup.changes:
            file.write()
        again = self.setup(module)
        assert (again.changes, again.by_hand) == ([], setup.by_hand)
        return setup.by_hand

    def settings(self, module="settings"):
        sys.modules.pop(f"{self.name}.{module}", None)
        return import_module(f"{self.name}.{module}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    # Files that change within a second would be taken from the cache.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Project(tmp_path)


def manage(project, *args):
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        [sys.executable, *args],
        cwd=project.folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        check=True,
        text=True,
        capture_output=True,
    )


# A new project


def test_new_project_has_all_that_live_pages_need(project):
    project.start()
    manage(project, "-m", "ds_broadcaster", "init", "--yes")
    checked = manage(project, "manage.py", "check", "--fail-level", "DEBUG")
    assert checked.stdout == "System check identified no issues (0 silenced).\n"
    again = manage(project, "manage.py", "broadcaster_init")
    assert again.stdout == "Nothing is missing: the project has all that live pages need.\n"


def test_new_project_keeps_its_style(project):
    project.start()
    assert project.init() == []
    settings = project.settings()
    assert settings.INSTALLED_APPS[-1] == APP
    assert settings.INSTALLED_APPS[0] == RUNSERVER
    assert settings.MIDDLEWARE.index(MIDDLEWARE) == settings.MIDDLEWARE.index(AUTH) + 1
    assert f"ASGI_APPLICATION = '{project.name}.asgi.application'\n" in project.read("NAME/settings.py")
    assert "from ds_broadcaster.asgi import get_asgi_application\n" in project.read("NAME/asgi.py")
    assert "from django.urls import include, path\n" in project.read("NAME/urls.py")
    assert "    path('events/', include('ds_broadcaster.urls')),\n]\n" in project.read("NAME/urls.py")
    assert settings.TEMPLATES[0]["DIRS"] == [project.folder / "templates"]
    assert "{% datastar_script %}" in project.read("templates/base.html")


def test_carriage_returns_stay_and_so_does_a_missing_last_newline(project):
    project.start()
    files = [project.path(f"NAME/{name}.py") for name in ("settings", "urls", "asgi")]
    for file in files:
        file.write_bytes(file.read_bytes().rstrip().replace(b"\n", b"\r\n"))
    assert project.init() == []
    for file in files:
        assert b"ds_broadcaster" in file.read_bytes()
        assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")
        assert not file.read_bytes().endswith(b"\n")


# Other layouts


SETTINGS = f"""\
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
INSTALLED_APPS = ["django.contrib.staticfiles"]
MIDDLEWARE = ["{AUTH}", "django.contrib.messages.middleware.MessageMiddleware"]
ROOT_URLCONF = "NAME.urls"
WSGI_APPLICATION = "NAME.wsgi.application"
TEMPLATES = [{{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [BASE_DIR / "pages"]}}]
"""
SMALL = {
    "NAME/__init__.py": "",
    "NAME/settings.py": SETTINGS,
    "NAME/urls.py": "from django.urls import path\n\nurlpatterns = []\n",
}


def test_missing_asgi_file_is_made_with_the_settings_of_the_wsgi_file(project):
    project.write({**SMALL, "NAME/wsgi.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'NAME.live')\n"})
    assert project.init() == []
    assert f'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{project.name}.live")' in project.read("NAME/asgi.py")
    assert f"{project.name}.asgi.application" == project.settings().ASGI_APPLICATION
    assert project.read("pages/base.html").startswith("{% load ds_broadcaster %}<!doctype html>")


def test_lists_of_several_parts_get_each_string_where_it_belongs(project):
    """As in projects made by cookiecutters: a package of settings, and lists by the origin of their apps."""
    apps = """\
DJANGO_APPS = (
    "django.contrib.messages",
    "django.contrib.staticfiles",
)
THIRD_PARTY_APPS = [
    "django.contrib.humanize",
]
LOCAL_APPS = []
INSTALLED_APPS = [*DJANGO_APPS, *THIRD_PARTY_APPS] + LOCAL_APPS"""
    project.write(SMALL)
    project.path("NAME/settings.py").unlink()
    project.write(
        {
            "NAME/settings/__init__.py": "",
            "NAME/settings/base.py": SETTINGS.replace('INSTALLED_APPS = ["django.contrib.staticfiles"]', apps),
            "NAME/settings/local.py": "from .base import *  # noqa\nfrom .base import MIDDLEWARE\n"
            "MIDDLEWARE += ['django.middleware.common.CommonMiddleware']\nif DEBUG:\n    INSTALLED_APPS += []\n"
            "DEBUG = True\n".replace("if DEBUG", "if BASE_DIR"),
        }
    )
    assert project.init("settings.local") == []
    base = project.read("NAME/settings/base.py")
    assert f'DJANGO_APPS = (\n    "{RUNSERVER}",\n' in base
    assert f'    "django.contrib.humanize",\n    "{APP}",\n]\n' in base
    assert f'"{AUTH}", "{MIDDLEWARE}", "django.contrib.messages' in base
    assert "ds_broadcaster" not in project.read("NAME/settings/local.py")


@pytest.mark.parametrize(
    "computed",
    [
        "INSTALLED_APPS = [each for each in INSTALLED_APPS]",
        "import os\nif 'HOME' in os.environ:\n    INSTALLED_APPS = list(INSTALLED_APPS)\n"
        "else:\n    INSTALLED_APPS = []",
    ],
)
def test_apps_that_are_computed_are_left_alone(project, computed):
    """Where it is not sure, it says what to add by hand, and does the rest."""
    text = SETTINGS.replace("INSTALLED_APPS =", "APPS =").replace("MIDDLEWARE =", f"{computed}\nMIDDLEWARE =")
    project.write(
        {**SMALL, "NAME/settings.py": text.replace("in INSTALLED_APPS", "in APPS").replace("(INSTALLED_APPS", "(APPS")}
    )
    app, runserver = project.init()
    assert app.startswith(f'INSTALLED_APPS: add "{APP}".')
    assert runserver.startswith(f'INSTALLED_APPS: put "{RUNSERVER}" first.')
    assert MIDDLEWARE in project.settings().MIDDLEWARE


def test_settings_of_a_class_are_left_alone(project):
    indented = "".join(f"    {line}\n" for line in SETTINGS.splitlines()[2:])
    text = f"from pathlib import Path\nclass Base:\n{indented}\nglobals().update(vars(Base))\n"
    project.write({**SMALL, "NAME/settings.py": text})
    by_hand = project.init()
    assert project.read("NAME/settings.py") == text.replace("NAME", project.name)
    assert [each.partition(":")[0] for each in by_hand] == [
        "INSTALLED_APPS",
        "INSTALLED_APPS",
        "MIDDLEWARE",
        "The settings",
    ]


def test_runserver_comes_before_the_first_of_the_others(project):
    apps = 'INSTALLED_APPS = MORE + ["daphne", "django.contrib.staticfiles"]'
    text = SETTINGS.replace("INSTALLED_APPS", "MORE").replace("\nMIDD", f"\n{apps}\nMIDD")
    project.write({**SMALL, "NAME/settings.py": text.replace('["django.contrib.static', '["django.contrib.mess', 1)})
    project.replace("NAME/settings.py", "messfiles", "messages")
    assert project.init() == []
    assert project.settings().INSTALLED_APPS[1:3] == [RUNSERVER, "daphne"]


# URLs


@pytest.mark.parametrize(
    "before, after",
    [
        ('path("", include("blog.urls")),', "first"),
        ('path("<path:page>", page),', "first"),
        ('re_path(r"^.*$", page),', "first"),
        ('path("", home),', "last"),
        ('path("", Home.as_view()),', "last"),
        ('path("blog/", include("blog.urls")),', "last"),
    ],
)
def test_urls_come_before_a_route_that_catches_all(project, before, after):
    urls = "from django.urls import include, path\n\nurlpatterns = [\n    %s\n]\n"
    project.write({**SMALL, "NAME/urls.py": urls % before})
    project.init()
    route = 'path("events/", include("ds_broadcaster.urls")),'
    lines = [route, before] if after == "first" else [before, route]
    assert project.read("NAME/urls.py") == urls % "\n    ".join(lines)


def test_urls_get_another_prefix_where_the_project_has_events_of_its_own(project):
    project.write(
        {**SMALL, "NAME/urls.py": "from django.urls import path\nurlpatterns = [path('events/<int:pk>', x)]\n"}
    )
    project.init()
    assert "path('live-events/', include('ds_broadcaster.urls'))" in project.read("NAME/urls.py")


@pytest.mark.parametrize(
    "urls",
    [
        "from django.conf.urls.i18n import i18n_patterns\nurlpatterns = i18n_patterns()\n",
        "from pathlib import Path as path\nurlpatterns = []\n",
        "urlpatterns = []\n",
    ],
)
def test_urls_that_are_not_understood_are_left_alone(project, urls):
    project.write({**SMALL, "NAME/urls.py": urls})
    (by_hand,) = project.init()
    assert by_hand.startswith(f'urlpatterns of {project.name}.urls: add path("events/", include("{URLS}")).')
    assert project.read("NAME/urls.py") == urls


# asgi.py


@pytest.mark.parametrize(
    "before, after",
    [
        (
            "from django.core.asgi import get_asgi_application as get",
            "from ds_broadcaster.asgi import get_asgi_application as get",
        ),
        ("import django.core.asgi", None),
        ("from django.core.asgi import get_asgi_application, x", None),
        ("from channels.routing import x", None),
    ],
)
def test_asgi_file_keeps_all_but_the_import(project, before, after):
    text = f"import os\n{before}\n\napplication = 1\n"
    project.write({**SMALL, "NAME/asgi.py": text})
    by_hand = project.init()
    assert project.read("NAME/asgi.py") == text.replace(before, after or before)
    assert [each.partition(":")[0] for each in by_hand] == ([] if after else [f"{project.name}.asgi"])


def test_application_of_the_settings_is_the_one_that_is_changed(project):
    project.write({**SMALL, "NAME/settings.py": SETTINGS + 'ASGI_APPLICATION = "NAME.live.app"\n'})
    project.write({"NAME/live.py": "from django.core.asgi import get_asgi_application\napp = get_asgi_application()\n"})
    assert project.init() == []
    assert "from ds_broadcaster.asgi import" in project.read("NAME/live.py")
    assert not project.path("NAME/asgi.py").exists()


# The base template


@pytest.mark.parametrize(
    "before, after",
    [
        (
            "<html>\n  <head>\n    <title>x</title>\n  </head>\n",
            "<html>\n  <head>\n    <title>x</title>\n    BOTH\n  </head>\n",
        ),
        (
            "<head><title>x</title></HEAD><p>",
            "<head><title>x</title>BOTH</HEAD><p>",
        ),
        (
            "{% load static ds_broadcaster %}\r\n<head>\r\n\t<title>x</title>\r\n</head>\r\n",
            "{% load static ds_broadcaster %}\r\n<head>\r\n\t<title>x</title>\r\n\t{% datastar_script %}\r\n"
            "</head>\r\n",
        ),
    ],
)
def test_script_comes_at_the_end_of_the_head(project, before, after):
    project.write(SMALL)
    project.path("pages").mkdir()
    project.path("pages/base.html").write_bytes(before.encode())
    assert project.init() == []
    both = "{% load ds_broadcaster %}{% datastar_script %}"
    assert project.path("pages/base.html").read_bytes() == after.replace("BOTH", both).encode()


@pytest.mark.parametrize("text", ["{% extends 'other.html' %}", "<head></head><head></head>", "<p>x</p>"])
def test_template_without_a_head_of_its_own_is_left_alone(project, text):
    project.write({**SMALL, "pages/base.html": text})
    (by_hand,) = project.init()
    assert by_hand.startswith(
        "The base template: add {% load ds_broadcaster %} and {% datastar_script %} to its <head>."
    )
    assert project.read("pages/base.html") == text


def test_template_that_has_the_script_is_the_base(project):
    project.write({**SMALL, "pages/layout.html": "{% load ds_broadcaster %}<head>{% datastar_script %}</head>"})
    assert project.init() == []
    assert not project.path("pages/base.html").exists()


@pytest.mark.parametrize("other, is_clear", [("admin", True), ("shop", False)])
def test_base_in_an_apps_folder_is_found_if_there_is_one(project, other, is_clear):
    project.write({**SMALL, "pages/blog/base.html": "<head></head>", f"pages/{other}/base.html": "<head></head>"})
    by_hand = project.init()
    assert ("datastar_script" in project.read("pages/blog/base.html")) is is_clear
    assert "datastar_script" not in project.read(f"pages/{other}/base.html")
    assert not is_clear or by_hand == []
    assert is_clear or "there are several: " in by_hand[0]


def test_base_of_the_projects_own_app_is_found_and_none_of_other_peoples(project):
    text = SETTINGS.replace('["django', '["NAME", "django.contrib.admin", "django').replace('BASE_DIR / "pages"', "")
    project.write({**SMALL, "NAME/settings.py": text, "NAME/templates/base.html": "<head></head>"})
    assert project.init() == []
    assert "datastar_script" in project.read("NAME/templates/base.html")
    assert project.settings().TEMPLATES[0]["DIRS"] == []


@pytest.mark.parametrize(
    "path", ["pages/layout.html", "pages/shop/pages/page.html", "theirs/site-packages/templates/base.html"]
)
def test_no_base_is_made_where_there_may_be_one(project, path):
    text = SETTINGS.replace('["django', '["NAME.theirs.Theirs", "django')
    project.write({**SMALL, "NAME/settings.py": text, path: "<head></head>"})
    app = "from django.apps import AppConfig\nclass Theirs(AppConfig):\n    name, path = __name__, {!r}\n"
    project.write({"NAME/theirs.py": app.format(str(project.path("theirs/site-packages")))})
    (by_hand,) = project.init()
    assert by_hand.endswith(f"(it may be one of these: {project.path(path)})")
    assert not project.path("pages/base.html").exists()


# The command


@pytest.fixture
def command(project, monkeypatch):
    """Run the command in this process, for the small project."""
    project.write(SMALL)

    def command(*args, answer=None):
        def answered(question):
            asked.append(question)
            if answer is None:
                raise EOFError
            return answer

        asked = []
        monkeypatch.setattr(builtins, "input", answered)
        monkeypatch.setattr(broadcaster_init, "Setup", lambda settings: project.setup())
        out = StringIO()
        call_command(broadcaster_init.Command(), *args, stdout=out, no_color=True)
        return out.getvalue(), asked

    return command


@pytest.mark.parametrize("args", [["--dry-run"], ["--diff"], ["--dry-run", "--yes"]])
def test_dry_run_shows_and_writes_nothing(project, command, args):
    printed, asked = command(*args)
    assert f'+INSTALLED_APPS = ["{RUNSERVER}", "django.contrib.staticfiles", "{APP}"]' in printed
    assert asked == []
    assert project.read("NAME/settings.py") == SETTINGS.replace("NAME", project.name)


@pytest.mark.parametrize("answer, is_wanted", [("y", True), ("YES ", True), ("", False), ("n", False), (None, False)])
def test_changes_are_asked_about(project, command, answer, is_wanted):
    printed, asked = command(answer=answer)
    assert asked == ["Write these changes? [y/N] "]
    assert ("Nothing was written." in printed) is not is_wanted
    assert (APP in project.settings().INSTALLED_APPS) is is_wanted


@pytest.mark.parametrize("option", ["--yes", "-y", "--no-input", "--noinput"])
def test_changes_are_written_unasked(project, command, option):
    printed, asked = command(option)
    assert asked == []
    assert "python manage.py runserver" in printed
    assert command(option) == ("Nothing is missing: the project has all that live pages need.\n", [])


def test_read_only_file_stops_all(project, command):
    project.path("NAME/urls.py").chmod(0o444)
    with pytest.raises(CommandError, match=r"^Nothing was written, because these are read-only: .*urls\.py\.$"):
        command("--yes")
    assert "ds_broadcaster" not in project.read("NAME/settings.py") + project.read("NAME/urls.py")


def test_what_remains_is_told(project, command):
    project.write({"NAME/urls.py": "urlpatterns = []\n"})
    assert "  - urlpatterns of " in command("--yes")[0]
    printed, asked = command()
    assert printed.startswith("To do by hand, because the files are not as in a new project:\n  - urlpatterns of ")
    assert "Nothing is missing" not in printed
    assert asked == []


@pytest.mark.parametrize(
    "args, text", [([], "usage: "), (["run"], "usage: "), (["init"], "There is no manage.py here.")]
)
def test_module_says_how_it_is_run(project, monkeypatch, args, text):
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "argv", ["ds_broadcaster", *args])
    with pytest.raises(SystemExit, match=f"^{text}"):
        main()
