"""What a chunk from a provider costs us, beside the providers' own SDKs in the same run.

    python -m tests.upstream_cost                # 500 streams at once of every dialect, about two minutes
    python -m tests.upstream_cost --streams 50 --chunks 20 responses

One process is the providers: it speaks each wire (a transcript's first text delta, again and again, each in a write of
its own). Each reader is a process of its own, under uvloop as a worker is. It reads one answer to be warm (SDKs import
at first use), then counts its CPU time from the first request to the last byte: connections, parsing and all. A reader
that did not get every delta of every stream has no figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp
import msgspec
import uvloop

from tests.workers.oracle import sdks
from tests.workers.oracle.cases import CASES
from tests.workers.oracle.test_oracle import ours
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked
from tokenrelay.workers.conversation import Delta, Message, ModelRequest

DIALECTS: Final = ("responses", "chat_completions", "anthropic", "gemini")
SDKS: Final = {"responses": "openai", "chat_completions": "openai", "anthropic": "anthropic", "gemini": "google-genai"}
INTERVAL_S: Final = 0.2
"""Between two deltas of a stream: slow enough that each is read by itself, also by a reader that needs long."""

RAMP_S: Final = 0.004
"""Between the beginnings of two streams, or some SDK's connections would not be made in its five seconds."""

PATIENCE_S: Final = 600
MESSAGES: Final[list[dict[str, str]]] = [{"role": "user", "content": "hi"}]


class Wire(msgspec.Struct, frozen=True):
    """An answer in three parts."""

    head: bytes
    delta: bytes
    tail: bytes


def wire_of(dialect: str) -> Wire:
    body = next(case.body for case in CASES if (case.dialect, case.name) == (dialect, "text"))
    frames = [frame + b"\n\n" for frame in body.split(b"\n\n") if frame]
    first = next(at for at, frame in enumerate(frames) if b'"Hel"' in frame)
    last = max(at for at, frame in enumerate(frames) if b'"!"' in frame)
    return Wire(b"".join(frames[:first]), frames[first], b"".join(frames[last:]))


# -- the providers -----------------------------------------------------------------------------------------------------


def serve(dialect: str, chunks: int, said: Any) -> None:
    """The last part of the transcript has a delta of its own: `chunks` counts it."""
    uvloop.run(_serve(wire_of(dialect), chunks, said))


async def _serve(wire: Wire, chunks: int, said: Any) -> None:
    def script(interval_s: float) -> Script:
        async def play(_: Reader, writer: Writer) -> None:
            writer.write(HEAD)
            if wire.head:
                writer.write(chunked(wire.head))
            delta = chunked(wire.delta)
            for _number in range(chunks - 1):
                writer.write(delta)
                await asyncio.sleep(interval_s)
            writer.write(chunked(wire.tail) + END)

        return play

    async with Upstream(script(INTERVAL_S)) as upstream, Upstream(script(0)) as quick:
        said.send((upstream.root, quick.root))
        await asyncio.sleep(PATIENCE_S)


# -- the readers -------------------------------------------------------------------------------------------------------


def read(kind: str, dialect: str, roots: tuple[str, str], streams: int, said: Any) -> None:
    """Tell the CPU seconds and how many deltas came."""
    said.send(uvloop.run(_read({"ours": _ours, "sdk": _sdk}[kind], dialect, roots, streams)))


async def _read(
    reader: Callable[[str, str, int], Awaitable[tuple[float, int]]], dialect: str, roots: tuple[str, str], streams: int
) -> tuple[float, int]:
    root, quick = roots
    await reader(dialect, quick, 1)
    return await reader(dialect, root, streams)


async def _ours(dialect: str, root: str, streams: int) -> tuple[float, int]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        provider = ours(dialect, root, session, None)
        request = ModelRequest("m", [Message("user", "hi")])

        async def one() -> int:
            return sum([isinstance(piece, Delta) async for piece in provider.stream(request)])

        return await _measured(one, streams)


async def _sdk(dialect: str, root: str, streams: int) -> tuple[float, int]:
    client = sdks.client(dialect, root)

    async def one() -> int:
        return sum([bool(text) async for text in _texts(dialect, client)])

    try:
        return await _measured(one, streams)
    finally:
        await sdks.close(dialect, client)


async def _texts(dialect: str, client: Any) -> AsyncIterator[str | None]:
    """The plainest way each SDK has: no helper that adds up."""
    if dialect == "responses":
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            yield event.delta if event.type == "response.output_text.delta" else None
    elif dialect == "chat_completions":
        async for chunk in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            yield chunk.choices[0].delta.content if chunk.choices else None
    elif dialect == "anthropic":
        async for event in await client.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True):
            yield event.delta.text if event.type == "content_block_delta" and event.delta.type == "text_delta" else None
    else:
        async for chunk in await client.models.generate_content_stream(model="m", contents="hi"):
            yield chunk.text


async def _measured(one: Callable[[], Awaitable[int]], streams: int) -> tuple[float, int]:
    began = _cpu_s()

    async def later(number: int) -> int:
        await asyncio.sleep(RAMP_S * number)
        return await one()

    counts = await asyncio.gather(*(later(number) for number in range(streams)))
    return _cpu_s() - began, sum(counts)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- the table ---------------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True):
    """CPU microseconds a chunk; None where a reader did not get all of them."""

    dialect: str
    ours_us: float | None
    sdk_us: float | None


def measure(dialect: str, streams: int, chunks: int) -> Row:
    context = multiprocessing.get_context("spawn")
    hears, says = context.Pipe(duplex=False)
    provider = context.Process(target=serve, args=(dialect, chunks, says), daemon=True)
    provider.start()
    try:
        roots = _heard(hears)
        costs = [_cost(context, kind, dialect, roots, streams, chunks) for kind in ("ours", "sdk")]
    finally:
        provider.kill()
        provider.join()
    return Row(dialect, *costs)


def _cost(context: Any, kind: str, dialect: str, roots: tuple[str, str], streams: int, chunks: int) -> float | None:
    hears, says = context.Pipe(duplex=False)
    reader = context.Process(target=read, args=(kind, dialect, roots, streams, says), daemon=True)
    reader.start()
    says.close()  # so that its death is heard
    try:
        cpu_s, count = _heard(hears)
    except EOFError:
        return None
    finally:
        reader.kill()
        reader.join()
    return cpu_s / count * 1e6 if count == streams * chunks else None


def _heard(hears: Any) -> Any:
    if not hears.poll(PATIENCE_S):
        raise TimeoutError("a process of the measurement said nothing")
    return hears.recv()


def table(rows: list[Row]) -> str:
    lines = ["| dialect | here | its SDK | | share |", "|---|---|---|---|---|"]
    for row in rows:
        here, there = (f"{cost:.0f} µs" if cost else "chunks were lost" for cost in (row.ours_us, row.sdk_us))
        share = f"{row.ours_us / row.sdk_us:.0%}" if row.ours_us and row.sdk_us else "none"
        lines.append(f"| {row.dialect} | {here} | {there} | {SDKS[row.dialect]} | {share} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU per chunk from a provider, beside the providers' own SDKs.")
    parser.add_argument("dialects", nargs="*", choices=[*DIALECTS, []], help="all, if none is named")
    parser.add_argument("--streams", type=int, default=500, help="at once (500)")
    parser.add_argument("--chunks", type=int, default=40, help="text deltas of each stream (40)")
    parser.add_argument("--json", action="store_true", help="rows as JSON, not as a table")
    given = parser.parse_args()
    rows = []
    for dialect in given.dialects or DIALECTS:
        print(f"{dialect}: {given.streams} streams of {given.chunks} chunks, twice", file=sys.stderr)
        rows.append(measure(dialect, given.streams, given.chunks))
    print(json.dumps(msgspec.to_builtins(rows)) if given.json else table(rows))
    return 0 if all(row.ours_us and row.sdk_us for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
