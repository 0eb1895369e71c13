"""Imports go downward only: each module stands on a floor and uses those below, or its own."""

import ast
from pathlib import Path

import pytest

import ds_broadcaster

PACKAGE = Path(ds_broadcaster.__file__).parent
LONGEST = 300

FLOORS = [
    {"exceptions", "ids"},
    {"conf", "sse", "tabs", "routes"},
    {
        "log",
        "presence",
        "brokers",
        "brokers.base",
        "brokers.memory",
        "brokers.listening",
        "brokers.packing",
        "brokers.postgres",
        "brokers.postgres.broker",
        "brokers.postgres.listener",
        "brokers.postgres.roster",
        "brokers.postgres.session",
        "brokers.postgres.statements",
        "brokers.redis",
        "brokers.redis.broker",
        "brokers.redis.listener",
        "brokers.redis.scripts",
        "brokers.redis.servers",
        "signals",
        "workers",
        "servers",
    },
    {
        "opening",
        "rechecks",
        "duplicates",
        "orders",
        "channel",
        "connection",
        "pulse",
        "attendance",
        "sharing",
        "beginning",
        "ending",
        "hub",
        "handoff",
        "plain",
    },
    {"grant", "refusal", "incoming", "response", "asgi", "sending", "broadcaster"},
    {
        "overview",
        "inspector",
        "revocation",
        "view_checks",
        "testing",
        "testing.cluster",
        "testing.ear",
        "testing.events",
        "testing.presence",
        "views",
        "models",
        "bindings",
        "saves",
        "rules",
        "news",
        "changes",
        "payloads",
        "model_checks",
        "middleware",
        "tokens",
        "element",
        "subscriptions",
        "templatetags",
        "templatetags.ds_broadcaster",
        "checks",
        "contrib",
        "contrib.postgres",
        "contrib.postgres.apps",
        "contrib.postgres.models",
        "contrib.postgres.migrations",
        "contrib.postgres.migrations.0001_initial",
    },
    {"apps", "urls", ""},
]
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}

# What only these may know.
ONLY_THERE = {
    "datastar_py.sse": {"sse"},  # The generator does not check what it is given.
    # Where connections are given back, and where saves are watched.
    "django.db": {
        "response",
        "workers",
        "rules",
        "news",
        "changes",
        "payloads",
        "saves",
        "models",
        "bindings",
        "model_checks",
        "revocation",
        "rechecks",
        "templatetags.ds_broadcaster",
        "testing.cluster",
        "brokers.postgres.broker",
        "brokers.postgres.session",
        "contrib.postgres.models",
        "contrib.postgres.migrations.0001_initial",
    },
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """The modules that a file imports when it runs, wherever in it; what is only for types does not count."""

    def __init__(self, name, is_package):
        self.package = ["ds_broadcaster", *(name.split(".") if name else [])]
        if not is_package:
            self.package.pop()
        self.found = set()

    def visit_If(self, node):
        if "TYPE_CHECKING" in ast.dump(node.test):
            for each in node.orelse:
                self.visit(each)
        else:
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inside = f"{module}.{alias.name}".removeprefix("ds_broadcaster.")
            self.found.add(f"ds_broadcaster.{inside}" if inside in FILES else module)


def imports_of(name, text=None):
    path = FILES[name]
    visitor = Imports(name, path.name == "__init__.py")
    visitor.visit(ast.parse(path.read_text() if text is None else text))
    return visitor.found


def own_imports_of(name, text=None):
    own = {each for each in imports_of(name, text) if each.partition(".")[0] == "ds_broadcaster"}
    return {each.removeprefix("ds_broadcaster").removeprefix(".") for each in own}


def test_every_module_has_its_floor():
    assert FILES.keys() == FLOOR.keys()


@pytest.mark.parametrize("name", FILES)
def test_module_uses_only_what_stands_on_its_floor_or_below(name):
    above = {each for each in own_imports_of(name) if FLOOR[each] > FLOOR[name]}
    assert not above, f"{name or '__init__'} is on floor {FLOOR[name]}"


def test_lowest_floor_uses_the_standard_library_alone():
    for name in FLOORS[0]:
        assert imports_of(name) <= {"re", "secrets", "typing"}


@pytest.mark.parametrize("library", ONLY_THERE)
def test_library_is_known_in_its_place_alone(library):
    knowing = {name for name in FILES if any(f"{each}.".startswith(f"{library}.") for each in imports_of(name))}
    assert knowing <= ONLY_THERE[library]


def test_modules_of_one_floor_do_not_use_each_other_in_a_circle():
    known = {name: own_imports_of(name) - {""} for name in FILES if name}
    fine = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in fine:
            for each in known[name]:
                visit(each, [*path, name])
            fine.add(name)

    for name in known:
        visit(name, [])


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("hub", "from . import signals", {"signals"}),
        ("hub", "from .brokers.base import Broker", {"brokers.base"}),
        ("hub", "def f():\n    from .asgi import x", {"asgi"}),
        ("hub", "import ds_broadcaster.log", {"log"}),
        ("hub", "from ds_broadcaster.log import Log", {"log"}),
        ("hub", "from . import broadcast", {""}),
        ("brokers.memory", "from ..log import Log\nfrom .base import Broker", {"log", "brokers.base"}),
        ("brokers", "from ..conf import Settings\nfrom .base import Broker", {"conf", "brokers.base"}),
        ("hub", "if TYPE_CHECKING:\n    from .asgi import x\nelse:\n    from .log import y", {"log"}),
        ("hub", "if typing.TYPE_CHECKING:\n    from .asgi import x", set()),
    ],
)
def test_imports_are_read_right(name, text, expected):
    assert own_imports_of(name, text) == expected


@pytest.mark.parametrize("name", FILES)
def test_file_is_short_enough_to_be_one(name):
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


def test_no_module_shadows_the_callable():
    assert "broadcast" not in FILES
    assert not (PACKAGE / "broadcast").exists()
    assert callable(ds_broadcaster.broadcast)
