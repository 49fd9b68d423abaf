"""The layout stands as drawn: who imports whom, what `protocol` must not know, where tests are."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients" / "python" / "tokenrelay_client"
FOLDERS = {name: ROOT / name for name in ("protocol", "server", "workers", "loadtest")} | {"client": CLIENT}
PREFIXES = {name: f"tokenrelay.{name}" for name in ("protocol", "server", "workers", "loadtest")} | {
    "client": "tokenrelay_client"
}

# Which package may import which. `tests` may import everything.
ARROWS = {
    "protocol": set[str](),
    "server": {"protocol"},
    "workers": {"protocol"},
    "client": set[str](),
    "loadtest": {"protocol"},
}
# The console script loads the terminal client and the benchmark, each in the one command that needs it.
# One build that the benchmark compares with is the workers' own with another loop.
EXCEPTIONS = {("server/cli.py", "client"), ("server/cli.py", "loadtest"), ("loadtest/bench/stock_arq.py", "workers")}

# Which room (a folder, or a module beside them) may import which inside its package.
ROOMS: dict[str, dict[str, set[str]]] = {
    "server": {
        "app": {"api", "edge", "fronts", "http", "settings", "transports", "web"},
        "fronts": {"generations", "http", "transports", "live", "access", "net", "timing"},
        "web": {"http"},
        "timing": {"metrics"},
        "api": {"transports", "generations", "http", "access", "live", "net", "store", "timing"},
        "transports": {"generations", "http", "edge", "live", "net", "access", "drain", "metrics", "timing"},
        "generations": {"edge", "access", "live", "store", "timing"},
        "http": {"net", "access", "edge", "drain", "timing"},
        "edge": {"access", "live", "store", "drain", "metrics", "settings", "webhooks"},
        "webhooks": {"store", "metrics", "settings"},
        "net": {"access", "drain"},
        "access": {"store", "settings"},
        "live": {"store", "metrics"},
        "store": {"metrics", "settings"},
        "stack": {"access", "settings"},
    },
    "workers": {
        "dispatch": {"generation", "append", "circuit", "metrics", "providers", "redis", "settings", "tools"},
        "generation": {
            "append",
            "routing",
            "providers",
            "tools",
            "circuit",
            "conversation",
            "metrics",
            "redis",
            "settings",
        },
        "append": {"metrics", "redis"},
        "routing": {"providers"},
        "providers": {"conversation"},
        "tools": {"conversation"},
        "open_providers": {"providers", "settings"},
        "reloading": {"providers"},
        "circuit": {"redis"},
        "metrics": {"conversation", "providers"},
        "settings": {"tools"},
    },
    "protocol": {
        "fronts": {"wire", "store", "reading", "errors", "events"},
        "wire": {"models", "reading", "store", "errors", "events", "lifecycle"},
        "reading": {"store"},
        "runtime": {"store", "models"},  # models: where the bundled catalogue lies
        "store": {"events", "lifecycle"},
        "models": {"errors"},
        "lifecycle": {"events"},
    },
}
# What starts a process may import anything of its package.
ENTRY_POINTS = {"__main__", "cli", "process"}

# Arrows against the table that have not been straightened yet; each is to go, none may come.
NOT_YET: set[tuple[str, str]] = set()

# What a pure room may know: nothing that waits, connects or reads a clock. One folder of `protocol` is no part of that:
# what edges and workers share as processes, for whom it would otherwise be written twice.
RUNTIME = ROOT / "protocol" / "runtime"
PURE_PACKAGES = {"msgpack", "msgspec"}
IMPURE_STDLIB = {
    "asyncio", "concurrent", "http", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal",
    "socket", "socketserver", "ssl", "subprocess", "threading", "time",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns"}

MAX_LINES = 400
# Data more than code; splitting them would only hide where a thing is.
LONG_BY_NATURE: dict[str, str] = {}


def modules(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted(FOLDERS[package].rglob("*.py"))


def pure_modules() -> Iterator[Path]:
    return (path for path in modules("protocol") if not path.is_relative_to(RUNTIME))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Every dotted name a module imports, wherever in it, also only for the type checker: `a.b` and `a.b.c` for
    `from a.b import c`."""
    found = set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name_of(path)} has a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def imported(path: Path) -> set[str]:
    """The packages a module imports: ours by their short names, others by their top names."""
    tops = {name.split(".")[0] for name in imported_names(path)} - {"tokenrelay", "tokenrelay_client"}
    ours = {
        package
        for package, prefix in PREFIXES.items()
        if any(f"{name}.".startswith(f"{prefix}.") for name in imported_names(path))
    }
    return tops | ours


def room_of(package: str, path: Path) -> str:
    return path.relative_to(FOLDERS[package]).parts[0].removesuffix(".py")


def rooms_imported(package: str, path: Path) -> set[str]:
    prefix = f"{PREFIXES[package]}."
    names = {name.removeprefix(prefix).split(".")[0] for name in imported_names(path) if name.startswith(prefix)}
    return {name for name in names if (FOLDERS[package] / name).is_dir() or (FOLDERS[package] / f"{name}.py").exists()}


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_only_where_its_arrows_point(package: str) -> None:
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in modules(package)
        for other in imported(path) & {*FOLDERS, "tests"}
        if other != package and other not in ARROWS[package] and (name_of(path), other) not in EXCEPTIONS
    ]
    assert not wrong


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_where_its_arrows_point(package: str) -> None:
    wrong = [
        (name_of(path), other)
        for path in modules(package)
        if (room := room_of(package, path)) not in ENTRY_POINTS
        for other in rooms_imported(package, path)
        if other != room and other not in ROOMS[package].get(room, set())
    ]
    assert set(wrong) <= NOT_YET
    assert {pair for pair in NOT_YET if pair[0].startswith(f"{package}/")} <= set(wrong), "an arrow is straight by now"


@pytest.mark.parametrize("package", ROOMS)
def test_the_arrows_of_the_table_make_no_circle(package: str) -> None:
    assert not circle({room: set(others) for room, others in ROOMS[package].items()})


@pytest.mark.parametrize("package", FOLDERS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Also not through an import that exists only for the type checker."""
    prefix, folder = PREFIXES[package], FOLDERS[package]
    names = {
        ".".join((prefix, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in modules(package)
    }
    graph = {name: {other for other in needed(path, names) if other != name} for name, path in names.items()}
    assert not circle(graph)


def needed(path: Path, names: dict[str, Path]) -> set[str]:
    """What a module imports. `from a.b import c` with a module c needs a.b.c; its package is only the way."""
    found = imported_names(path) & names.keys()
    ways = {other.rpartition(".")[0] for other in found}
    return {other for other in found if names[other].name != "__init__.py" or other not in ways}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A circle of the graph, or None."""
    done, on_the_way = set[str](), list[str]()

    def visit(node: str) -> list[str] | None:
        if node in on_the_way:
            return on_the_way[on_the_way.index(node) :]
        if node in done:
            return None
        on_the_way.append(node)
        for other in sorted(graph.get(node, ())):
            if found := visit(other):
                return found
        on_the_way.pop()
        done.add(node)
        return None

    for node in sorted(graph):
        if found := visit(node):
            return found
    return None


def test_nobody_reaches_into_another_folder_by_a_path() -> None:
    """A path is an import too: what lies elsewhere is asked from the module beside it, or from `tokenrelay.FOLDER`."""
    climbing = [
        f"{name_of(path)}:{number}"
        for path in modules(*FOLDERS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "__file__" in line and (line.count(".parent") > 1 or ".parents[" in line or '".."' in line)
    ]
    assert not [place for place in climbing if not place.startswith("loadtest/locustfile.py:")]  # run by its path
    known = {"server/web/pages.py", "protocol/runtime/launcher.py", "loadtest/fleet.py", "loadtest/bench/crowd.py"}
    users = {name_of(path) for path in modules(*FOLDERS) if {"tokenrelay.FOLDER"} & imported_names(path)}
    assert users <= known


def test_protocol_is_pure() -> None:
    allowed = (set(sys.stdlib_module_names) - IMPURE_STDLIB) | PURE_PACKAGES | {"protocol"}
    wrong = {name_of(path): imported(path) - allowed for path in pure_modules() if imported(path) - allowed}
    assert not wrong


def test_protocol_reads_no_clock_and_no_file() -> None:
    calls = [
        (name_of(path), node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        for path in pure_modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
    ]
    assert not [call for call in calls if call[1] in CLOCKS | {"open", "read_text", "read_bytes", "print", "input"}]


def test_only_processes_know_what_processes_share() -> None:
    """The load test starts fleets of its own, so it may know how processes are started; and nothing else of them."""
    room = "tokenrelay.protocol.runtime."
    launching = (f"{room}launcher.", f"{room}redis_server.")
    strangers = [(path, launching) for path in modules("loadtest")]
    strangers += [(path, ("nothing", "of it")) for path in [*pure_modules(), *modules("client")]]
    assert not [
        (name_of(path), name)
        for path, allowed in strangers
        for name in imported_names(path)
        if f"{name}.".startswith(room) and not f"{name}.".startswith(allowed)
    ]


def test_protocol_waits_for_nothing() -> None:
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    nodes = [(name_of(path), node) for path in pure_modules() for node in ast.walk(tree_of(path))]
    assert not [name for name, node in nodes if isinstance(node, waiting)]


def test_every_folder_of_tests_is_a_package() -> None:
    """Or `import server` would find `tests/server`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_every_module_says_what_it_is() -> None:
    bare = [
        path for path in modules(*FOLDERS) if path.name != "__init__.py" and ast.get_docstring(tree_of(path)) is None
    ]
    assert not [name_of(path) for path in bare]


@pytest.mark.parametrize("package", FOLDERS)
def test_no_module_is_too_long(package: str) -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    assert not {name: size for name, size in sizes.items() if size > MAX_LINES and name not in LONG_BY_NATURE}


def test_every_exception_is_still_needed() -> None:
    for name in LONG_BY_NATURE:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > MAX_LINES, f"{name} needs no exception"
