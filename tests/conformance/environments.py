"""An environment for each client: a venv or a folder of npm's, kept outside the tree and made once. Knows no case."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from bootstrap.install import uv_environment
from tests.fleet import ROOT

HERE: Final = Path(__file__).resolve().parent
NODE: Final = "node-22"
"""The environment that holds a Node.js for those that need a newer one than the machine has."""

LEAST_NODE: Final = 20
INSTALL_TIMEOUT_S: Final = 600


class Missing(Exception):
    """What an environment needs and this machine has not."""


class Client(msgspec.Struct, frozen=True):
    """A row of versions.toml."""

    name: str
    packages: list[str]
    program: str = ""
    node: int = LEAST_NODE
    is_in_subset: bool = False

    @property
    def is_python(self) -> bool:
        return "==" in self.packages[0]


@functools.cache
def rows() -> dict[str, Client]:
    read = tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))
    return {name: msgspec.convert({"name": name, **row}, Client) for name, row in read.items()}


def clients(*, subset: bool = False) -> list[Client]:
    return [row for row in rows().values() if row.program and (row.is_in_subset or not subset)]


def cache() -> Path:
    """`CONFORMANCE_CACHE`, else below the user's cache."""
    if given := os.environ.get("CONFORMANCE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenrelay" / "conformance"


def folder(client: Client) -> Path:
    """Named after what is in it, so that another pin is another folder."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}" if client.is_python else ""
    digest = hashlib.sha256(f"{client.packages} {python}".encode()).hexdigest()[:10]
    return cache() / f"{client.name}-{digest}"


def is_installed(client: Client) -> bool:
    return (folder(client) / "complete").exists() and (client.is_python or _node(client) is not None)


def install(client: Client) -> None:
    """Raises Missing, subprocess.CalledProcessError."""
    if not client.is_python and client.name != NODE and _node(client) is None:
        install(rows()[NODE])
    if is_installed(client):
        return
    place = folder(client)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (_install_python if client.is_python else _install_node)(client, place)
    (place / "complete").touch()


def command(client: Client) -> list[str]:
    """Runs the client's program; the environment is there."""
    if client.is_python:
        return [str(folder(client) / "bin" / "python"), "-m", f"tests.conformance.{client.program}"]
    place = folder(client) / "run"  # a program finds packages upwards from where it lies
    place.mkdir(exist_ok=True)
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, place)
    return [str(_node(client)), str(place / client.program)]


def _install_python(client: Client, place: Path) -> None:
    uv = ROOT / ".venv" / "installer" / "bin" / "uv"
    _run([sys.executable, "-m", "venv", *(["--without-pip"] if uv.exists() else []), str(place)])
    python = str(place / "bin" / "python")
    start = [str(uv), "pip", "install", "--python", python] if uv.exists() else [python, "-m", "pip", "install"]
    _run([*start, "--quiet", *client.packages])


def _install_node(client: Client, place: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm on PATH")
    (place / "package.json").write_text('{"private": true}')
    _run([npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent", "--prefix", str(place),
          *client.packages])  # fmt: skip


def _node(client: Client) -> Path | None:
    """A Node.js that is new enough for it, if there is one here."""
    if client.name == NODE:
        return Path()
    found = shutil.which("node")
    if found is not None and _major(found) >= client.node:
        return Path(found)
    own = folder(rows()[NODE])
    program = own / "node_modules" / rows()[NODE].packages[0].partition("@")[0] / "bin" / "node"
    return program if (own / "complete").exists() else None


@functools.cache
def _major(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    major = said.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdigit() else 0


def _run(wanted: list[str]) -> None:
    """Raises subprocess.CalledProcessError with what it said."""
    env = uv_environment(os.environ)
    subprocess.run(wanted, env=env, check=True, timeout=INSTALL_TIMEOUT_S, capture_output=True, text=True)
