"""One MCP server and the session with it: kept, asked, and begun again when it dies. Knows no model and no stream.

The session is opened, used for listing and closed by one task (`Server.run`); calls come from the tasks of generations.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import structlog

from tokenrelay.workers.conversation import ToolSpec
from tokenrelay.workers.tools.base import Result, Tool, ToolFailed
from tokenrelay.workers.tools.servers import ServerConfig

MAX_TOOLS: Final = 128
MAX_DESCRIPTION: Final = 4_096
OPEN_S: Final = 20.0
"""A server's start and first list: an interpreter that has to compile its imports takes some seconds."""
PROBE_S: Final = 30.0
"""How often the list is asked for again, which also shows that the server lives."""
AWAIT_S: Final = 5.0
"""How long a call waits for a server that is being started again."""
CLOSE_S: Final = 8.0
"""A server that was started has 2 s to end by itself and 2 s after SIGTERM, says the SDK."""
LONG_LIFE_S: Final = 60.0
"""A server that lived so long is started again without the pause that its former deaths had earned."""

log = structlog.get_logger()


class Session(Protocol):
    """An open session. Raises anything."""

    async def list_tools(self) -> list[ToolSpec]: ...
    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> tuple[str | Result, bool]:
        """The result, and whether the tool says that it failed."""
        ...


Doubt: TypeAlias = Callable[[], None]
Connect: TypeAlias = Callable[[ServerConfig, Doubt], AbstractAsyncContextManager[Session]]


@contextlib.asynccontextmanager
async def connect(config: ServerConfig, doubt: Doubt) -> AsyncIterator[Session]:
    """A session through the official SDK; `doubt` is called when the server may be gone or its list may be old."""
    from tokenrelay.workers.tools import mcp_sdk  # 0.5 s and 50 MiB: only who has MCP servers pays

    async with mcp_sdk.connect(config, doubt) as session:
        yield session


class Server:
    """One configured server. `tools` is its newest list, kept while it is away."""

    def __init__(
        self,
        name: str,
        config: ServerConfig,
        connect: Connect = connect,
        pauses_s: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        self.name = name
        self.config = config
        self.tools: Mapping[str, Tool] = {}
        self._connect = connect
        self._pauses_s = pauses_s
        self._session: Session | None = None  # None while it is away
        self._is_there = asyncio.Event()
        self._has_listed = asyncio.Event()
        self._doubt = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self.name} {'there' if self._session else 'away'} | {len(self.tools)} tools>"

    async def run(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        pause = self._pauses_s[0]
        while True:
            began = time.monotonic()
            # A task for each life: the SDK may swallow a cancelling that comes while it takes a dead session down.
            life = asyncio.create_task(self._live(), name=f"mcp {self.name}")
            try:
                await asyncio.wait([life])
            except asyncio.CancelledError:
                life.cancel()
                await asyncio.wait([life], timeout=CLOSE_S)
                raise
            if not life.cancelled():  # the SDK's fault, the system's, the server's: all mean that it is not there
                log.warning("mcp_server_away", server=self.name, error=_innermost(life.exception()))
            if time.monotonic() - began > LONG_LIFE_S:
                pause = self._pauses_s[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter
            pause = min(pause * 2, self._pauses_s[1])

    async def _live(self) -> None:
        """One life of the session. Raises when it is over."""
        self._doubt.clear()
        # The task is this life's own: whatever is logged in it, or in a task it starts, names the server.
        structlog.contextvars.bind_contextvars(server=self.name)
        try:
            # One deadline for the opening, moved away once it is open: the context belongs to this task.
            async with asyncio.timeout(OPEN_S) as opening, self._connect(self.config, self._doubt.set) as session:
                self._keep(await session.list_tools())
                opening.reschedule(None)
                self._session = session
                self._is_there.set()
                log.info("mcp_server_there", server=self.name, tools=len(self.tools))
                await self._watch(session)
        finally:
            self._session = None
            self._is_there.clear()

    async def _watch(self, session: Session) -> None:
        """Ask for the list now and then, and whenever there is a doubt. Raises when nobody answers."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S):
                        await self._doubt.wait()
                        self._is_there.clear()
                self._doubt.clear()
                async with asyncio.timeout(OPEN_S):
                    self._keep(await session.list_tools())
                self._is_there.set()
        finally:
            self._session = None  # taking a dead one down takes seconds: nobody is to call it meanwhile
            self._is_there.clear()

    def _keep(self, specs: list[ToolSpec]) -> None:
        wanted = [spec for spec in specs if self.config.offers(spec.name)]
        if len(wanted) > MAX_TOOLS:
            log.warning("mcp_tools_left_out", server=self.name, offered=len(wanted), kept=MAX_TOOLS)
        self.tools = {f"{self.name}.{spec.name}": self._tool(spec) for spec in wanted[:MAX_TOOLS]}
        self._has_listed.set()

    def _tool(self, spec: ToolSpec) -> Tool:
        async def call(arguments: Mapping[str, Any]) -> str | Result:
            return await self._call(spec.name, arguments)

        told = msgspec.structs.replace(
            spec, name=f"{self.name}.{spec.name}", description=spec.description[:MAX_DESCRIPTION]
        )
        return Tool(told, call)

    async def listed(self) -> None:
        """Returns when the server has told its tools once, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AWAIT_S):
                await self._has_listed.wait()

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str | Result:
        session = await self._there()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                result, is_failed = await session.call(name, arguments, self.config.timeout_s)
        except TimeoutError as error:
            self._doubt.set()
            raise ToolFailed(f"the tool did not answer within {self.config.timeout_s:g} s") from error
        except ToolFailed:
            raise
        except Exception as error:
            self._is_there.clear()  # the next call waits until it is known
            self._doubt.set()
            log.info("mcp_call_failed", server=self.name, error=_innermost(error))
            raise ToolFailed("the tool's server did not answer the call") from error
        if is_failed:
            raise ToolFailed((result if isinstance(result, str) else result.text) or "the tool failed")
        return result

    async def _there(self) -> Session:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AWAIT_S):
                await self._is_there.wait()
        if self._session is None or not self._is_there.is_set():
            raise ToolFailed("the tool's server is not running now")
        return self._session


def _innermost(error: BaseException | None) -> str:
    """The name of what went wrong, out of the groups a task group wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
