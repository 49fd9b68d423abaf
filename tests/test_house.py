"""The house stands as drawn: who imports whom, what `protocol` must not know, where tests are, how long a module is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocol", "server", "workers", "clients", "loadtest")

# Who may import whom. `tests` may import everything.
ARROWS = {
    "protocol": set[str](),
    "server": {"protocol"},
    "workers": {"protocol"},
    "clients": {"protocol"},
    "loadtest": {"protocol"},
}
# The console script loads the terminal client and the benchmark, each in the one command that needs it.
# One build that the benchmark compares with is the workers' own with another loop.
DOORS = {("server/cli.py", "clients"), ("server/cli.py", "loadtest"), ("loadtest/bench/stock_arq.py", "workers")}

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
LONG_BY_NATURE = {
    "protocol/wire/openapi.py": "one document",
    "protocol/store/scripts.py": "the Lua texts, each beside its arguments and its reply",
}


def modules(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted(path for path in (ROOT / room).rglob("*.py") if "node_modules" not in path.parts)


def pure_modules() -> Iterator[Path]:
    return (path for path in modules("protocol") if not path.is_relative_to(RUNTIME))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Top names of all packages a module imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(path.relative_to(ROOT).parts[0] if node.level else (node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_where_its_arrows_point(room: str) -> None:
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in modules(room)
        for other in imported(path) & {*ROOMS, "tests"}
        if other != room and other not in ARROWS[room] and (name_of(path), other) not in DOORS
    ]
    assert not wrong


def test_server_and_workers_never_meet() -> None:
    assert not [name_of(path) for path in modules("server") if "workers" in imported(path)]
    assert not [name_of(path) for path in modules("workers", "clients", "loadtest") if "server" in imported(path)]


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
    strangers = [*pure_modules(), *modules("clients", "loadtest")]
    assert not [name_of(path) for path in strangers if "protocol.runtime" in path.read_text(encoding="utf-8")]


def test_protocol_waits_for_nothing() -> None:
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    nodes = [(name_of(path), node) for path in pure_modules() for node in ast.walk(tree_of(path))]
    assert not [name for name, node in nodes if isinstance(node, waiting)]


def test_every_folder_of_tests_is_a_package() -> None:
    """Or `import server` would find `tests/server`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_every_module_says_what_it_is() -> None:
    bare = [path for path in modules(*ROOMS) if path.name != "__init__.py" and ast.get_docstring(tree_of(path)) is None]
    assert not [name_of(path) for path in bare]


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_is_too_long(room: str) -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(room)}
    assert not {name: size for name, size in sizes.items() if size > MAX_LINES and name not in LONG_BY_NATURE}


def test_every_exception_is_still_needed() -> None:
    for name in LONG_BY_NATURE:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > MAX_LINES, f"{name} needs no exception"
