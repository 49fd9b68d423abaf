"""Handlers that are being written: when a file of theirs changes, or of a module that they import from beside them,
their rows get what it says now. For a developer's machine only (`tokenrelay up`); answers under way go on with the code
they began with.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from tokenrelay.protocol.models.catalogue import Catalogue, Model
from tokenrelay.workers.providers import handler_import
from tokenrelay.workers.providers.base import Provider
from tokenrelay.workers.providers.handler_thread import HandlerThread
from tokenrelay.workers.providers.python_handler import PythonHandler

LOOK_EVERY_S: Final = 0.5
MAX_FILES: Final = 1_000
OURS: Final = frozenset({"tokenrelay", "tokenrelay_client", "__main__", "__mp_main__"})
Stamps: TypeAlias = dict[Path, tuple[int, int]]

log = structlog.get_logger()


class Reloader:
    """One a process. `providers` and `lacks` are those that the worker offers; both are kept up to date."""

    def __init__(
        self, catalogue: Catalogue, providers: dict[str, Provider], lacks: dict[str, str], handlers: HandlerThread
    ) -> None:
        self.rows: list[tuple[Model, str]] = [(row, row.handler) for row in catalogue.models if row.handler is not None]
        self._providers = providers
        self._lacks = lacks
        self._handlers = handlers
        # Of the handlers, and what they have imported from beside them; one that cannot be imported now stays.
        self._packages = {handler.partition(":")[0].partition(".")[0] for _, handler in self.rows} - OURS

    def __repr__(self) -> str:
        return f"<Reloader {len(self.rows)} handlers of {', '.join(sorted(self._packages))}>"

    async def run(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        seen = await asyncio.to_thread(self._stamps)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = await asyncio.to_thread(self._stamps)
            if now != seen:
                seen = now
                found = await asyncio.to_thread(self._find_anew, list(now))
                self._offer(found)

    def _stamps(self) -> Stamps:
        importlib.invalidate_caches()
        folders = tuple(folder for folder in map(_folder_of, self._packages) if folder is not None)
        self._packages |= {name for name, file in _imported() if file.startswith(folders)} - OURS
        files = itertools.chain.from_iterable(map(_files_of, sorted(self._packages)))
        stamps: Stamps = {}
        for path in itertools.islice(files, MAX_FILES):
            try:
                stat = path.stat()
            except OSError:
                continue
            stamps[path] = (stat.st_mtime_ns, stat.st_size)
        return stamps

    def _find_anew(self, files: list[Path]) -> list[handler_import.Handler | handler_import.HandlerError]:
        for path in files:  # a compiled file is known by a time in seconds: too coarse for somebody who types
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        for name in list(sys.modules):
            if name.partition(".")[0] in self._packages:
                del sys.modules[name]
        found: list[handler_import.Handler | handler_import.HandlerError] = []
        for _, handler in self.rows:
            try:
                found.append(handler_import.find(handler))
            except handler_import.HandlerError as error:
                found.append(error)
        return found

    def _offer(self, found: list[handler_import.Handler | handler_import.HandlerError]) -> None:
        for (row, handler), now in zip(self.rows, found, strict=True):
            if isinstance(now, handler_import.HandlerError):
                self._providers.pop(row.source, None)
                self._lacks[row.source] = f"the handler {handler} cannot be used: {now}"
                log.error("handler_unusable", model=row.id, handler=handler, error=str(now))
            else:
                self._providers[row.source] = PythonHandler(row.provider, handler, now, self._handlers, tools=row.tools)
                self._lacks.pop(row.source, None)
                log.warning("handler_reloaded", model=row.id, handler=handler)


def _imported() -> Iterator[tuple[str, str]]:
    """The packages of this process by name, and where their files are; those that are installed left out."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not _is_installed(file):
            yield name.partition(".")[0], file


def _is_installed(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _folder_of(package: str) -> str | None:
    """Where it is, with a separator at the end. None: it is installed, or there is none."""
    spec = _spec_of(package)
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
    place = next((place for place in places if place is not None), None)
    return None if place is None or _is_installed(place) else f"{Path(place).parent}{os.sep}"


def _files_of(package: str) -> Iterator[Path]:
    """Where a module of that name is, or would be: its file, or all those of its folder."""
    spec = _spec_of(package)
    if spec is None:
        return
    if spec.submodule_search_locations is None and spec.origin is not None:
        yield Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        yield from sorted(Path(folder).rglob("*.py"))


def _spec_of(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
