"""A provider of each dialect that asks a server of the test, and what that server was asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import aiohttp

from tests.workers.oracle.cases import CASES, DIALECTS
from tests.workers.oracle.test_oracle import ours
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked, says
from tokenrelay.workers.conversation import Message, ModelRequest, Piece
from tokenrelay.workers.providers.base import Accepts, ProviderError

HI: Final = [Message("user", "hi")]
BODIES: Final = {
    dialect: next(case.body for case in CASES if (case.dialect, case.name) == (dialect, "text")) for dialect in DIALECTS
}


def answer(dialect: str) -> Script:
    return says(HEAD, chunked(BODIES[dialect]), END)


def refusal(error: dict[str, Any], status: int = 400) -> Script:
    body = json.dumps({"error": error}).encode()
    return says(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body)), body)


def in_turn(*scripts: Script) -> Script:
    """Another for each request; the last one again and again."""
    left = list(scripts)

    async def script(reader: Reader, writer: Writer) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(reader, writer)

    return script


class Asked:
    """What came of some requests, one after the other."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.pieces: list[list[Piece]] = []
        self.errors: list[ProviderError | None] = []
        self.left_out: list[tuple[str, ...]] = []


def ask(dialect: str, script: Script, *requests: ModelRequest, accepts: Accepts | None = None) -> Asked:
    """One provider asks for all of them."""

    async def run() -> Asked:
        asked = Asked()
        async with Upstream(script) as upstream, aiohttp.ClientSession() as session:
            provider = ours(dialect, upstream.root, session, accepts)
            for request in requests:
                asked.left_out.append(provider.left_out(request))
                pieces: list[Piece] = []
                error: ProviderError | None = None
                try:
                    async for piece in provider.stream(request):
                        pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
                except ProviderError as failure:
                    error = failure
                asked.pieces.append(pieces)
                asked.errors.append(error)
            asked.bodies = [json.loads(body) for _, _, body in upstream.requests]
        return asked

    return asyncio.run(asyncio.wait_for(run(), 30))
