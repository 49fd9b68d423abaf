"""Which tools there are, which of them a request offers its model, and how a call of one ends: a result or a failure,
never a dead stream."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import MAX_TOOL_RESULT_BYTES
from tokenrelay.protocol.wire.request import ChatRequest, ToolEntry
from tokenrelay.workers.conversation import ToolSpec
from tokenrelay.workers.tools import arguments as checked
from tokenrelay.workers.tools.base import Outcome, Result, Tool, ToolFailed
from tokenrelay.workers.tools.built_in import built_in
from tokenrelay.workers.tools.checker import Checker, CheckFailed
from tokenrelay.workers.tools.mcp import Server
from tokenrelay.workers.tools.search import WebSearch

TOOL_TIMEOUT_S: Final = 30.0
ALIASES: Final[Mapping[str, str]] = {"duckduckgotool": "web_search"}
_CUT: Final = "… (cut)"

log = structlog.get_logger()


class Selection(msgspec.Struct, frozen=True):
    """What one request offers: `specs` to the model, of which `own` are the caller's functions, run by nobody here."""

    specs: Sequence[ToolSpec] = ()
    own: Collection[str] = ()


class Toolbox:
    """One per process: the built-in tools and those of MCP servers. `run` owns the servers' sessions."""

    def __init__(
        self, servers: Iterable[Server] = (), timeout_s: float = TOOL_TIMEOUT_S, search: WebSearch | None = None
    ) -> None:
        self._search = search or WebSearch()
        self._checker = Checker()
        self._built_in = built_in(self._search)
        self._servers = {server.name: server for server in servers}
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<Toolbox {len(self._built_in)} tools | {list(self._servers.values())}>"

    async def run(self) -> None:
        """Keep the sessions. Owned by the process; ends only by being cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for server in self._servers.values():
                    group.create_task(server.run(), name=f"mcp {server.name}")
                await asyncio.Event().wait()
        finally:
            await self._checker.close()

    def close(self) -> None:
        self._search.close()

    # -- what is offered
    # --------------------------------------------------------------------------------------------------

    async def select(self, request: ChatRequest) -> Selection:
        """The tools a request may use. Waits a little for the list of an MCP server that has only just been started.

        Raises TokenrelayError VALIDATION_ERROR, field `tools[i]`.
        """
        if request.enable_tools is False or not (request.enable_tools or request.tools):
            return Selection()
        if not request.tools:
            theirs = (tool for server in self._servers.values() for tool in server.tools.values())
            return Selection([tool.spec for tool in (*self._built_in.values(), *theirs)])
        specs: dict[str, ToolSpec] = {}
        own: set[str] = set()
        for number, entry in enumerate(request.tools):
            tool = None if _is_own(entry) else await self._find(_name_of(entry))
            if tool is not None:
                specs[tool.spec.name] = tool.spec
                continue
            function = _function_of(entry)
            if function is None:
                raise _fault(number, f"no tool is called {_name_of(entry)[:80]!r}")
            if function.name in specs:
                raise _fault(number, f"a function called {function.name[:80]!r} is there already")
            specs[function.name] = function
            own.add(function.name)
        return Selection(list(specs.values()), own)

    async def _find(self, name: str) -> Tool | None:
        known = ALIASES.get(name.lower(), name.lower())
        if known in self._built_in:
            return self._built_in[known]
        server = self._servers.get(name.partition(".")[0])
        if server is None:
            return None
        await server.listed()
        return server.tools.get(name)

    # -- calls
    # ------------------------------------------------------------------------------------------------------------

    def label(self, name: str) -> str:
        """The tool's name where metrics and traces show it; `other` for what no tool is called, made up by a model."""
        known = ALIASES.get(name.lower(), name.lower())
        if known in self._built_in:
            return known
        server = self._servers.get(name.partition(".")[0])
        return name if server is not None and name in server.tools else "other"

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run a tool. Whatever goes wrong is the outcome's text, so that the model can go on."""
        tool = await self._find(name)
        if tool is None:
            return Outcome(f"there is no tool called {name[:80]!r}", failed=True)
        try:
            issue = await self._issue(tool, arguments)
            if issue is not None:
                raise ToolFailed(f"the arguments do not fit: {issue}")
            async with asyncio.timeout(self._timeout_s):
                result = await tool.call(arguments)
            if isinstance(result, str):
                return Outcome(cut(result))
            await self._hold_to_its_word(tool, result)
            return Outcome(cut(result.text), parts=result.parts)
        except ToolFailed as error:
            return Outcome(cut(str(error)), failed=True)
        except TimeoutError:
            return Outcome(f"the tool did not answer within {self._timeout_s:g} s", failed=True)
        except Exception as error:
            log.warning("tool_failed", tool=tool.spec.name, error=type(error).__name__)
            return Outcome("the tool failed", failed=True)

    async def _issue(self, tool: Tool, arguments: Mapping[str, Any]) -> str | None:
        """What does not fit the tool's schema. Our own schemas are known to be cheap. Raises ToolFailed."""
        if tool.spec.name in self._built_in:
            return checked.issue(dict(arguments), tool.spec.parameters)
        try:
            return await self._checker.issue(arguments, tool.spec.parameters)
        except CheckFailed as error:
            raise ToolFailed(str(error)) from error

    async def _hold_to_its_word(self, tool: Tool, result: Result) -> None:
        """A structured result that is not what its tool promised is told to the log; the model gets it all the same."""
        if result.promised is None:
            return
        try:
            issue = await self._checker.issue(result.structured, result.promised)
        except CheckFailed as error:
            issue = str(error)
        if issue is not None:  # where only: the rest quotes the result
            log.warning("mcp_result_unlike_schema", tool=tool.spec.name, where=issue.partition(":")[0][:80])


def _is_own(entry: str | ToolEntry) -> bool:
    """The caller says that it is theirs, whatever the server has."""
    return not isinstance(entry, str) and entry.own


def _name_of(entry: str | ToolEntry) -> str:
    if isinstance(entry, str):
        return entry
    return entry.name or (entry.function.name if entry.function else "")


def _function_of(entry: str | ToolEntry) -> ToolSpec | None:
    """The caller's own function; None where the entry only names a tool."""
    if isinstance(entry, str) or entry.function is None:
        return None
    function = entry.function
    return ToolSpec(
        function.name, function.description or "", function.parameters or {"type": "object"}, function.strict
    )


def _fault(number: int, issue: str) -> TokenrelayError:
    field = f"tools[{number}]"
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)


def cut(text: str) -> str:
    """At most as much as an event takes."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_TOOL_RESULT_BYTES:
        return raw.decode()
    return raw[: MAX_TOOL_RESULT_BYTES - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT
