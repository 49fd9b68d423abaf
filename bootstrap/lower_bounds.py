"""Runs tests with the lowest versions that pyproject.toml allows, in an environment of its own; needs the standard
library only.

    python3 -m bootstrap.lower_bounds

What the project names directly is installed in its lowest version (the extras too, but for the local model and the
openai SDK), what those need in its newest, and the tests' own tools as they are pinned.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also when run by its path
from bootstrap.install import UV, pins, uv_environment

ROOT: Final = Path(__file__).resolve().parent.parent
ENVIRONMENT: Final = ROOT / ".venv-lowest"
PYTHON: Final = ENVIRONMENT / "bin" / "python"
EXTRAS: Final = ("embedded", "otel", "pydantic-ai", "langgraph")
TOOLS: Final = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "schemathesis",
    "openai",  # the newest: it judges what we say
    "pyte",
    "standardwebhooks",
)
TESTS: Final = (
    "tests/protocol",
    "tests/server",
    "tests/workers/tools",
    "tests/workers/generation",
    "tests/workers/test_adapters.py",
    "tests/workers/test_handlers.py",
    "tests/end_to_end/test_streaming.py",
)


def wanted() -> list[str]:
    """What is installed: the ranges of the project and of its client, and the pins of the tests' tools."""
    server = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    client = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = [*server["dependencies"], *client["dependencies"]]
    for extra in EXTRAS:
        ranges += server["optional-dependencies"][extra]
    ranges = [each for each in ranges if not each.startswith("tokenrelay-client")]  # it is here
    tools = [pin for pin in pins(ROOT / "requirements-dev.txt") if re.split(r"[=\[;]", pin)[0] in TOOLS]
    return ranges + tools


def run(*command: object, **env: str) -> int:
    return subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **env}, check=False).returncode


def main() -> int:
    """The exit code of the first command that fails, else of the tests."""
    installer = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
    steps = (
        [sys.executable, "-m", "venv", "--clear", ENVIRONMENT],
        [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV],
        [*installer, "--resolution", "lowest-direct", *wanted()],
        [*installer, "--no-deps", "--editable", ROOT, "--editable", ROOT / "clients" / "python"],
    )
    for step in steps:
        if code := run(*step, **uv_environment(os.environ)):
            return code
    return run(PYTHON, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS)


if __name__ == "__main__":
    sys.exit(main())
