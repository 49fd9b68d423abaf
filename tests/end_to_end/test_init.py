"""`tokenrelay init` for real: the project runs with one command, says its handler's words, and passes its own test."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wire import call
from tokenrelay.protocol.runtime.launcher import clean_environment
from tokenrelay.server.stack import project

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "tokenrelay.server.cli"]
WAIT_S = 60


def environment() -> dict[str, str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python")))
    return clean_environment({"PYTHONPATH": path, "TOKENRELAY_DRAIN_S": "0.1", "NO_COLOR": "1"})


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )


async def until(url: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    """The only model of the project looks so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            _, listing, _ = await call("GET", f"{url}/api/models")
            if holds(next(row for row in listing["models"] if row["id"] == "support")):
                return
            await asyncio.sleep(0.2)


async def said(url: str) -> str:
    """By the project's only model, which need not be named."""
    _, answer, _ = await call("POST", f"{url}/api/chat", {"message": "Why?"})
    return str(answer.get("response", answer))


async def lived_through(url: str, agent: Path) -> None:
    assert await said(url) == "You asked: Why? And 6*7 is 42."
    text = agent.read_text()
    agent.write_text(text + "\nx = (\n")
    await until(url, lambda row: "SyntaxError" in row.get("unavailable_because", ""))
    agent.write_text(text.replace("You asked", "You did ask"))
    await until(url, lambda row: bool(row["available"]))
    assert await said(url) == "You did ask: Why? And 6*7 is 42."


def test_a_new_project_runs_answers_takes_changes_and_passes_its_test(tmp_path: Path) -> None:
    made = run(*CLI, "init", "support", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "support"
    tested = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey", folder=folder)
    assert "1 passed" in tested.stdout, tested.stdout + tested.stderr
    log = tmp_path / "log"
    with log.open("wb") as out:
        up = subprocess.Popen([*CLI, "up", "--port", "0"], cwd=folder, env=environment(), stdout=out, stderr=out)
    try:
        asyncio.run(asyncio.wait_for(lived_through(ready(up, log), folder / "agent.py"), 2 * WAIT_S))
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(WAIT_S) == 0


def ready(up: subprocess.Popen[bytes], log: Path) -> str:
    """Its address, once it says that it is ready."""
    from tokenrelay.protocol.runtime.launcher import wait_until

    assert wait_until(lambda: up.poll() is not None or "Chat page" in log.read_text(), WAIT_S), log.read_text()
    found = re.search(r"Chat page +(http://[^/]+)/\?model=support", log.read_text())
    assert found, log.read_text()
    return found[1]


def test_the_page_shows_what_init_writes() -> None:
    page = (ROOT / "docs" / "agent.md").read_text()
    assert project.HANDLER in page
    assert project.ROW.partition("\n")[2].replace("NAME", "support") in page
    assert project.TEST[project.TEST.index("def test_") :] in page


@pytest.mark.parametrize("name", ["Support", "a b", "-x", "é", "a" * 65])
def test_a_name_that_can_be_no_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(project.CannotMake):
        project.make(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "support").mkdir()
    (tmp_path / "support" / "agent.py").write_text("mine")
    with pytest.raises(project.CannotMake, match="not empty"):
        project.make(tmp_path / "support")
    assert [path.name for path in (tmp_path / "support").iterdir()] == ["agent.py"]
