"""The scripted model: `w0 w1 w2 …` at a pace the name asks for, the same on every run. Knows no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from tokenrelay.protocol.models import scripted
from tokenrelay.workers.conversation import Delta, Finish, ModelRequest, Piece, ToolUse, text_of
from tokenrelay.workers.providers.base import Accepts, ProviderError, left_out

FREE_RUN: Final = 32
"""Without an interval, this many tokens between two turns of the event loop: others want to run as well."""


class Scripted:
    """For tests, demos and load. Its `model` is the whole name, `scripted?tokens=200&interval_ms=20`."""

    name = "Scripted"

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        """Settings are its script's; what would change the kind of its answer is not for it."""
        is_made = request.tool_choice not in (None, "auto", "none")
        return left_out(request, Accepts(response_format=False, parallel_tool_calls=False, tool_choice=not is_made))

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        spec = scripted.parse(request.model)
        # A tool's result in the conversation means that this is the round after it: carry on where the call was.
        resumed = bool(request.messages) and request.messages[-1].role == "tool"
        at = spec.tool_after or 0 if resumed else 0
        end = spec.tokens if request.max_tokens is None else min(spec.tokens, request.max_tokens)
        input_tokens = 0 if resumed else sum(len(text_of(message.content).split()) for message in request.messages)
        loop = asyncio.get_running_loop()
        due = loop.time() + (0 if resumed else spec.first_ms / 1000)
        interval = spec.interval_ms / 1000
        written = 0
        while True:
            if at == spec.fail_after:
                raise ProviderError("the scripted model failed as it was asked to", retryable=True)
            if at == spec.stall_after:
                await asyncio.Event().wait()
            if at == spec.tool_after and not resumed:
                yield ToolUse("call_0", "calculator", {"expression": "6*7"})
                yield Finish("tool_calls", input_tokens, written, scripted.NAME)
                return
            resumed = False
            if at >= end:
                break
            pause = due - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            elif not interval and not at % FREE_RUN:
                await asyncio.sleep(0)
            yield Delta(f"w{at} ")
            at += 1
            written += 1
            due += interval
        yield Finish("stop" if end == spec.tokens else "length", input_tokens, written, scripted.NAME)

    async def aclose(self) -> None:
        """Holds nothing."""
