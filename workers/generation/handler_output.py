"""What a handler of one's own tells beside text: data, calls it makes itself, and tools of this worker that it runs."""

from __future__ import annotations

import asyncio

import structlog

from tokenrelay.protocol import events
from tokenrelay.workers.conversation import Data, ToldCall, ToldResult, ToolRun, ToolUse
from tokenrelay.workers.generation.output import Output, now_ms
from tokenrelay.workers.generation.tool_calls import ToolCalls
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.tools.registry import cut

TOLD = (Data, ToldCall, ToldResult, ToolRun)

log = structlog.get_logger()


class HandlerOutput:
    """One answer's."""

    def __init__(self, output: Output, calls: ToolCalls) -> None:
        self._output = output
        self._calls = calls
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_running(self) -> bool:
        """A tool runs: it is not the handler that is silent."""
        return bool(self._running)

    def tell(self, piece: Data | ToldCall | ToldResult | ToolRun) -> None:
        """Raises ProviderError for what no entry can hold."""
        label, at_ms = self._output.label, now_ms()
        match piece:
            case Data(name, value):
                self._output.event(events.Data(at_ms, label, name, value))
            case ToldCall(call_id, name, arguments):
                self._output.event(events.ToolCall(at_ms, label, call_id, name, arguments))
            case ToldResult(call_id, name, arguments, text, failed):
                self._output.event(events.ToolResult(at_ms, label, call_id, name, arguments, cut(text), failed))
            case ToolRun():
                task = asyncio.create_task(self._run(piece))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def stop(self) -> None:
        """The answer is over: nobody waits for what still runs."""
        for task in self._running:
            task.cancel()

    async def _run(self, piece: ToolRun) -> None:
        try:
            outcome = await self._calls.run_for_handler(ToolUse(piece.call_id, piece.name, piece.arguments))
        except ProviderError as error:
            piece.answer(error.message, True)
        except Exception:
            log.exception("tool_call_failed")
            piece.answer("the tool failed", True)
        else:
            piece.answer(outcome.text, outcome.failed)
