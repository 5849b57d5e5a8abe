"""A module imports only from floors below its own, and there is no circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scrapy_ezcaptcha"

# From the top. A name with a slash is a folder: its modules may import each other.
FLOORS = [
    ["__init__", "pytest_plugin"],
    ["commands/", "addon"],
    ["middleware"],
    ["solving/", "report"],
    ["crawl/"],
    ["stores/"],
    ["clearances/"],
    ["service/"],
    ["config"],
    ["challenge", "exit", "lru", "signals", "words"],
    ["errors"],
]
# The sandbox stands beside the house: it plays the service and sites, and imports none of it.
MAX_TOP_LEVEL_MODULES = 12
MAX_LINES = 335


def name_of(path: Path) -> str:
    """The module's name below the package, with dots."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, set[str]]:
    """Each module with those that it imports, also where only type checkers do."""
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    return {name: imports_of(path, paths.keys()) for name, path in paths.items()}


def imports_of(path, names) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scrapy_ezcaptcha"):
            module = node.module.removeprefix("scrapy_ezcaptcha").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                found.add(inner if inner in names else module or "__init__")
    return found


def floor_of(name: str) -> tuple[int, str]:
    """The number of the floor, from the top, and the room."""
    room = f"{name.partition('.')[0]}/"
    for number, rooms in enumerate(FLOORS):
        if room in rooms or name in rooms:
            return number, room if room in rooms else name
    raise AssertionError(f"{name} stands on no floor")


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    imported = modules()[name]
    if name.startswith("sandbox"):
        assert all(other.startswith("sandbox") for other in imported)
        return
    floor, room = floor_of(name)
    for other in imported:
        if name == "pytest_plugin" and other == "sandbox":
            continue
        other_floor, other_room = floor_of(other)
        assert other_floor > floor or other_room == room, f"{name} imports {other}"


def test_no_circle():
    order = list(TopologicalSorter(modules()).static_order())  # raises CycleError
    assert order.index("errors") < order.index("middleware")


def test_few_modules_stand_at_the_top_level():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_TOP_LEVEL_MODULES


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_module_is_long(name):
    path = PACKAGE.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_one_file_names_the_internals_of_scrapy():
    private = ("._slot", "_get_slot", "total_concurrency")
    found = {
        name_of(path)
        for path in PACKAGE.rglob("*.py")
        if any(word in path.read_text() for word in private)
    }
    assert found == {"crawl.engine"}


def test_the_kind_of_task_is_named_in_the_door_and_the_service_alone():
    found = {
        name_of(path) for path in PACKAGE.rglob("*.py") if "CloudFlare5STask" in path.read_text()
    }
    house = {name for name in found if not name.startswith("sandbox")}
    assert house == {"__init__", "commands.solve", "service.client", "service.wire"}
