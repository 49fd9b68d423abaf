"""The server's wheel: built from an unpacked archive, one import package without tests, and enough to serve alone."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import ROOT, until
from tokenrelay import __version__
from tokenrelay.loadtest.fleet import free_port

LEFT_OUT = {
    ".git",
    ".venv",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "__pycache__",
    "build",
    "dist",
}
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
LIMIT_S = 100.0


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """What it printed. Without our PYTHONPATH: nothing of the checkout is found by chance."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, tree: Path, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    return into / run(sys.executable, "-c", BUILD, f"build_{kind}", into, cwd=tree).splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is checked in, or what of it was unpacked: no .git, no trace of an earlier build."""
    copy = tmp_path_factory.mktemp("tree") / "tokenrelay-archive"

    def unwanted(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in LEFT_OUT or name.endswith(".egg-info")}

    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    (copy / "clients/javascript/node_modules/somebody").mkdir(parents=True, exist_ok=True)
    (copy / "clients/javascript/node_modules/somebody/index.js").write_text("// not ours")
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By way of the source distribution, as `python -m build` makes it and an index keeps it."""
    folder = tmp_path_factory.mktemp("built")
    with tarfile.open(build("sdist", tree, folder)) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", folder / f"tokenrelay-{__version__}", folder)


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_it_installs_one_import_package_and_no_tests(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"tokenrelay", f"tokenrelay-{__version__}.dist-info"}
    assert not [name for name in names if re.search(r"(^|/)(tests?|node_modules)/|\btest_|\.test\.", name)]


def test_it_holds_every_module_and_file_that_runs(names: set[str]) -> None:
    kinds = {".py", ".js", ".cjs", ".css", ".html", ".toml", ".json"}
    needed = {
        f"tokenrelay/{folder}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder in ("server", "workers", "protocol", "loadtest")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    }
    needed |= {f"tokenrelay/javascript/{path.name}" for path in (ROOT / "clients/javascript").glob("*.js")}
    needed |= {"tokenrelay/__init__.py", "tokenrelay/py.typed", "tokenrelay/protocol/models/catalogue.toml"}
    assert needed <= names


def test_a_wheel_made_straight_from_the_tree_is_the_same(tree: Path, names: set[str], tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tree, tmp_path)) as archive:
        assert set(archive.namelist()) == names


def test_it_says_what_it_is_and_what_it_needs(wheel: Path) -> None:
    about = metadata(wheel)
    needs = about.get_all("Requires-Dist") or []
    assert (about["Name"], about["Version"]) == ("tokenrelay", __version__)
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Description-Content-Type"] == "text/markdown"
    major, minor, _ = __version__.split(".")
    assert f"tokenrelay-client<{major}.{int(minor) + 1},>={major}.{minor}" in needs
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.read(f"tokenrelay-{__version__}.dist-info/entry_points.txt").decode()
    assert "tokenrelay = tokenrelay.server.cli:main" in entries


def test_the_three_packages_have_one_version() -> None:
    client = (ROOT / "clients/python/tokenrelay_client/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__.*= "([^"]+)"', client, re.MULTILINE)
    assert found is not None
    package = json.loads((ROOT / "clients/javascript/package.json").read_text(encoding="utf-8"))
    assert {__version__, found[1], package["version"]} == {__version__}


class Installed:
    """A fresh environment outside the checkout with both wheels in it; what they depend on is lent by ours."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self.folder = folder
        venv = folder / "venv"
        run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
        self.python = venv / "bin" / "python"
        self.command = venv / "bin" / "tokenrelay"
        self.packages = Path(
            run(self.python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
        )
        run(*installer(self.python), "--no-deps", "--no-index", *wheels, cwd=folder)
        # A folder that a .pth names is put on the path; .pth files in it, as of our editable install, are not read.
        lent = Path(pytest.__file__).parent.parent
        (self.packages / "lent.pth").write_text(f"{lent}\n")


def installer(python: Path) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    return [str(Path(sys.prefix) / "installer" / "bin" / "uv"), "pip", "install", "--python", str(python)]


@pytest.fixture(scope="module")
def installed(wheel: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    client = build("wheel", tree / "clients/python", folder)
    return Installed(folder, [wheel, client])


@pytest.fixture(scope="module")
def stack(installed: Installed) -> Iterator[str]:
    """`tokenrelay up` from the wheels: the embedded server, a worker and an edge. Its address."""
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENRELAY_", "PYTHONPATH"))}
    own |= {"TOKENRELAY_LOCAL": "0", "TOKENRELAY_DRAIN_S": "1"}
    with (installed.folder / "up.log").open("wb") as log:
        command = [str(installed.command), "up", "--port", str(port)]
        process = subprocess.Popen(command, env=own, cwd=installed.folder, stdout=log, stderr=log)
    said = installed.folder / "up.log"
    try:
        until(lambda: "is ready" in said.read_text() or process.poll() is not None, "the stack does not start")
        assert process.poll() is None, said.read_text()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, said.read_text()
        assert "Traceback" not in said.read_text()
    finally:
        process.kill()
        process.wait(10)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def test_installed_alone_it_serves_its_pages(stack: str) -> None:
    page = get(f"{stack}/")
    scripts = [f"/{path}" for path in re.findall(r'src="(static/[^"]+\.js)"', page)]
    assert scripts
    for path in [*scripts, "/static/client/client.js", "/docs", "/openapi.json"]:
        assert get(stack + path)


def test_installed_alone_it_streams_an_answer(stack: str, installed: Installed) -> None:
    body = json.dumps({"message": "hello", "model": "scripted?tokens=5", "stream": True}).encode()
    request = urllib.request.Request(f"{stack}/api/chat", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read().decode()
    assert text.count("event: token") == 5 or text.count('"token"') >= 5, text
    assert "completion" in text or "done" in text
    options = ("--url", stack, "--model", "scripted?tokens=5", "--json")
    lines = run(installed.command, "chat", "hello", *options, cwd=installed.folder).splitlines()
    assert len([line for line in lines if json.loads(line)]) >= 5


def test_every_module_loads_from_the_wheel_and_under_one_name(installed: Installed) -> None:
    program = """
import importlib, json, os, pkgutil, sys
import tokenrelay
SKIPPED = ("locustfile", "users", "__main__", "stock_arq")  # locust patches the process, programs run
def wanted(name): return name.rpartition(".")[2] not in SKIPPED and ".javascript" not in name
for found in pkgutil.walk_packages(tokenrelay.__path__, "tokenrelay."):
    if wanted(found.name):
        importlib.import_module(found.name)
files = {}
for name, module in list(sys.modules.items()):
    if getattr(module, "__file__", None) and name != "__main__":
        files.setdefault(os.path.realpath(module.__file__), []).append(name)
ours = [n for n in sys.modules if n.split(".")[0] == "tokenrelay"]
print(json.dumps({"twice": [names for path, names in files.items() if len(names) > 1 and "okenrelay" in path],
                  "files": [sys.modules[n].__file__ for n in ours if sys.modules[n].__file__]}))
"""
    found = json.loads(run(installed.python, "-P", "-c", program, cwd=installed.folder).splitlines()[-1])
    assert found["twice"] == []
    assert len(found["files"]) > 100
    assert all(file.startswith(str(installed.packages)) for file in found["files"])


@pytest.mark.parametrize("role", ["server", "workers", "loadtest"])
def test_in_the_checkout_too_no_module_is_loaded_under_two_names(role: str) -> None:
    """`python -m server` goes on working there, and what it loads is `tokenrelay.server`: only the package on the way
    to `__main__`, an `__init__` with nothing in it, is there as `server` as well."""
    program = f"""
import contextlib, json, os, runpy, sys
sys.argv = [{role!r}, "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_module({role!r}, run_name="__main__")
files = {{}}
for name, module in list(sys.modules.items()):
    if getattr(module, "__file__", None) and name != "__main__":
        files.setdefault(os.path.realpath(module.__file__), []).append(name)
ours = os.getcwd() + os.sep
print(json.dumps(sorted(
    names for path, names in files.items() if path.startswith(ours) and "site-packages" not in path
)))
"""
    said = run(sys.executable, "-c", program, cwd=ROOT, PYTHONPATH="clients/python").splitlines()[-1]
    names = [sorted(each) for each in json.loads(said)]
    assert [each for each in names if len(each) > 1] == [sorted((role, f"tokenrelay.{role}"))]
    assert {each[0].split(".")[0] for each in names} <= {"tokenrelay", "tokenrelay_client", role}
