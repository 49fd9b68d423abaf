"""A provider that hangs, over its own wire: at the connection, before the first word, between two words, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Iterator

from tests.fleet import Fleet
from tests.wire import Sse, call, text_of
from tests.workers.upstream import HEAD, Reader, Script, Upstream, Writer, chunked, hangs

TIMEOUTS = {
    "TOKENRELAY_CONNECT_TIMEOUT_S": "0.5",
    "TOKENRELAY_FIRST_TOKEN_TIMEOUT_S": "1",
    "TOKENRELAY_BETWEEN_TOKENS_TIMEOUT_S": "1",
    "TOKENRELAY_GENERATION_TIMEOUT_S": "3",
    "TOKENRELAY_MAX_ATTEMPTS": "1",
    "ANTHROPIC_API_KEY": "planted",
    "OPENAI_API_KEY": "planted",
}


def said(**event: object) -> bytes:
    return chunked(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


BEGIN = said(type="message_start", message={"id": "m", "model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}})
BLOCK = said(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
WORD = said(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "word "})
PING = said(type="ping")


async def never_done(_: Reader, writer: Writer) -> None:
    writer.write(HEAD + BEGIN + BLOCK)
    while not writer.is_closing():
        writer.write(WORD)
        await writer.drain()
        await asyncio.sleep(0.2)


async def pings_only(_: Reader, writer: Writer) -> None:
    """Pings are signs of life, and keep nobody alive beyond the total bound."""
    writer.write(HEAD + BEGIN + BLOCK + WORD)
    while not writer.is_closing():
        writer.write(PING)
        await writer.drain()
        await asyncio.sleep(0.2)


@contextlib.contextmanager
def one_that_accepts_nobody() -> Iterator[str]:
    """A listener whose queue is full: the handshake of who comes next is never answered (listen(2))."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def ask(fleet: Fleet, model: str, message: str, sentence: str, *texts: str) -> None:
    """Over SSE and as JSON: the error, and what had been written."""
    body = {"message": message, "model": model}
    whole = asyncio.create_task(call("POST", f"{fleet.urls[0]}/api/chat", body))
    async with Sse.post(fleet.urls[0], body) as stream:
        events = await stream.take()
    end = events[-1][1]
    assert (end["error_code"], end["retryable"]) == ("TIMEOUT", True)
    assert sentence in end["error"]
    assert set(text_of(events).split()) == set(texts)
    status, answer, _ = await whole
    assert (status, answer["error_code"], answer["error"]) == (504, "TIMEOUT", end["error"])
    assert set(answer.get("partial_response", "").split()) == set(texts)


SCRIPTS: dict[str, tuple[Script, str, list[str]]] = {
    "says nothing": (hangs(), "did not begin", []),
    "only a head": (hangs(HEAD, BEGIN), "did not begin", []),
    "falls silent": (hangs(HEAD, BEGIN, BLOCK, WORD), "fell silent", ["word"]),
    "only pings": (pings_only, "longer than is allowed", ["word"]),
    "never done": (never_done, "longer than is allowed", ["word"]),
}


def test_each_timeout_that_runs_out_is_an_error_of_its_own() -> None:
    async def scene(deaf: str) -> None:
        async def by_what_is_asked(reader: Reader, writer: Writer) -> None:
            _, _, body = upstream.requests[-1]
            script = next(script for name, (script, _, _) in SCRIPTS.items() if name.encode() in body)
            await script(reader, writer)

        upstream = Upstream(by_what_is_asked)
        async with upstream:
            env = {
                **TIMEOUTS,
                "TOKENRELAY_ANTHROPIC_BASE_URL": upstream.root,
                "TOKENRELAY_OPENAI_BASE_URL": deaf,
            }
            with Fleet(edges=1, workers=1, env=env) as fleet:
                async with asyncio.TaskGroup() as group:
                    for name, (_, sentence, texts) in SCRIPTS.items():
                        group.create_task(ask(fleet, "claude", name, sentence, *texts))
                    group.create_task(ask(fleet, "openai", "hello", "could not be reached in time"))
                said = fleet.said()
                for reason in ("connect", "first_token", "between_tokens", "total"):
                    assert re.search(rf"reason\W+{reason}\b", said), f"{reason} in\n{said}"
                async with asyncio.timeout(10):
                    await upstream.gone.wait()  # the calls are closed, not left behind

    with one_that_accepts_nobody() as deaf:
        asyncio.run(scene(deaf))
