"""The tools that every worker has: what a model is told of each, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tokenrelay.workers.conversation import ToolSpec
from tokenrelay.workers.tools import calculator, clock
from tokenrelay.workers.tools.base import Tool, ToolFailed
from tokenrelay.workers.tools.search import DEFAULT_RESULTS, MAX_RESULTS, WebSearch

CALCULATOR: Final = ToolSpec(
    name="calculator",
    description="Evaluates an arithmetic expression: numbers, + - * / // % ** and brackets.",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "for example 6*7"}},
        "required": ["expression"],
    },
)
CURRENT_TIME: Final = ToolSpec(
    name="current_time",
    description="The date and the time now, in UTC and in a time zone.",
    parameters={
        "type": "object",
        "properties": {"timezone": {"type": "string", "description": "an IANA name such as Europe/Paris; default UTC"}},
    },
)
WEB_SEARCH: Final = ToolSpec(
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
)


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
    """By name."""
    tools = (Tool(CALCULATOR, _calculator), Tool(CURRENT_TIME, _current_time), Tool(WEB_SEARCH, search.call))
    return {tool.spec.name: tool for tool in tools}
