"""Tools of MCP servers, called by a model through the whole stack: a published server over both its transports, killed
and there again; one whose tools hang, fail, say too much or die."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fleet import ROOT, Fleet
from tests.needs import require
from tests.wire import Sse, text_of
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.events import MAX_TOOL_RESULT_BYTES

# Run as a program: the published server, over HTTP.
OVER_HTTP = """
import sys, uvicorn
from mcp_server_time.server import create_server
uvicorn.run(create_server("UTC").streamable_http_app(), port=int(sys.argv[1]), log_level="error", ws="none")
"""
TROUBLE = """
import os, time
from mcp.server.mcpserver import MCPServer
server = MCPServer("trouble")

@server.tool()
def hang() -> str:
    time.sleep(600)
    return "never"

@server.tool()
def huge() -> str:
    return "\\N{SNOWMAN}" * 200_000

@server.tool()
def fail() -> str:
    raise ValueError("it cannot be done")

@server.tool()
def die() -> str:
    os._exit(1)

@server.tool()
def say(text: str) -> str:
    return f"said {text}"

server.run("stdio")
"""
MODEL = """
[servers.loopback]
base_url = "http://127.0.0.1:PORT/v1"
[[model]]
id = "caller"
provider = "Loopback"
server = "loopback"
upstream = "caller-1"
accepts = ["tools"]
"""
PARIS = {"timezone": "Europe/Paris"}


async def model(request: web.Request) -> web.StreamResponse:
    """A model that calls the tool it is told to, `NAME {arguments}`, and then repeats what the tool gave."""
    body = await request.json()
    last = body["messages"][-1]
    delta: dict[str, Any] = {"content": last["content"]}
    if last["role"] != "tool":
        name, _, arguments = last["content"].partition(" ")
        wire = name.replace(".", "_")
        assert wire in [tool["function"]["name"] for tool in body["tools"]]
        delta = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": wire, "arguments": arguments}}]}
    chunk = {"model": "caller-1", "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    await stream.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
    return stream


@contextlib.asynccontextmanager
async def model_at(port: int) -> AsyncIterator[None]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", model)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


class Stack:
    """A fleet whose worker knows three MCP servers."""

    def __init__(self, folder: Path) -> None:
        self.model_port, self.mcp_port = free_port(), free_port()
        self._server: subprocess.Popen[bytes] | None = None  # None while nobody serves MCP over HTTP
        trouble = folder / "trouble.py"
        trouble.write_text(TROUBLE)
        servers = {
            "time": {"command": sys.executable, "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]},
            "far": {"url": f"http://127.0.0.1:{self.mcp_port}/mcp"},
            "trouble": {"command": sys.executable, "args": [str(trouble)], "timeout_s": 6},
        }
        (folder / "servers.json").write_text(json.dumps({"mcpServers": servers}))
        shipped = (ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8")
        (folder / "catalogue.toml").write_text(shipped + MODEL.replace("PORT", str(self.model_port)))
        self.env = {
            "TOKENRELAY_CATALOGUE": str(folder / "catalogue.toml"),
            "TOKENRELAY_MCP_SERVERS": str(folder / "servers.json"),
        }
        self.url = ""

    def serve(self) -> None:
        self._server = subprocess.Popen([sys.executable, "-c", OVER_HTTP, str(self.mcp_port)])

    def kill_server(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)

    async def calls(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The tool's result event, once the answer is whole: it has what the tool gave, and the result came before."""
        body = {"model": "caller", "message": f"{tool} {json.dumps(arguments)}", "tools": [tool]}
        async with Sse.post(self.url, body) as stream:
            events = await stream.take()
        called, result, *_, end = (data for _, data in events if "tool_name" in data or data["done"])
        assert (called["tool_name"], called["tool_input"], "tool_result" in called) == (tool, arguments, False)
        assert (end["finish_reason"], text_of(events)) == ("stop", result["tool_result"])
        return result

    async def until_called(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A server that has died is begun again; how soon is its own affair, that it is not ours to wait for."""
        async with asyncio.timeout(60):
            while (result := await self.calls(tool, **arguments)).get("tool_error"):
                await asyncio.sleep(0.1)
        return result


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    for name in ("mcp", "mcp_server_time"):
        require(importlib.util.find_spec(name), name)
    made = Stack(tmp_path_factory.mktemp("mcp"))
    made.serve()
    try:
        with Fleet(edges=1, workers=1, env=made.env) as fleet:
            made.url = fleet.urls[0]
            yield made
    finally:
        made.kill_server()


async def told_the_time(stack: Stack, server: str) -> None:
    result = await stack.until_called(f"{server}.get_current_time", **PARIS)
    assert json.loads(result["tool_result"])["timezone"] == "Europe/Paris"
    wrong = await stack.calls(f"{server}.get_current_time", timezone="Mars/Olympus")
    assert wrong["tool_error"]
    assert "Mars/Olympus" in wrong["tool_result"]
    lacking = await stack.calls(f"{server}.get_current_time")
    assert (lacking["tool_error"], "'timezone' is a required property" in lacking["tool_result"]) == (True, True)


@pytest.mark.parametrize("server", ["time", "far"])
def test_a_published_server_answers_over_pipes_and_over_http(stack: Stack, server: str) -> None:
    async def scene() -> None:
        async with model_at(stack.model_port):
            await told_the_time(stack, server)

    asyncio.run(scene())


def test_a_server_that_was_killed_is_spoken_to_again(stack: Stack) -> None:
    async def scene() -> None:
        async with model_at(stack.model_port):
            await told_the_time(stack, "far")
            stack.kill_server()
            assert (await stack.calls("far.get_current_time", **PARIS))["tool_error"]
            stack.serve()
            await told_the_time(stack, "far")
            assert (await stack.calls("trouble.die"))["tool_error"]
            assert (await stack.until_called("trouble.say", text="hi"))["tool_result"] == "said hi"

    asyncio.run(scene())


TROUBLES = [
    ("hang", "did not answer within 6 s"),
    ("fail", "Error executing tool fail"),
    ("die", "did not answer the call"),
]


@pytest.mark.parametrize(("tool", "words"), TROUBLES)
def test_a_tool_in_trouble_is_an_error_the_model_hears_of(stack: Stack, tool: str, words: str) -> None:
    async def scene() -> None:
        async with model_at(stack.model_port):
            await stack.until_called("trouble.say", text="hi")
            result = await stack.calls(f"trouble.{tool}")
            assert result["tool_error"]
            assert words in result["tool_result"]

    asyncio.run(scene())


def test_a_tool_that_says_too_much_is_cut(stack: Stack) -> None:
    async def scene() -> None:
        async with model_at(stack.model_port):
            await stack.until_called("trouble.say", text="hi")
            result = await stack.calls("trouble.huge")
            size = len(result["tool_result"].encode())
            assert MAX_TOOL_RESULT_BYTES - 100 < size <= MAX_TOOL_RESULT_BYTES
            assert result["tool_result"].endswith("(cut)")

    asyncio.run(scene())
