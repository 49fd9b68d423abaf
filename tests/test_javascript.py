"""The JavaScript client's own tests, run by node: the same vectors as the Python suite reads."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from tests.needs import require

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "clients" / "javascript" / "tests"
TIMEOUT_S = 100


@functools.cache
def node() -> str | None:
    """Where node 20 or later is; None when this machine has none."""
    found = shutil.which("node")
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    major = said.stdout.strip().removeprefix("v").partition(".")[0]
    return found if major.isdigit() and int(major) >= 20 else None


def test_the_javascript_client_passes_its_tests() -> None:
    program = node()
    require(program, "node 20 or later on PATH")
    files = sorted(str(path) for path in TESTS.glob("*.test.js"))
    assert files
    ran = subprocess.run(
        [str(program), "--test", "--test-reporter=tap", *files],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout
