"""Each client as a package: built, looked into, installed into a fresh environment, streaming from a running edge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tokenrelay_client

import tokenrelay
from tests.fleet import ROOT, Fleet
from tests.needs import require
from tests.wire import words

PYTHON = ROOT / "clients" / "python"
JAVASCRIPT = ROOT / "clients" / "javascript"
TIMEOUT_S = 110
OURS = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

READ_PYTHON = """
import sys
from tokenrelay_client import SyncClient
assert "site-packages" in sys.modules["tokenrelay_client"].__file__ and "tokenrelay" not in sys.modules
for transport in ("sse", "websocket"):
    with SyncClient(transport=transport) as client:
        stream = client.chat({"message": "hello", "model": "scripted?tokens=30&interval_ms=1"})
        assert [event.typed.token for event in stream] and stream.completion()["output_tokens"] == 30
        print(stream.text)
"""
READ_JAVASCRIPT = """
import { createClient } from "@tokenrelay/client";
const stream = createClient().chat({ message: "hello", model: "scripted?tokens=30&interval_ms=1" });
await stream.done;
console.log(stream.text);
"""


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env={**OURS, **env}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lower_bounds() -> list[str]:
    import tomllib

    wanted = tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]["dependencies"]
    return [each.partition(",")[0].replace(">=", "==") for each in wanted]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: as from an archive without its repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PYTHON, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def edge() -> Any:
    with Fleet(edges=1, workers=1) as started:
        yield started.urls[0]


def test_the_three_versions_are_equal() -> None:
    package = json.loads((JAVASCRIPT / "package.json").read_text())
    assert tokenrelay_client.__version__ == package["version"] == tokenrelay.__version__


def test_each_package_has_the_licence() -> None:
    texts = {(folder / "LICENSE").read_text() for folder in (ROOT, PYTHON, JAVASCRIPT)}
    assert len(texts) == 1


def test_the_wheel_holds_the_client_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    modules = {path.name for path in (PYTHON / "tokenrelay_client").glob("*.py")}
    assert {name for name in names if not name.startswith("tokenrelay_client-")} == {
        f"tokenrelay_client/{name}" for name in {*modules, "py.typed"}
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"Version: {tokenrelay_client.__version__}" in metadata
    assert "# Tokenrelay in Python" in metadata


def test_the_client_imports_nothing_of_the_server() -> None:
    for path in (PYTHON / "tokenrelay_client").glob("*.py"):
        text = path.read_text()
        assert "import tokenrelay\n" not in text
        assert "from tokenrelay." not in text


def test_the_wheel_installs_alone_with_the_lowest_dependencies_and_streams(
    wheel: Path, edge: str, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", system_site_packages=False, with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    try:
        run(python, "-m", "pip", "install", "--quiet", wheel, *lower_bounds(), cwd=tmp_path)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        require(None, f"a package index for pip ({str(error)[-200:]})")
    said = run(python, "-c", READ_PYTHON, cwd=tmp_path, TOKENRELAY_URL=edge)
    assert said.split("\n")[:2] == [words(30), words(30)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    require(npm, "npm on PATH")
    folder = tmp_path_factory.mktemp("npm")
    run(str(npm), "pack", "--pack-destination", folder, cwd=JAVASCRIPT)
    [found] = folder.glob("*.tgz")
    return found


def test_the_npm_package_holds_the_client_and_no_tests(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    files = {path.name for path in JAVASCRIPT.iterdir() if path.suffix in (".js", ".ts")}
    assert names == {*files, "package.json", "README.md", "LICENSE"}


def test_the_npm_package_installs_and_streams(packed: Path, edge: str, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    run(str(shutil.which("npm")), "install", "--no-audit", "--no-fund", "--offline", packed, cwd=tmp_path)
    (tmp_path / "read.js").write_text(READ_JAVASCRIPT)
    assert run("node", "read.js", cwd=tmp_path, TOKENRELAY_URL=edge) == words(30) + "\n"
