"""MCP servers: the file that names them, one session kept and begun again, a published server over both."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.needs import require
from tokenrelay.protocol.wire import request
from tokenrelay.workers.conversation import Image, Text, ToolSpec
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools import servers
from tokenrelay.workers.tools.base import Outcome
from tokenrelay.workers.tools.mcp import Doubt, Server, Session
from tokenrelay.workers.tools.registry import Toolbox
from tokenrelay.workers.tools.servers import ServerConfig

HTTP = ServerConfig(url="http://127.0.0.1:9/mcp")

# -- the file ---------------------------------------------------------------------------------------------------------

JSON = """{"mcpServers": {
  "time": {"command": "python", "args": ["-m", "x"], "env": {"A": "b"}},
  "far": {"url": "https://h/mcp", "headers": {"K": "v"}}
}}"""
TOML = """
[servers.time]
command = "python"
args = ["-m", "x"]
env = { A = "b" }
[servers.far]
url = "https://h/mcp"
headers = { K = "v" }
"""


@pytest.mark.parametrize(("text", "is_toml"), [(JSON, False), (TOML, True)], ids=["json", "toml"])
def test_the_file_names_servers_by_command_or_url(text: str, is_toml: bool) -> None:
    assert servers.parse(text, is_toml) == {
        "time": ServerConfig(command="python", args=("-m", "x"), env={"A": "b"}),
        "far": ServerConfig(url="https://h/mcp", headers={"K": "v"}),
    }


WRONG: list[tuple[Any, str]] = [
    ([], "expected one table of servers"),
    ({}, "expected one table of servers"),
    ({"mcpServers": {}, "servers": {}}, "expected one table of servers"),
    ({"mcpServers": []}, "not valid"),
    ({"mcpServers": {"a": {}}}, "either command or url"),
    ({"mcpServers": {"a": {"command": "x", "url": "http://h"}}}, "either command or url"),
    ({"mcpServers": {"a": {"url": "ftp://h"}}}, "^https?://"),
    ({"mcpServers": {"a": {"url": "http://h", "args": ["x"]}}}, "for a server with command"),
    ({"mcpServers": {"a": {"command": "x", "headers": {"k": "v"}}}}, "for a server with url"),
    ({"mcpServers": {"a": {"comand": "x"}}}, "either command or url"),
    ({"mcpServers": {"a": {"command": "x", "timeout_s": 0}}}, "timeout_s"),
    ({"mcpServers": {f"s{n}": {"command": "x"} for n in range(65)}}, "at most 64"),
]


@pytest.mark.parametrize(("value", "words"), WRONG)
def test_a_file_that_is_wrong_says_so(value: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        servers.parse(json.dumps(value), is_toml=False)
    assert words in str(caught.value)


def test_a_file_that_cannot_be_used_stops_the_worker_at_the_start(tmp_path: Path) -> None:
    bad = tmp_path / "servers.toml"
    bad.write_text("[servers")
    for path, words in ((str(tmp_path / "none.json"), "No such file"), (str(bad), "not TOML")):
        with pytest.raises(ValueError, match=words):
            Settings(mcp_servers=path)
    assert servers.load("") == {}


# -- one session, kept ------------------------------------------------------------------------------------------------


class Fake:
    """A server whose lives are scripted: `connect` fails, or gives a session that can be killed."""

    def __init__(self) -> None:
        self.lives = 0
        self.refusals = 0  # how many of the next connections fail
        self.is_alive = True
        self.tools = [ToolSpec("echo", "says it", {"type": "object", "required": ["text"]}), ToolSpec("b", "", {})]
        self.doubt: Doubt = lambda: None
        self.hangs = False

    @contextlib.asynccontextmanager
    async def connect(self, config: ServerConfig, doubt: Doubt) -> AsyncIterator[Session]:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError
        self.lives += 1
        self.is_alive = True
        self.doubt = doubt
        yield self

    async def list_tools(self) -> list[ToolSpec]:
        self._check()
        return self.tools

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> tuple[str, bool]:
        self._check()
        if self.hangs:
            await asyncio.Event().wait()
        return f"{name} {arguments['text']}", arguments["text"] == "bad"

    def _check(self) -> None:
        if not self.is_alive:
            raise ConnectionResetError

    def die(self) -> None:
        self.is_alive = False


def play(fake: Fake, scene: Callable[[Toolbox, Server], Awaitable[None]], config: ServerConfig = HTTP) -> None:
    async def whole() -> None:
        server = Server("fake", config, fake.connect, pauses_s=(0, 0))
        box = Toolbox([server])
        running = asyncio.create_task(box.run())
        try:
            async with asyncio.timeout(20):
                await server.listed()
                await scene(box, server)
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(whole())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


def test_its_tools_are_offered_under_its_name_and_called_by_theirs() -> None:
    async def scene(box: Toolbox, server: Server) -> None:
        assert list(server.tools) == ["fake.echo", "fake.b"]
        assert await box.call("fake.echo", {"text": "hi"}) == Outcome("echo hi")
        assert await box.call("fake.echo", {"text": "bad"}) == Outcome("echo bad", failed=True)
        assert "'text' is a required property" in (await box.call("fake.echo", {})).text
        assert (await box.call("fake.none", {})).failed
        everything = await box.select(request.ChatRequest(message="x", enable_tools=True))
        assert [spec.name for spec in everything.specs][-2:] == ["fake.echo", "fake.b"]
        one = await box.select(request.ChatRequest(message="x", tools=["fake.echo"]))
        assert [spec.name for spec in one.specs] == ["fake.echo"]
        assert repr(server) == "<Server fake there | 2 tools>"

    play(Fake(), scene)


def test_only_the_tools_that_are_wanted_are_offered() -> None:
    async def scene(box: Toolbox, server: Server) -> None:
        assert list(server.tools) == ["fake.b"]

    play(Fake(), scene, ServerConfig(url="http://h", tools=("b",)))


def test_one_that_cannot_be_reached_is_tried_again() -> None:
    fake = Fake()
    fake.refusals = 3

    async def scene(box: Toolbox, server: Server) -> None:
        assert (fake.lives, fake.refusals) == (1, 0)

    play(fake, scene)


def test_one_that_dies_is_begun_again_and_its_tools_stay_known() -> None:
    fake = Fake()

    async def scene(box: Toolbox, server: Server) -> None:
        fake.die()
        lost = await box.call("fake.echo", {"text": "x"})
        assert lost == Outcome("the tool's server did not answer the call", failed=True)
        await until(lambda: fake.lives == 2)
        assert await box.call("fake.echo", {"text": "again"}) == Outcome("echo again")
        fake.die()
        fake.doubt()  # its pipe has ended: nobody has to call first
        await until(lambda: fake.lives == 3)
        assert list(server.tools) == ["fake.echo", "fake.b"]

    play(fake, scene)


def test_a_list_that_changed_is_asked_for_again() -> None:
    fake = Fake()

    async def scene(box: Toolbox, server: Server) -> None:
        fake.tools = fake.tools[:1]
        fake.doubt()
        await until(lambda: list(server.tools) == ["fake.echo"])
        assert fake.lives == 1

    play(fake, scene)


def test_a_call_that_hangs_fails_by_its_own_bound() -> None:
    fake = Fake()
    fake.hangs = True

    async def scene(box: Toolbox, server: Server) -> None:
        got = await box.call("fake.echo", {"text": "x"})
        assert got == Outcome("the tool did not answer within 0.05 s", failed=True)

    play(fake, scene, ServerConfig(url="http://h", timeout_s=0.05))


# -- a published server -----------------------------------------------------------------------------------------------

PARIS = {"timezone": "Europe/Paris"}


async def _speaks(server: Server) -> None:
    box = Toolbox([server])
    running = asyncio.create_task(box.run())
    try:
        async with asyncio.timeout(60):
            while not server.tools:
                await server.listed()
            assert {"time.get_current_time", "time.convert_time"} <= set(server.tools)
            got = await box.call("time.get_current_time", PARIS)
            assert not got.failed
            assert json.loads(got.text)["timezone"] == "Europe/Paris"
            wrong = await box.call("time.get_current_time", {"timezone": "Mars/Olympus"})
            assert wrong.failed
            assert "Mars/Olympus" in wrong.text
            many = await asyncio.gather(*(box.call("time.get_current_time", PARIS) for _ in range(8)))
            assert not any(each.failed for each in many)
    finally:
        running.cancel()
        await asyncio.wait([running])


def need_server() -> None:
    for name in ("mcp", "mcp_server_time"):
        require(importlib.util.find_spec(name), name)


def test_a_published_server_is_driven_over_its_pipes() -> None:
    need_server()
    config = ServerConfig(command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC"))
    asyncio.run(_speaks(Server("time", config)))


def test_a_published_server_is_driven_over_http() -> None:
    need_server()
    import uvicorn

    module = importlib.import_module("mcp_server_time.server")

    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        app = module.create_server("UTC").streamable_http_app()
        edge = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(edge.serve(sockets=[listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
            await _speaks(Server("time", ServerConfig(url=url, headers={"X-Extra": "1"})))
        finally:
            edge.should_exit = True
            await serving

    asyncio.run(scene())


PNG = b"\x89PNG\r\n\x1a\n"
OURS = """
import os, sys
from mcp.server.mcpserver import MCPServer
from mcp.types import ImageContent, TextContent
server = MCPServer("ours")

@server.tool()
def die() -> str:
    os._exit(1)

@server.tool()
def draw() -> list[TextContent | ImageContent]:
    image = ImageContent(type="image", data="iVBORw0KGgo=", mime_type="image/png")
    return [TextContent(type="text", text="here"), image]

@server.tool()
def environment(name: str) -> str:
    return os.environ.get(name, "none")

server.run("stdio")
"""


def test_a_real_server_that_dies_in_a_call_is_started_again(tmp_path: Path) -> None:
    need_server()
    script = tmp_path / "ours.py"
    script.write_text(OURS)

    async def scene() -> None:
        config = ServerConfig(command=sys.executable, args=(str(script),), env={"GIVEN": "yes"})
        server = Server("ours", config, pauses_s=(0, 0.1))
        box = Toolbox([server])
        running = asyncio.create_task(box.run())
        try:
            async with asyncio.timeout(60):
                while not server.tools:
                    await server.listed()
                assert (await box.call("ours.environment", {"name": "GIVEN"})).text == "yes"
                drawn = await box.call("ours.draw", {})
                assert drawn.content == (Text("here\n[image/png, 9 bytes]"), Image(data=PNG, media_type="image/png"))
                assert (await box.call("ours.die", {})).failed
                got = await box.call("ours.environment", {"name": "GIVEN"})
                while got.failed:  # a call waits for its start, but not for ever
                    got = await box.call("ours.environment", {"name": "GIVEN"})
                assert got.text == "yes"
                assert (await box.call("ours.die", {})).failed  # and the end comes while it is taken down
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(scene())
