"""docs/first-app.md from its first block to its last, as a newcomer would go through it; only the ports are others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import chromium, page
from tests.fleet import ROOT
from tests.needs import require
from tests.recipes.book import FIRST_APP, blocks
from tests.recipes.run import command_of, events_of
from tests.recipes.terminal import Terminal, terminal
from tests.wire import words
from tokenrelay.loadtest.fleet import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["page"]  # a fixture

READY = "Tokenrelay is ready"
QUESTION = "Tell me about the sea."
FILES = {"html": "my-app/index.html", "python": "my-app/model.py"}
"""Where the page says that a block of this language is saved."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Reader:
    """Goes down the page, block by block, in a folder that looks like the checkout."""

    def __init__(self, folder: Path, open_ones: ExitStack) -> None:
        self.folder = folder / "checkout"
        self.folder.mkdir()
        for entry in (*ROOT.glob("*.*"), *(ROOT / name for name in ("Makefile", "clients", "protocol"))):
            if not entry.name.startswith("."):
                (self.folder / entry.name).symlink_to(entry)
        (self.folder / ".venv").symlink_to(sys.prefix)
        self._screens = folder
        self._open_ones = open_ones
        self._left = blocks(FIRST_APP)
        self._ports = {port: str(free_port()) for port in ("8000", "3000", "9000")}
        self.edge, self.site = (f"http://127.0.0.1:{self._ports[port]}" for port in ("8000", "3000"))

    def next(self, heading: str, language: str) -> str:
        """The code of the next block, which has to stand under this heading."""
        block = self._left.pop(0)
        assert block[:2] == (heading, language)
        return re.sub("|".join(self._ports), lambda port: self._ports[port[0]], block.code)

    def is_through(self) -> bool:
        return not self._left

    def save(self, heading: str, language: str) -> None:
        path = FILES[language]
        assert f"`{path}`" in FIRST_APP.read_text(encoding="utf-8")
        (self.folder / path).write_text(self.next(heading, language))

    def run(self, heading: str) -> str:
        """What a block prints that ends by itself."""
        command = command_of("sh", self.next(heading, "sh"))
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=60, text=True).stdout

    def keep_running(self, heading: str) -> Terminal:
        """A block that has a terminal of its own. `make` takes what is installed for new: a test installs nothing."""
        code = self.next(heading, "sh").replace("make run", "make --old-file=.venv/.runtime run")
        screen = self._screens / f"terminal-{len(self._left)}.txt"
        env = {"TOKENRELAY_PORT": self._ports["8000"], "PYTHONUNBUFFERED": "1"}
        return self._open_ones.enter_context(terminal(code, self.folder, screen, env))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    require(Path(sys.prefix, "bin", "tokenrelay").exists() or None, "the console script (make test installs it)")
    with ExitStack() as open_ones:
        yield Reader(tmp_path, open_ones)


def test_from_zero_to_your_own_app(reader: Reader, page: Page) -> None:
    answer, state = page.locator("#answer"), page.get_by_role("status")

    def text() -> str:
        return answer.text_content() or ""

    start = "Start the stack"
    stack = reader.keep_running(start)
    stack.wait_for(READY)  # its address also stands in "still waiting"
    events = events_of(reader.run(start))
    assert "".join(event["token"] for event in events) == words(20)
    assert events[-1]["done"]

    front_end = "Your own front end"
    reader.run(front_end)
    reader.save(front_end, "html")
    site = reader.keep_running(front_end)
    site.wait_for("Serving HTTP")
    page.goto(reader.site)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function("document.querySelector('#answer').textContent.length > 20")
    before = text()
    page.reload()
    page.wait_for_function("(length) => document.querySelector('#answer').textContent.length > length", arg=len(before))
    assert text().startswith(before)
    page.get_by_role("button", name="Stop").click()
    state.get_by_text("done").wait_for()

    own_model = "A model server of your own"
    reader.save(own_model, "python")
    reader.keep_running(own_model).wait_for("Running on")
    reader.run(own_model)
    stack.press_ctrl_c()
    reader.keep_running(own_model).wait_for(READY)
    told = json.loads(reader.run(own_model))
    assert (told["response"], told["provider"]) == ("You said: Hello, world! ", "Mine")
    reader.run(own_model)
    page.reload()
    state.get_by_text("no such stream").wait_for()  # it went with the stack that was stopped
    page.get_by_role("button", name="Ask").click()
    state.get_by_text("done").wait_for()
    assert text() == f"You said: {QUESTION} "
    assert reader.is_through()
