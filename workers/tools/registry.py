"""Which tools there are, and how a call of one ends: a result or a failure, never a dead stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from protocol.events import MAX_TOOL_RESULT_BYTES
from workers.providers.base import ToolSpec
from workers.tools import calculator

TOOL_TIMEOUT_S: Final = 30.0
_CUT: Final = "… (cut)"

log = structlog.get_logger()


class Outcome(msgspec.Struct, frozen=True):
    """What a call gave: text of at most `MAX_TOOL_RESULT_BYTES`."""

    text: str
    failed: bool = False


class Tool(msgspec.Struct, frozen=True):
    spec: ToolSpec
    call: Callable[[Mapping[str, Any]], Awaitable[str]]


async def _calculator(arguments: Mapping[str, Any]) -> str:
    expression = arguments.get("expression")
    if not isinstance(expression, str):
        raise calculator.NotArithmetic('expected {"expression": "6*7"}')
    return calculator.calculate(expression)


BUILT_IN: Final[Mapping[str, Tool]] = {
    "calculator": Tool(
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
}


async def call(name: str, arguments: Mapping[str, Any]) -> Outcome:
    """Run a tool. Whatever goes wrong is the outcome's text, so that the model can go on."""
    tool = BUILT_IN.get(name)
    if tool is None:
        return Outcome(f"there is no tool called {name[:80]!r}", failed=True)
    try:
        async with asyncio.timeout(TOOL_TIMEOUT_S):
            return Outcome(_cut(await tool.call(arguments)))
    except calculator.NotArithmetic as error:
        return Outcome(str(error), failed=True)
    except TimeoutError:
        return Outcome(f"the tool did not answer within {TOOL_TIMEOUT_S:.0f} s", failed=True)
    except Exception:
        log.exception("tool_failed", tool=name)
        return Outcome("the tool failed", failed=True)


def _cut(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_TOOL_RESULT_BYTES:
        return raw.decode()
    return raw[: MAX_TOOL_RESULT_BYTES - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT
