"""The answer of one generation: has a model asked, writes its pieces, runs its tools, asks again. Ends nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.workers.conversation import Delta, Finish, Message, ToolUse
from tokenrelay.workers.generation.attempts import Attempts, Opened, close
from tokenrelay.workers.generation.content import content_of
from tokenrelay.workers.generation.output import Output
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.generation.timing import Timing
from tokenrelay.workers.generation.tool_calls import ToolCalls
from tokenrelay.workers.metrics import SAMPLED, whose
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.routing import Route

MAX_ROUNDS: Final = 8
"""How often a model may call tools in one answer."""

PIECES_A_TURN: Final = 32
"""A model that writes without pause lets everybody else have a turn of the event loop after so many pieces: the
leases are renewed on it."""


class Answer:
    """Its rounds, one after another. What it has written stays true whenever it is cancelled."""

    def __init__(
        self, asked: ChatRequest, route: Route, resources: Resources, output: Output, timing: Timing, context: Context
    ) -> None:
        self.attempts = Attempts(asked, route, resources, context)
        self.input_tokens = 0
        self.output_tokens = 0
        self.written = 0  # tokens of the round under way, counted by us
        self._asked = asked
        self._route = route
        self._using = resources
        self._output = output
        self._timing = timing
        self._context = context
        self._piece_at = 0.0  # when the model last gave something, by the monotonic clock
        self._is_writing = False  # from a round's first piece to its end; before that `Attempts` has its own timeout

    def __repr__(self) -> str:
        return f"<Answer {self.attempts!r} | {self.written} tokens>"

    def is_silent(self, now: float) -> bool:
        """Whether the model has given nothing for longer than it may in mid-answer."""
        return self._is_writing and now - self._piece_at > self._using.settings.between_tokens_timeout_s

    async def write(self) -> Finish:
        """All rounds. Raises ProviderError, TokenrelayError."""
        tools = await self._using.tools.select(self._asked)
        calls = ToolCalls(self._using, self._output, tools, self._context.traceparent)
        messages = [_message(turn) for turn in self._asked.conversation]
        for _ in range(MAX_ROUNDS):
            opened_at = time.monotonic()
            opened = await self.attempts.open(messages, tools)
            self._timing.answered(opened_at, opened.asked_at, time.monotonic())
            self._output.label = self._route.label_of(opened.choice)
            text, uses, finish = await self._round(opened, keeps_text=bool(tools.specs))
            if finish.reason != "tool_calls" or not uses:
                return finish
            results = await calls.run(uses, opened.choice)
            if len(results) < len(uses):
                return finish  # the rest are the caller's own functions: the answer ends with them
            messages = [*messages, Message("assistant", text, tool_calls=tuple(uses)), *results]
        raise ProviderError(f"the model called tools in more than {MAX_ROUNDS} rounds", retryable=False)

    async def _round(self, opened: Opened, *, keeps_text: bool) -> tuple[str, list[ToolUse], Finish]:
        """One call that is answered: its tokens go to the log as they come. Gives the text beside its tool calls."""
        uses: list[ToolUse] = []
        texts: list[str] = []  # kept only where a tool may be called, for the next round
        piece, step = opened.first, opened.pieces.__anext__  # `async for`, but for the first piece, which is here
        gap = self._using.metrics.gap.labels(*whose(opened.choice))
        pieces = self.written = 0
        self._is_writing = True
        try:
            while True:
                now = time.monotonic()
                pieces += 1
                if not pieces & SAMPLED:
                    gap.observe(now - self._piece_at)
                self._piece_at = now
                if type(piece) is Delta:
                    self.written += 1
                    self._output.token(piece.text)
                    if keeps_text:
                        texts.append(piece.text)
                    if self._output.is_full:
                        await self._wait_for_room()
                elif type(piece) is ToolUse:
                    uses.append(piece)
                elif type(piece) is Finish:
                    self._finished(piece)
                    return "".join(texts), uses, piece
                if not pieces % PIECES_A_TURN:
                    await asyncio.sleep(0)
                piece = await step()
        except StopAsyncIteration:
            raise ProviderError("the model stopped without saying why", retryable=True) from None
        except ProviderError as error:
            self.attempts.broke_off(error)
            raise
        finally:
            self._is_writing = False
            self.attempts.over()
            await close(opened.pieces)

    def _finished(self, finish: Finish) -> None:
        self.input_tokens += finish.input_tokens
        self.output_tokens += finish.output_tokens
        self.written = 0

    async def _wait_for_room(self) -> None:
        self._is_writing = False  # it is not the model that is silent
        await self._output.room()
        self._piece_at, self._is_writing = time.monotonic(), True


def _message(turn: request.Message) -> Message:
    """A turn of the caller's, with the calls of their own functions and what those gave."""
    uses = tuple(ToolUse(call.id, call.function.name, call.function.parsed) for call in turn.tool_calls or ())
    return Message(turn.role, content_of(turn.content), uses, turn.tool_call_id)
