"""The house stands: packages on floors, imports downward only, no circle anywhere, files that can be read in one go."""

import ast
from functools import cache
from pathlib import Path

import pytest

import ds_broadcaster

PACKAGE = Path(ds_broadcaster.__file__).parent
LONGEST = 500

# From the ground up. A room is a package or a module of the top level; "" is the package itself.
FLOORS = [
    {
        "asgi_servers",
        "compaction",
        "conf",
        "csp",
        "exceptions",
        "ids",
        "log",
        "observers",
        "present",
        "signals",
        "sse",
        "tally",
        "twins",
    },
    {"brokers"},
    {"checks", "hub"},
    {"streams"},
    {"asgi", "broadcaster", "engine", "sending", "verbs"},
    {"contrib", "inspector", "migrations", "models", "receivers", "views"},
    {"", "__main__", "apps", "management", "middleware", "templatetags", "testing", "urls"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS, 1) for room in floor}

# Libraries and who may know them.
KNOWN_BY = {
    "datastar_py.sse": {"sse"},  # The generator does not check what it is given.
    "django.db": {
        "sending",  # Models as types alone.
        "brokers.postgres",
        "contrib",
        "migrations",
        "hub.threads",  # Closes the connections that the project's code opened in a thread.
        "models",
        "receivers",
        "streams.audiences",  # Model instances in a context.
        "streams.replayed_requests",
        "streams.responses",
        "templatetags",
        "testing",
    },
    "debug_toolbar": {"contrib.debug_toolbar"},
    "django.http": {
        "asgi",
        "broadcaster",
        "contrib.debug_toolbar",
        "inspector",
        "middleware",
        "streams",
        "templatetags",
        "testing",
        "verbs",
        "views",
    },
    "pydantic": {"conf", "models.rendering", "sse", "verbs", "views"},
    "redis": {"brokers.redis"},
    "psycopg": {"brokers.postgres"},
    "turbohtml": {"testing.dom"},
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name):
    return name.partition(".")[0]


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """The modules that a file imports, wherever in it: at the top, in a function, or for type checkers alone."""

    def __init__(self, name, is_package):
        self.package = ["ds_broadcaster", *(name.split(".") if name else [])]
        if not is_package:
            self.package.pop()
        self.found = set()

    def visit_Import(self, node):
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inside = f"{module}.{alias.name}".removeprefix("ds_broadcaster.")
            self.found.add(f"ds_broadcaster.{inside}" if inside in FILES else module)


@cache
def imports_of(name, text=None):
    path = FILES[name]
    visitor = Imports(name, path.name == "__init__.py")
    visitor.visit(ast.parse(path.read_text() if text is None else text))
    return visitor.found


def own_imports_of(name, text=None):
    own = {each for each in imports_of(name, text) if room_of(each) == "ds_broadcaster"}
    return {each.removeprefix("ds_broadcaster").removeprefix(".") for each in own}


def circle_in(uses):
    """Return the first circle in a graph, as a list of names; an empty list where there is none."""
    fine = set()

    def visit(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in fine:
            for each in sorted(uses[name]):
                if found := visit(each, [*path, name]):
                    return found
            fine.add(name)
        return []

    return next((found for name in sorted(uses) if (found := visit(name, []))), [])


def test_every_room_has_its_floor():
    assert {room_of(name) for name in FILES} == FLOOR.keys()


@pytest.mark.parametrize("name", FILES)
def test_imports_go_downward(name):
    room = room_of(name)
    above = {each for each in own_imports_of(name) if FLOOR[room_of(each)] > FLOOR[room]}
    assert not above, f"{name or '__init__'} is on floor {FLOOR[room]}"


def test_no_file_is_in_a_circle():
    assert circle_in({name: own_imports_of(name) for name in FILES}) == []


def test_no_room_is_in_a_circle():
    rooms = {room: set() for room in FLOOR}
    for name in FILES:
        rooms[room_of(name)] |= {room_of(each) for each in own_imports_of(name)} - {room_of(name)}
    assert circle_in(rooms) == []


@pytest.mark.parametrize("library", KNOWN_BY)
def test_library_is_known_in_its_place_alone(library):
    knowing = {name for name in FILES if any(f"{each}.".startswith(f"{library}.") for each in imports_of(name))}
    elsewhere = {name for name in knowing if not any(f"{name}.".startswith(f"{each}.") for each in KNOWN_BY[library])}
    assert not elsewhere


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("hub.hub", "from .. import signals", {"signals"}),
        ("hub.hub", "from ..brokers.base import Broker", {"brokers.base"}),
        ("hub.hub", "def f():\n    from ..asgi import x", {"asgi"}),
        ("hub.hub", "import ds_broadcaster.log", {"log"}),
        ("hub.hub", "from ds_broadcaster.log import Log", {"log"}),
        ("hub.hub", "from .. import broadcast", {""}),
        ("hub.hub", "from .channel import Channel", {"hub.channel"}),
        ("brokers.memory", "from ..log import Log\nfrom .base import Broker", {"log", "brokers.base"}),
        ("brokers", "from ..conf import Settings\nfrom .base import Broker", {"conf", "brokers.base"}),
        ("hub.hub", "if TYPE_CHECKING:\n    from ..asgi import x\nelse:\n    from ..log import y", {"asgi", "log"}),
    ],
)
def test_imports_are_read_right(name, text, expected):
    assert own_imports_of(name, text) == expected


@pytest.mark.parametrize(
    "uses, expected",
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_circles_are_found(uses, expected):
    assert circle_in(uses) == expected


@pytest.mark.parametrize("name", FILES)
def test_file_is_short_enough_to_be_read(name):
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


def test_no_module_shadows_the_callable():
    assert "broadcast" not in FILES
    assert not (PACKAGE / "broadcast").exists()
    assert callable(ds_broadcaster.broadcast)
