"""An MCP session through the official SDK, over a started server's pipes or streamable HTTP. Keeps nothing alive."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import anyio
import httpx2
import msgspec
from mcp import Client, MCPError, StdioServerParameters, stdio_client, types
from mcp.client.session import IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from tokenrelay.protocol.runtime.die_with_parent import tied
from tokenrelay.workers.conversation import Audio, Image, Part, ToolSpec
from tokenrelay.workers.tools.base import Result, ToolFailed
from tokenrelay.workers.tools.mcp_wire import NO_ANSWER, ResultRepair
from tokenrelay.workers.tools.servers import ServerConfig

MAX_SHOWN: Final = 8
MAX_SHOWN_BYTES: Final = 5 * 1024 * 1024
"""What of a result goes back as pictures and sounds: so many, together of so many bytes. The rest is named only."""

MAX_PAGES: Final = 20
MAX_ISSUE: Final = 400
SOUNDS: Final = {"audio/mpeg": "mp3", "audio/mp3": "mp3"}
"""Their formats by what they are; of any other kind `wav`."""

CONNECT_S: Final = 10.0
CLIENT: Final = types.Implementation(name="tokenrelay", version="0.1.0")


class SdkSession:
    """What `workers.tools.mcp` asks of a session."""

    def __init__(self, client: Client, promised: Mapping[str, Mapping[str, Any]]) -> None:
        self._client = client
        self._promised = promised

    async def list_tools(self) -> list[ToolSpec]:
        """Every page, from the server itself."""
        specs: list[ToolSpec] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor, cache_mode="refresh")
            specs += [ToolSpec(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                break
        return specs

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> tuple[Result, bool]:
        """Raises ToolFailed with the server's words where it refuses the call, MCPError where it does not answer."""
        try:
            result = await self._client.call_tool(name, dict(arguments), read_timeout_seconds=timeout_s)
        except MCPError as error:
            if error.code in NO_ANSWER:
                raise
            raise ToolFailed(error.message[:MAX_ISSUE] or "the tool failed") from error
        promised = None if result.is_error else self._promised.get(name)
        answer = Result(_text_of(result), _shown(result), result.structured_content, promised)
        return answer, bool(result.is_error)


@contextlib.asynccontextmanager
async def connect(config: ServerConfig, doubt: Callable[[], None]) -> AsyncIterator[SdkSession]:
    """An open session; closed, and the server that was started for it ended, on the way out."""

    async def heard(message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            doubt()

    async with contextlib.AsyncExitStack() as stack:
        transport = await stack.enter_async_context(_started(config) if config.command else _reached(config))
        repair = ResultRepair(is_pipe=config.command is not None)
        client = Client(_watched(transport, doubt, repair), message_handler=heard, client_info=CLIENT)
        yield SdkSession(await stack.enter_async_context(client), repair.promised)


@contextlib.asynccontextmanager
async def _started(config: ServerConfig) -> AsyncIterator[Any]:
    # What a server says on stderr may hold what it was asked: it goes nowhere unless the operator wants it.
    with contextlib.ExitStack() as stack:
        stderr: TextIO = sys.stderr if config.show_stderr else stack.enter_context(_nowhere())
        command, *args = _tied(config)
        server = StdioServerParameters(command=command, args=args, env=config.env, cwd=config.cwd)
        yield stdio_client(server, errlog=stderr)


def _tied(config: ServerConfig) -> list[str]:
    """Its command, to die with this process also when that is killed. One that cannot be found is left to fail."""
    command = config.command or ""
    program = shutil.which(command, path=config.env.get("PATH"))
    return [command, *config.args] if program is None else tied([str(Path(program).absolute()), *config.args])


@contextlib.asynccontextmanager
async def _reached(config: ServerConfig) -> AsyncIterator[Any]:
    timeout = httpx2.Timeout(CONNECT_S, read=config.timeout_s + CONNECT_S)
    async with httpx2.AsyncClient(headers=config.headers, timeout=timeout) as http:
        yield streamable_http_client(config.url or "", http_client=http)


@contextlib.asynccontextmanager
async def _watched(transport: Any, doubt: Callable[[], None], repair: ResultRepair) -> AsyncIterator[Any]:
    """The transport's two streams; `doubt` hears when the server's one ends, `repair` sees what it brings."""
    async with transport as (incoming, outgoing):
        yield _Watched(incoming, doubt, repair), outgoing


class _Watched:
    """A stream that says when it is over: nobody else would before the next call. Its answers come out valid."""

    def __init__(self, stream: Any, doubt: Callable[[], None], repair: ResultRepair) -> None:
        self._stream = stream
        self._doubt = doubt
        self._mender = repair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def receive(self) -> Any:
        try:
            heard = await self._stream.receive()
            if isinstance(heard, SessionMessage):
                self._mender.hear(heard.message)
            return heard
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._doubt()
            raise

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return await self._stream.__aexit__(kind, error, trace)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _text_of(result: types.CallToolResult) -> str:
    """A result as a model can read it: text as it is, anything else named."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n".join(parts)


def _shown(result: types.CallToolResult) -> tuple[Part, ...]:
    """Its pictures and sounds. What is no base64 is left out, as its name in the text says enough."""
    parts: list[Part] = []
    left = MAX_SHOWN_BYTES
    for block in result.content:
        if not isinstance(block, types.ImageContent | types.AudioContent) or len(block.data) > left * 4 // 3:
            continue
        try:
            data = base64.b64decode(block.data, validate=True)
        except ValueError:
            continue
        if isinstance(block, types.ImageContent):
            parts.append(Image(data=data, media_type=block.mime_type))
        else:
            parts.append(Audio(data, SOUNDS.get(block.mime_type, "wav")))
        left -= len(data)
    return tuple(parts[:MAX_SHOWN])


def _part(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.ResourceLink():
            return f"[{block.name}: {block.uri}]"
        case types.ImageContent() | types.AudioContent():
            return f"[{block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case _:
            return "[a resource that is no text]"
