"""The providers' own SDKs and our dialects read the same bytes from the same server, cut up in hostile ways: same text,
same calls, same usage, same end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import pytest

from tests.workers.oracle import sdks
from tests.workers.oracle.cases import CASES, DIALECTS, NO_COMMENTS, WIRES, Answer, Case, understood
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked
from tokenrelay.workers.conversation import Message, ModelRequest, Piece
from tokenrelay.workers.providers import anthropic, chat_completions, gemini, responses
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Accepts, ProviderError
from tokenrelay.workers.providers.chat_completions import ChatCompletions
from tokenrelay.workers.providers.gemini import Gemini
from tokenrelay.workers.providers.parser import Parser
from tokenrelay.workers.providers.responses import Responses
from tokenrelay.workers.providers.upstream import Upstream as Provider

PARSERS: Final[Mapping[str, type[Parser]]] = {
    "chat_completions": chat_completions.Parser,
    "responses": responses.Parser,
    "anthropic": anthropic.Parser,
    "gemini": gemini.Parser,
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs would ask a proxy of the environment for the server of this test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def wires(case: Case) -> dict[str, list[bytes]]:
    return {
        name: [piece for piece in cut(case.body) if piece]
        for name, cut in WIRES.items()
        if not ("comments" in name and case.dialect in NO_COMMENTS)
    }


def plays(case: Case) -> Script:
    """Each request gets the answer cut in the next way. A transcript that ends in mid-air ends the connection too."""
    waiting = iter(wires(case).values())

    async def script(_: Reader, writer: Writer) -> None:
        writer.write(HEAD)
        for piece in next(waiting):
            writer.write(chunked(piece))
        if case.answer.cut:
            writer.close()
        else:
            writer.write(END)

    return script


def ours(dialect: str, root: str, session: aiohttp.ClientSession, accepts: Accepts | None = None) -> Provider:
    if dialect == "anthropic":
        return Anthropic(api_key="k-1", base_url=root, session=session, accepts=accepts)
    if dialect == "gemini":
        return Gemini(api_key="k-1", base_url=root, session=session, accepts=accepts)
    if dialect == "responses":
        return Responses(api_key="k-1", base_url=f"{root}/v1", session=session, accepts=accepts)
    base_url = f"{root}/v1"
    return ChatCompletions(name="chat_completions", api_key="k-1", base_url=base_url, session=session, accepts=accepts)


async def read(case: Case, provider: Provider) -> Answer:
    pieces: list[Piece] = []
    try:
        async for piece in provider.stream(ModelRequest("asked-for", [Message("user", "hi")])):
            pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except ProviderError as error:
        return understood(case, pieces, error)
    return understood(case, pieces, None)


async def sdk_read(case: Case, reader: Any) -> Answer:
    """The SDKs' errors differ: that there is one is all that counts, and the text before it."""
    try:
        return await sdks.read(case.dialect, reader)
    except sdks.Broken as error:
        return Answer(error.text, error=case.answer.error, cut=case.answer.cut)


def parse(case: Case, chunks: list[bytes]) -> Answer:
    parser = PARSERS[case.dialect]("asked-for")
    pieces: list[Piece] = []
    try:
        for chunk in chunks:
            pieces.extend(parser.feed(chunk))
        pieces.extend(parser.end())
    except ProviderError as error:
        return understood(case, pieces, error)
    return understood(case, pieces, None)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_there_are_enough_transcripts(dialect: str) -> None:
    assert sum(case.dialect == dialect for case in CASES) >= 12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_transcript_is_understood(case: Case) -> None:
    for wire, chunks in wires(case).items():
        assert parse(case, chunks) == case.answer, wire


@pytest.mark.parametrize("case", CASES, ids=str)
def test_over_http_it_is_understood_as_well(case: Case) -> None:
    async def run() -> None:
        async with Upstream(plays(case)) as upstream, aiohttp.ClientSession() as session:
            provider = ours(case.dialect, upstream.root, session)
            for wire in wires(case):
                assert await read(case, provider) == case.answer, wire

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # Google's SDK, of aiohttp's session
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_providers_own_sdk_understands_the_same(case: Case) -> None:
    sdks.sdk(case.dialect)

    async def run() -> None:
        async with Upstream(plays(case)) as upstream:
            reader = sdks.client(case.dialect, upstream.root)
            try:
                for wire in wires(case):
                    assert await sdk_read(case, reader) == case.answer, wire
            finally:
                await sdks.close(case.dialect, reader)

    asyncio.run(run())
