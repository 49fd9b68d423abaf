"""The tools that a model calls in one answer: each call and each result is an event at the moment it happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from tokenrelay.protocol.events import ToolCall, ToolResult
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.workers.conversation import Message, ToolUse
from tokenrelay.workers.generation.output import Output, now_ms
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.tools.base import Outcome
from tokenrelay.workers.tools.registry import Selection

MAX_CALLS: Final = 32
"""How many tools a model may call side by side; each may take the whole time a tool has."""


class ToolCalls:
    """`selection` is what the request offers, `are_off` that it wants none run; `above` is the trace they belong to."""

    def __init__(
        self, resources: Resources, output: Output, selection: Selection, above: str, *, are_off: bool = False
    ) -> None:
        self._using = resources
        self._output = output
        self._selection = selection
        self._above = above
        self._are_off = are_off
        self._own = 0  # calls of the caller's own functions so far

    async def run(self, uses: Sequence[ToolUse], choice: Choice) -> list[Message]:
        """What ours gave, run side by side; calls of the caller's own functions are told and give nothing here."""
        ours: list[ToolUse] = []
        for use in uses:
            own = None
            if use.name in self._selection.own and not self._are_off:
                own = self._own = self._own + 1
            else:
                ours.append(use)
            self._output.event(ToolCall(now_ms(), self._output.label, use.call_id, use.name, use.arguments, own))
        return await asyncio.gather(*(self._call(use, choice, at < MAX_CALLS) for at, use in enumerate(ours)))

    async def run_for_handler(self, use: ToolUse) -> Outcome:
        """Any tool of this worker, whatever the request offers: the operator's own code asks for it."""
        label = self._output.label
        self._output.event(ToolCall(now_ms(), label, use.call_id, use.name, use.arguments))
        outcome = await self._run(use)
        self._output.event(
            ToolResult(now_ms(), label, use.call_id, use.name, use.arguments, outcome.text, outcome.failed)
        )
        return outcome

    async def _call(self, use: ToolUse, choice: Choice, is_run: bool) -> Message:
        if not is_run:
            outcome = Outcome(f"at most {MAX_CALLS} calls at once", failed=True)
        elif self._are_off:
            outcome = Outcome("no tool is run: the request's tool_choice is none", failed=True)
        elif self._may_call(use.name, choice):
            outcome = await self._run(use)
        else:
            outcome = Outcome(f"there is no tool called {use.name[:80]!r}", failed=True)
        label = self._output.label
        self._output.event(
            ToolResult(now_ms(), label, use.call_id, use.name, use.arguments, outcome.text, outcome.failed)
        )
        return Message("tool", outcome.content, tool_call_id=use.call_id)

    def _may_call(self, name: str, choice: Choice) -> bool:
        """What was not offered is not run, whatever a model makes up. The scripted one's script is the caller's."""
        return choice.model.dialect == "scripted" or any(spec.name == name for spec in self._selection.specs)

    async def _run(self, use: ToolUse) -> Outcome:
        tools, began_at = self._using.tools, time.monotonic()
        span = self._using.tracing.span("tool call", self._above, tool=tools.label(use.name))
        try:
            outcome = await tools.call(use.name, use.arguments)
        except BaseException:
            span.end("cancelled")
            raise
        span.end("failed" if outcome.failed else "")
        self._using.metrics.tool_called(tools.label(use.name), outcome.failed, time.monotonic() - began_at)
        return outcome
