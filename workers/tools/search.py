"""Searching the web through ddgs, which asks several engines: words in, titles and addresses out. Reads no page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import structlog

from tokenrelay.workers.tools.base import ToolFailed

Found: TypeAlias = Sequence[Mapping[str, Any]]
Search: TypeAlias = Callable[[str, int], Found]

MAX_RESULTS: Final = 10
DEFAULT_RESULTS: Final = 5
THREADS: Final = 8
"""Searches at once in one worker: ddgs blocks, and one that hangs must not take the threads of others' files."""
ENGINE_TIMEOUT_S: Final = 8
MAX_SNIPPET: Final = 400

log = structlog.get_logger()


def ask_engines(query: str, most: int) -> Found:
    """Blocks. Raises whatever ddgs raises."""
    from ddgs import DDGS  # 20 ms and an HTTP client of its own: only who searches pays

    return DDGS(timeout=ENGINE_TIMEOUT_S).text(query, max_results=most)


class WebSearch:
    """One per process. `search` blocks; it runs in threads of its own."""

    def __init__(self, search: Search = ask_engines) -> None:
        self._search = search
        self._threads: ThreadPoolExecutor | None = None  # None before the first search

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Raises ToolFailed."""
        query = str(arguments["query"]).strip()
        if not query:
            raise ToolFailed("query: expected some words")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="search")
        most = min(MAX_RESULTS, int(arguments.get("max_results", DEFAULT_RESULTS)))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._search, query, most)
        except Exception as error:  # ddgs has a dozen engines, and each its own way to fail
            log.info("search_failed", error=type(error).__name__)
            raise ToolFailed("the search failed or found nothing; try other words") from error
        return listing(found[:most]) or "nothing was found"

    def close(self) -> None:
        """Searches under way end by their own timeouts; none is waited for."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def listing(found: Found) -> str:
    """As a model reads it: numbered, with title, address and a few lines each."""
    return "\n\n".join(
        f"{number}. {_line(item, 'title')}\n{_line(item, 'href')}\n{_line(item, 'body')}".rstrip()
        for number, item in enumerate(found, 1)
    )


def _line(item: Mapping[str, Any], field: str) -> str:
    return " ".join(str(item.get(field) or "").split())[:MAX_SNIPPET]
