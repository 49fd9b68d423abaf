"""Handlers are read again when their files change, and what they import from beside them too."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.workers.generation.play import Stage
from tokenrelay.protocol.models import catalogue
from tokenrelay.workers import reloading
from tokenrelay.workers.providers import handler_import
from tokenrelay.workers.providers.base import Provider
from tokenrelay.workers.providers.handler_thread import HandlerThread
from tokenrelay.workers.providers.python_handler import PythonHandler
from tokenrelay.workers.reloading import Reloader

ROW = '[[model]]\nid = "a"\nprovider = "A"\nupstream = "a"\ndialect = "python"\nhandler = "{}:answer"\n'
SOURCE = "python:a"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`tmp_path` is where modules are found; the tests' own `sys.modules` stay as they are."""
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("one_agent", "its_words", "acme_space"):
            del sys.modules[name]


class Watched:
    """The handler of one row while it is written; `says` asks what is offered now."""

    def __init__(self, module: str) -> None:
        self._rows = catalogue.parse(ROW.format(module))
        self._thread = HandlerThread(2)
        self.lacks: dict[str, str] = {}
        found = handler_import.find(f"{module}:answer")
        handler = PythonHandler("A", f"{module}:answer", found, self._thread, tools=False)
        self._providers: dict[str, Provider] = {SOURCE: handler}

    async def says(self) -> str:
        stage = Stage()
        stage.resources.catalogue, stage.resources.providers = self._rows, self._providers
        return "".join(event["token"] for event in await stage.told(stage.generation(model="a")))

    async def until(self, expected: str | None) -> None:
        """None: until it is not offered."""
        async with asyncio.timeout(30):
            while True:
                if SOURCE not in self._providers:
                    if expected is None:
                        return
                elif expected is not None and await self.says() == expected:
                    return
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        looked = threading.Event()

        class Seen(Reloader):
            def _stamps(self) -> reloading.Stamps:
                found = super()._stamps()
                looked.set()
                return found

        task = asyncio.create_task(Seen(self._rows, self._providers, self.lacks, self._thread).run())
        assert await asyncio.to_thread(looked.wait, 30)  # what changes from now on is a change
        try:
            yield
        finally:
            task.cancel()
            await self._thread.close()


def test_a_module_beside_the_handlers_is_read_again_with_it(project: Path) -> None:
    (project / "its_words.py").write_text('WORDS = "first"\n')
    (project / "one_agent.py").write_text("import its_words\n\ndef answer(ask):\n    return its_words.WORDS\n")

    async def scene() -> None:
        watched = Watched("one_agent")
        async with watched.reloading():
            await watched.until("first")
            (project / "its_words.py").write_text("WORDS = (\n")
            await watched.until(None)
            assert "SyntaxError" in watched.lacks[SOURCE]
            (project / "its_words.py").write_text('WORDS = "second"\n')
            await watched.until("second")

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_package_without_an_init_file_is_read_again_too(project: Path) -> None:
    (project / "acme_space").mkdir()
    agents = project / "acme_space" / "agents.py"
    agents.write_text('def answer(ask):\n    return "first"\n')

    async def scene() -> None:
        watched = Watched("acme_space.agents")
        async with watched.reloading():
            await watched.until("first")
            agents.write_text('def answer(ask):\n    return "another"\n')
            await watched.until("another")

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_what_is_installed_stays(project: Path) -> None:
    """Only what lies beside the handlers is watched: not the libraries, and nothing of ours."""
    (project / "one_agent.py").write_text('def answer(ask):\n    return "first"\n')
    watched = Watched("one_agent")
    reloader = Reloader(watched._rows, {}, {}, watched._thread)
    assert {path.name for path in reloader._stamps()} == {"one_agent.py"}
    assert reloader._packages == {"one_agent"}
    asyncio.run(watched._thread.close())
