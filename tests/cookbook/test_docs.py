"""The documentation: it builds, leaves nothing out, and shows code that runs."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from _pytest.fixtures import FixtureFunctionDefinition
from django.db.models import Model
from django.dispatch import Signal
from django.views.generic import View

import ds_broadcaster
from cookbook.show_code import BLOCK, code_of, with_code
from ds_broadcaster import BroadcastChannelView, BroadcastOnSave, broadcast, signals, testing
from ds_broadcaster.conf import EXAMPLES, PREFIX
from ds_broadcaster.templatetags.ds_broadcaster import register
from ds_broadcaster.testing import plugin
from tests.harness.requirements import _missing
from tests.harness.server import ROOT

COOKBOOK = ROOT / "cookbook"
RECIPES = COOKBOOK / "recipes"
PAGES = {str(page.relative_to(COOKBOOK)): page.read_text() for page in sorted(COOKBOOK.rglob("*.md"))}
TEXT = "\n".join(PAGES.values())

# Each recipe, and the folder of its code; the room is older than the others and a project of its own.
FOLDERS = {folder.parent.name: folder.parent for folder in RECIPES.glob("*/urls.py")} | {"room": COOKBOOK / "room"}

FENCE = re.compile(r"^( *)```(\w[\w+]*)?[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

# Public names of the classes that are not their users' business.
INTERNAL = {
    "hubs",
    "review",
    "declared",
    "holdings",
    "send_all",
    "opener",
    "page_cursor",
    "replaced",
}
OF_DJANGO = {"Meta", "get", "request"}


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    if find_spec("mkdocs") is None or find_spec("material") is None:
        _missing("needs mkdocs: `pip install mkdocs mkdocs-material`, or the package's extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return folder


def test_site_has_every_page(site):
    built = {str(page.relative_to(site)) for page in site.rglob("index.html")}
    expected = {name.removesuffix("index.md").removesuffix(".md") for name in PAGES}
    assert built == {str(Path(name) / "index.html") for name in expected}


class Addresses(HTMLParser):
    """What a page has the browser fetch: everything but where links lead."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if tag != "a" and name in ("href", "src", "srcset", "data")]


def test_site_fetches_nothing_from_elsewhere(site):
    fetched = [each for page in site.rglob("*.html") for each in Addresses(page.read_text()).found]
    styles = [
        each for style in site.rglob("*.css") for each in re.findall(r"url\(([^)]*)\)|@import", style.read_text())
    ]
    assert any(each.endswith(".js") for each in fetched)
    assert any(each.endswith(".css") for each in fetched)
    assert [each for each in fetched + styles if re.match(r"""["']?(https?:)?//""", each)] == []


def test_site_shows_code_and_no_marks_of_where_it_is_taken_from(site):
    pages = {str(page): re.sub("<[^>]+>", "", page.read_text()) for page in site.rglob("*.html")}
    assert [name for name, text in pages.items() if re.search("&lt;!-- code:|```|# (section|end):", text)] == []
    assert sum("class Note(BroadcastOnSave)" in text for text in pages.values()) == 2


# Nothing is left out


def public(names):
    return {name for name in names if not name.startswith("_")}


def attributes(cls, base):
    """Return what a class offers beside its base."""
    return public({*vars(cls), *cls.__annotations__}) - {*dir(base)} - OF_DJANGO


MENTIONS = [
    *((name, rf"\b{name}\b") for name in ds_broadcaster.__all__),
    *((name, rf"`(broadcast\.)?{name}\b") for name in public(dir(broadcast)) - INTERNAL),
    *((name, rf"`(self\.)?{name}\b") for name in attributes(BroadcastChannelView, View) | {"abstract"}),
    *((name, rf"`{name}\b") for name in attributes(BroadcastOnSave, Model)),
    *((name, rf"{{% {name}\b") for name in register.tags),
    *((name, rf"\|{name}\b") for name in register.filters),
    *((name, rf"`{name}`") for name, value in vars(signals).items() if isinstance(value, Signal)),
    *((name, rf"`{name}`") for name in (PREFIX + name for name in EXAMPLES)),
]


# The fixtures of pytest; those that begin with an underscore are their own business.
FIXTURES = [name for name in public(vars(plugin)) if isinstance(getattr(plugin, name), FixtureFunctionDefinition)]


@pytest.mark.parametrize("name", sorted({*testing.__all__, *FIXTURES}))
def test_every_name_of_the_testing_kit_is_on_its_page(name):
    assert re.search(rf"`([\w ]+ )?(self\.)?{name}\b", PAGES["guide/testing.md"])


@pytest.mark.parametrize("name,pattern", sorted(MENTIONS))
def test_every_public_name_is_on_some_page(name, pattern):
    assert re.search(pattern, TEXT), f"No page of the cookbook mentions {name}."


def test_every_system_check_is_on_the_page_of_checks():
    sources = "".join(path.read_text() for path in Path(ds_broadcaster.__file__).parent.rglob("*.py"))
    ids = set(re.findall(r"ds_broadcaster\.[CEIW]\d{3}", sources))
    assert ids
    assert set(re.findall(r"`(ds_broadcaster\.[CEIW]\d{3})`", PAGES["reference/settings.md"])) == ids


# The code on the pages


FENCES = [
    pytest.param(language, dedent(code), id=f"{name}:{page[: found.start()].count(chr(10)) + 1}")
    for name, page in PAGES.items()
    for found in FENCE.finditer(page)
    for language, code in [(found[2], found[3])]
]
SHOWN = {name: list(BLOCK.finditer(page)) for name, page in PAGES.items()}


def test_every_fence_and_every_mark_is_found():
    assert len(FENCES) == len(re.findall("^ *```", TEXT, re.MULTILINE)) / 2
    assert sum(map(len, SHOWN.values())) == TEXT.count("<!-- code:") > 40


@pytest.mark.parametrize("language,code", [each for each in FENCES if each.values[0] == "python"])
def test_python_on_a_page_compiles(language, code):
    compile(code, "<page>", "exec")


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_shows_the_code_that_its_files_have(name):
    assert PAGES[name] == with_code(PAGES[name]), f"{name} shows old code: run `make docs-code`."
    shown = {ROOT / found["path"] for found in SHOWN[name]}
    assert shown <= {*runs()}, "No test runs these files."


def test_section_is_between_its_marks_without_them():
    path = "cookbook/recipes/notifications/templates/notifications/base.html"
    assert code_of(path, "stream") == "{% block stream %}{% broadcast_subscribe request.user %}{% endblock %}\n"
    assert "section:" not in code_of(path)
    with pytest.raises(ValueError, match="one comment `section: other`, and one `end: other`"):
        code_of(path, "other")


def test_start_page_shows_the_product_in_thirty_lines():
    code = "".join(found["code"] for found in SHOWN["index.md"])
    assert "BroadcastOnSave" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def runs():
    """Return the files that tests run: of the recipes, of the page about testing, of the broker over files."""
    folders = [*FOLDERS.values(), RECIPES / "_base", COOKBOOK / "brokers", COOKBOOK / "testing"]
    kinds = (".py", ".html", ".css", ".ini")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    return [COOKBOOK / "serve.py", COOKBOOK / "compose.yml", RECIPES / "conftest.py", *files]


def test_compose_file_has_the_servers_and_what_they_keep():
    if find_spec("yaml") is None:
        _missing("needs PyYAML, which mkdocs brings: the package's extra `docs`")
    import yaml

    compose = yaml.safe_load((COOKBOOK / "compose.yml").read_text())
    assert set(compose["services"]) == {"redis", "postgres"}
    for service in compose["services"].values():
        [port], [volume] = service["ports"], service["volumes"]
        assert port.startswith("127.0.0.1:"), "It is for this machine alone."
        assert volume.partition(":")[0] in compose["volumes"]


# Recipes, pages and tests belong together


def test_every_recipe_has_a_page_and_every_page_a_recipe():
    pages = {page.stem for page in RECIPES.glob("*.md")} - {"index"}
    assert pages == set(FOLDERS)
    assert {folder.name for folder in RECIPES.iterdir() if folder.is_dir()} - {"_base", "__pycache__"} <= set(FOLDERS)
    assert set(re.findall(r"\]\((\w+)\.md\)", PAGES["recipes/index.md"])) == pages


def test_every_recipe_has_tests_of_its_own_and_one_in_a_browser():
    assert [name for name, folder in FOLDERS.items() if not any(folder.rglob("tests.py"))] == []
    tested = set(
        re.findall(r'^@serving\("(\w+)"\)$', (Path(__file__).parent / "test_recipes.py").read_text(), re.MULTILINE)
    )
    assert (Path(__file__).parent / "test_room.py").exists()
    assert tested | {"room"} == set(FOLDERS)


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - {"room"}))
def test_page_of_a_recipe_shows_all_its_files(name):
    files = [path for path in FOLDERS[name].rglob("*") if path.suffix in (".py", ".html") and path.stat().st_size]
    assert sorted({ROOT / found["path"] for found in SHOWN[f"recipes/{name}.md"]}) == sorted(files)
