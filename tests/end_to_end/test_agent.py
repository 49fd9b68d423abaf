"""A handler of one's own in a real fleet: read and resumed on two edges, cancelled, blocking, broken at its start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_lifecycle import until_state
from tests.fleet import Fleet
from tests.wire import Sse, Ws, call, text_of
from tokenrelay.protocol.runtime.launcher import clean_environment, role_command

AGENTS = """
import asyncio, os, time
from tokenrelay.agent import Ask, Data, Fail, Text, Thinking, ToolCall, ToolResult, Usage

async def support(ask: Ask):
    yield Thinking("let me see")
    yield ToolCall("c1", "lookup", {"order": 7})
    yield ToolResult("c1", "sent", False)
    yield Data("order", {"state": "sent", "steps": [1, 2]})
    for number in range(40):
        yield f"w{number} "
        await asyncio.sleep(0.01)
    yield Text(str(await ask.call_tool("calculator", {"expression": "6*7"})))
    yield Usage(10, 5, 2, 0.5)

async def thinks(ask):
    yield Thinking("hm")  # until the file that it is asked about is there
    while not os.path.exists(ask.messages[-1].content):
        await asyncio.sleep(0.01)
    yield "a"

async def for_ever(ask):
    while True:
        yield "t "
        await asyncio.sleep(0.02)

async def blocks(ask):
    yield "a"
    time.sleep(15)
    yield "b"

async def fails(ask):
    raise Fail("no such order", "NOT_FOUND")
    yield
"""
ROW = '[[model]]\nid = "{0}"\nprovider = "Acme"\nupstream = "{0}"\ndialect = "python"\nhandler = "acme_agents:{0}"\n'
SCRIPTED = '[[model]]\nid = "scripted"\nprovider = "Scripted"\nupstream = "scripted"\ndialect = "scripted"\n'
TEXT = "".join(f"w{number} " for number in range(40)) + "42"


def lay_out(folder: Path, *names: str) -> dict[str, str]:
    """The agents and a catalogue of these, as settings."""
    (folder / "acme_agents.py").write_text(AGENTS)
    catalogue = folder / "models.toml"
    catalogue.write_text(SCRIPTED + "".join(ROW.format(name) for name in names))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"TOKENRELAY_CATALOGUE": str(catalogue), "PYTHONPATH": path}


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    env = lay_out(tmp_path_factory.mktemp("agents"), "support", "thinks", "for_ever", "blocks", "fails", "is_not_there")
    with Fleet(edges=2, workers=1, env={**env, "TOKENRELAY_HANDLERS_REQUIRED": "0"}) as started:
        yield started


def shape(events: list[tuple[int | None, dict[str, Any]]]) -> list[Any]:
    """All but the text and the times."""
    names = ("status", "tool_name", "tool_input", "tool_result", "data_name", "data", "finish_reason", "cost_usd")
    told = [data for number, data in events if number]  # "queued" is the edge's own word
    return [kept for data in told if (kept := {name: data[name] for name in names if name in data})]


def test_every_reader_has_what_was_yielded_on_both_edges_and_transports(agents: Fleet) -> None:
    async def scene() -> None:
        one, other = agents.urls
        async with Sse.post(one, {"message": "hi", "model": "support"}) as stream:
            stream_id = stream.stream_id
            begun = await stream.take(7)  # then this reader is gone
        async with Sse.get(other, stream_id, begun[-1][0]) as stream:
            rest = await stream.take()
        async with Ws(other) as socket:
            await socket.resume(stream_id, 0)
            whole = await socket.take(stream_id)
        read = [*begun, *rest]
        assert "".join(data["token"] for _, data in read) == TEXT
        assert "".join(data["token"] for _, data in whole) == TEXT
        assert shape(read) == shape(whole)
        assert {"data_name": "order", "data": {"state": "sent", "steps": [1, 2]}} in shape(whole)
        assert [data["tool_name"] for _, data in whole if "tool_result" in data] == ["lookup", "calculator"]
        assert (whole[-1][1]["cost_usd"], whole[-1][1]["usage"]["input_tokens"]) == (0.5, 10)

    asyncio.run(asyncio.wait_for(scene(), 40))


@pytest.mark.parametrize("transport", ["sse", "ws"])
def test_the_time_to_the_first_token_does_not_end_at_a_thought(agents: Fleet, tmp_path: Path, transport: str) -> None:
    may_answer = tmp_path / "may-answer"
    body = {"message": str(may_answer), "model": "thinks"}

    async def counted(url: str) -> float:
        raw = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/metrics", timeout=10).read())
        name = f'tokenrelay_ttft_seconds_count{{transport="{transport}"}} '
        return float(next((line for line in raw.decode().splitlines() if line.startswith(name)), "0 0").split()[1])

    async def begins(url: str, before: float, events: list[tuple[int | None, dict[str, Any]]]) -> None:
        assert [data.get("status") for number, data in events if number] == ["started", "thinking"]
        assert await counted(url) == before
        may_answer.touch()

    async def scene() -> None:
        url = agents.urls[0]
        before = await counted(url)
        if transport == "sse":
            async with Sse.post(url, body) as stream:
                await begins(url, before, await stream.take(2))
                assert text_of(await stream.take()) == "a"
        else:
            async with Ws(url) as socket:
                stream_id = await socket.start(body)
                await begins(url, before, await socket.take(stream_id, 2))
                assert text_of(await socket.take(stream_id)) == "a"
        assert await counted(url) == before + 1

    asyncio.run(scene())


def test_it_is_cancelled_and_fails_as_it_says(agents: Fleet) -> None:
    async def scene() -> None:
        one, other = agents.urls
        async with Sse.post(one, {"message": "hi", "model": "for_ever"}) as stream:
            await stream.take(3)
            await call("DELETE", f"{other}/api/streams/{stream.stream_id}")
            assert (await stream.take())[-1][1]["finish_reason"] == "cancelled"
        async with Sse.post(one, {"message": "hi", "model": "fails"}) as stream:
            end = (await stream.take())[-1][1]
        assert (end["error_code"], end["error"]) == ("NOT_FOUND", "no such order")

    asyncio.run(asyncio.wait_for(scene(), 40))


def test_one_that_cannot_be_imported_is_unavailable_with_its_reason(agents: Fleet) -> None:
    async def scene() -> None:
        _, listing, _ = await call("GET", f"{agents.urls[0]}/api/models")
        rows = {row["id"]: row for row in listing["models"]}
        assert rows["support"]["available"]
        assert not rows["is_not_there"]["available"]
        assert "has no attribute 'is_not_there'" in rows["is_not_there"]["unavailable_because"]

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_one_that_blocks_costs_no_lease_and_no_other_stream(agents: Fleet) -> None:
    """Longer than a lease lasts."""

    async def scene() -> None:
        one, other = agents.urls
        async with Sse.post(one, {"message": "hi", "model": "blocks"}) as stream:
            async with Sse.post(other, {"message": "hi", "model": "scripted?tokens=3"}) as quick:
                assert (await quick.take())[-1][1]["finish_reason"] == "stop"
            await until_state(one, quick.stream_id, "completed")
            events = await stream.take()
        assert "".join(data["token"] for _, data in events) == "ab"
        assert "handler_blocks" in agents.said()

    asyncio.run(asyncio.wait_for(scene(), 50))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_does_not_start_without_its_handler(tmp_path: Path, processes: str) -> None:
    env = clean_environment(lay_out(tmp_path, "support", "is_not_there"))
    command = [*role_command("workers"), "--processes", processes]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert f"{tmp_path}/models.toml, line 17: the handler acme_agents:is_not_there" in ended.stderr
    assert "has no attribute 'is_not_there'" in ended.stderr
