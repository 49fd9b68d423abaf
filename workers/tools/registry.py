"""Which tools there are, which of them a request offers its model, and how a call of one ends: a result or a failure,
never a dead stream."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import MAX_TOOL_RESULT_BYTES
from tokenrelay.protocol.wire.request import ChatRequest, ToolEntry
from tokenrelay.workers.conversation import ToolSpec
from tokenrelay.workers.tools import arguments as checked
from tokenrelay.workers.tools import calculator, clock
from tokenrelay.workers.tools.base import Outcome, Tool, ToolFailed
from tokenrelay.workers.tools.mcp import Server
from tokenrelay.workers.tools.search import DEFAULT_RESULTS, MAX_RESULTS, WebSearch

TOOL_TIMEOUT_S: Final = 30.0
ALIASES: Final[Mapping[str, str]] = {"duckduckgotool": "web_search"}
_CUT: Final = "… (cut)"

log = structlog.get_logger()


class Selection(msgspec.Struct, frozen=True):
    """What one request offers: `specs` to the model, of which `own` are the caller's functions, run by nobody here."""

    specs: Sequence[ToolSpec] = ()
    own: Collection[str] = ()


async def _calculator(arguments: Mapping[str, Any]) -> str:
    try:
        return calculator.calculate(arguments["expression"])
    except calculator.NotArithmetic as error:
        raise ToolFailed(str(error)) from error


async def _current_time(arguments: Mapping[str, Any]) -> str:
    try:
        return clock.describe(datetime.now(UTC), arguments.get("timezone"))
    except clock.NoSuchZone as error:
        raise ToolFailed(str(error)) from error


def built_in(search: WebSearch) -> dict[str, Tool]:
    """The tools that every worker has."""
    tools = (
        Tool(
            ToolSpec(
                name="calculator",
                description="Evaluates an arithmetic expression: numbers, + - * / // % ** and brackets.",
                parameters={
                    "type": "object",
                    "properties": {"expression": {"type": "string", "description": "for example 6*7"}},
                    "required": ["expression"],
                },
            ),
            _calculator,
        ),
        Tool(
            ToolSpec(
                name="current_time",
                description="The date and the time now, in UTC and in a time zone.",
                parameters={
                    "type": "object",
                    "properties": {
                        "timezone": {"type": "string", "description": "an IANA name such as Europe/Paris; default UTC"}
                    },
                },
            ),
            _current_time,
        ),
        Tool(
            ToolSpec(
                name="web_search",
                description="Searches the web; gives titles, addresses and a few lines of the pages found.",
                parameters={
                    "type": "object",
                    "properties": {
                        "query": {"type": "string", "minLength": 1, "maxLength": 400},
                        "max_results": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": MAX_RESULTS,
                            "description": f"default {DEFAULT_RESULTS}",
                        },
                    },
                    "required": ["query"],
                },
            ),
            search.call,
        ),
    )
    return {tool.spec.name: tool for tool in tools}


class Toolbox:
    """One per process: the built-in tools and those of MCP servers. `run` owns the servers' sessions."""

    def __init__(
        self, servers: Iterable[Server] = (), timeout_s: float = TOOL_TIMEOUT_S, search: WebSearch | None = None
    ) -> None:
        self._search = search or WebSearch()
        self._built_in = built_in(self._search)
        self._servers = {server.name: server for server in servers}
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<Toolbox {len(self._built_in)} tools | {list(self._servers.values())}>"

    async def run(self) -> None:
        """Keep the sessions. Owned by the process; ends only by being cancelled."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers.values():
                group.create_task(server.run(), name=f"mcp {server.name}")
            await asyncio.Event().wait()

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
            issue = checked.issue(arguments, tool.spec.parameters)
            if issue is not None:
                raise ToolFailed(f"the arguments do not fit: {issue}")
            async with asyncio.timeout(self._timeout_s):
                result = await tool.call(arguments)
            if isinstance(result, str):
                return Outcome(cut(result))
            return Outcome(cut(result.text), parts=result.parts)
        except ToolFailed as error:
            return Outcome(cut(str(error)), failed=True)
        except TimeoutError:
            return Outcome(f"the tool did not answer within {self._timeout_s:g} s", failed=True)
        except Exception as error:
            log.warning("tool_failed", tool=tool.spec.name, error=type(error).__name__)
            return Outcome("the tool failed", failed=True)


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
    return ToolSpec(function.name, function.description or "", function.parameters or {"type": "object"})


def _fault(number: int, issue: str) -> TokenrelayError:
    field = f"tools[{number}]"
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)


def cut(text: str) -> str:
    """At most as much as an event takes."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_TOOL_RESULT_BYTES:
        return raw.decode()
    return raw[: MAX_TOOL_RESULT_BYTES - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT
