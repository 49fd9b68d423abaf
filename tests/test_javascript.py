"""What is written in JavaScript, tested by node: the client, with the same vectors as the Python suite reads;
and what of the chat page needs no browser."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import require

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / "clients" / "javascript" / "tests", ROOT / "tests" / "web"]
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


@pytest.mark.parametrize("folder", FOLDERS, ids=["client", "page"])
def test_what_is_written_in_javascript_passes_its_tests(folder: Path) -> None:
    program = node()
    require(program, "node 20 or later on PATH")
    files = sorted(str(path) for path in folder.glob("*.test.js"))
    assert files
    ran = subprocess.run(
        [str(program), "--test", "--test-reporter=tap", *files],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout
