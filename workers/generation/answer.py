"""The answer of one generation: has a model asked, writes its pieces, runs its tools, asks again. Ends nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.workers.conversation import Caller, Counted, Delta, Finish, Message, Piece, Thinking, ToolInput, ToolUse
from tokenrelay.workers.generation.attempts import NO_OUTPUT, PIECES_A_TURN, Attempts, Opened, close
from tokenrelay.workers.generation.content import content_of
from tokenrelay.workers.generation.echoes import Echoes
from tokenrelay.workers.generation.handler_output import TOLD, HandlerOutput
from tokenrelay.workers.generation.output import Output
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.generation.stored_parts import fetch
from tokenrelay.workers.generation.timing import Timing
from tokenrelay.workers.generation.tool_calls import ToolCalls
from tokenrelay.workers.generation.usage import UsageMeter
from tokenrelay.workers.metrics import SAMPLED, whose
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.routing import Route

MAX_ROUNDS: Final = 8
"""How often a model may call tools in one answer."""

RUN_TOGETHER: Final = frozenset({"scripted", "python"})
"""Dialects whose text is told exactly as it comes, also after a tool call."""


class Answer:
    """Its rounds, one after another. What it has written stays true whenever it is cancelled."""

    def __init__(
        self,
        caller: Caller,
        asked: ChatRequest,
        route: Route,
        resources: Resources,
        output: Output,
        timing: Timing,
        context: Context,
        echoes: Echoes,
    ) -> None:
        self.attempts = Attempts(asked, route, resources, context, caller)
        self.usage = UsageMeter(resources.metrics)
        self._stream_id = caller.stream_id
        self._asked = asked
        self._route = route
        self._using = resources
        self._output = output
        self._timing = timing
        self._context = context
        self._echoes = echoes
        output.shows_thinking = asked.shows("thinking")
        output.shows_tool_input = asked.shows("tool_input")
        self._messages: list[Message] = []  # of the round under way
        self._handler: HandlerOutput | None = None  # None before the first round
        self._piece_at = 0.0  # when the model last gave something, by the monotonic clock
        self._is_writing = False  # from a round's first output to its end; before that `Attempts` has its own timeout

    def __repr__(self) -> str:
        return f"<Answer {self.attempts!r} | {self.usage!r}>"

    def is_silent(self, now: float) -> bool:
        """Whether the model has given nothing for longer than it may in mid-answer."""
        if self._handler is not None and self._handler.is_running:
            self._piece_at = now
        return self._is_writing and now - self._piece_at > self._using.settings.between_tokens_timeout_s

    async def write(self) -> Finish:
        """All rounds. Raises ProviderError, TokenrelayError."""
        asked = self._asked
        tools = await self._using.tools.select(asked)
        above, are_off = self._context.traceparent, asked.tool_choice == "none"
        calls = ToolCalls(self._using, self._output, tools, above, are_off=are_off)
        self._handler = HandlerOutput(self._output, calls)
        turns = asked.conversation
        blobs = await fetch(self._using.store, self._stream_id, [turn.content for turn in turns])
        self._messages = await self._echoes.put_back([_message(turn, blobs) for turn in turns])
        for number in range(MAX_ROUNDS):
            opened_at = time.monotonic()
            opened = await self.attempts.open(self._messages, tools, self._at_work)
            self._timing.answered(opened_at, opened.asked_at, time.monotonic())
            self._output.label = self._route.label_of(opened.choice)
            if number and opened.choice.model.dialect not in RUN_TOGETHER:
                self._output.new_item()
            text, uses, finish = await self._round(opened, self._handler, keeps_text=bool(tools.specs))
            if finish.reason != "tool_calls" or not uses:
                return finish
            results = await calls.run(uses, opened.choice)
            if len(results) < len(uses):  # the rest are the caller's own functions: the answer ends with them
                if finish.echo is not None:
                    await self._echoes.keep(uses, finish.echo)
                return finish
            turn = Message("assistant", text, tool_calls=tuple(uses), echo=finish.echo)
            self._messages = [*self._messages, turn, *results]
        raise ProviderError(f"the model called tools in more than {MAX_ROUNDS} rounds", retryable=False)

    async def _round(
        self, opened: Opened, handler: HandlerOutput, *, keeps_text: bool
    ) -> tuple[str, list[ToolUse], Finish]:
        """One call that is answered: its tokens go to the log as they come. Gives the text beside its tool calls."""
        uses: list[ToolUse] = []
        texts: list[str] = []  # kept only where a tool may be called, for the next round
        piece, step = opened.first, opened.pieces.__anext__  # `async for`, but for the first piece, which is here
        gap = self._using.metrics.gap.labels(*whose(opened.choice))
        meter, output = self.usage, self._output
        meter.works(opened.choice, self._messages)
        pieces = 0
        self._is_writing = True
        try:
            while True:
                now = time.monotonic()
                pieces += 1
                if not pieces & SAMPLED:
                    gap.observe(now - self._piece_at)
                self._piece_at = now
                if type(piece) is Delta:
                    meter.wrote(piece.text)
                    output.token(piece.text, piece.begins_item)
                    if keeps_text:
                        texts.append(piece.text)
                    if output.is_full:
                        await self._wait_for_room()
                elif type(piece) is ToolUse:
                    uses.append(piece)
                elif isinstance(piece, TOLD):
                    handler.tell(piece)
                    if output.is_full:
                        await self._wait_for_room()
                elif type(piece) is Finish:
                    if opened.choice.model.dialect == "python":
                        meter.close()  # what it has not counted is estimated
                        return "".join(texts), uses, piece
                    meter.finished(opened.choice, piece.usage)
                    return "".join(texts), uses, piece
                elif type(piece) in NO_OUTPUT:
                    await self._at_work(opened.choice, piece)
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
            handler.stop()
            await close(opened.pieces)

    async def _at_work(self, choice: Choice, piece: Piece) -> None:
        """It thinks, or writes the arguments of a call, or only lives."""
        self._piece_at = time.monotonic()
        output, meter = self._output, self.usage
        if type(piece) is Thinking:
            meter.works(choice, self._messages)
            output.label = self._route.label_of(choice)
            output.thinking(piece.text)
        elif type(piece) is ToolInput:
            meter.works(choice, self._messages)
            output.label = self._route.label_of(choice)
            output.tool_input(piece.call_id, piece.name, piece.text)
        elif type(piece) is Counted:
            meter.counted(choice, piece.usage, piece.cost_usd)
            return
        else:
            return
        meter.wrote(piece.text)
        if output.is_full:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        was_writing, self._is_writing = self._is_writing, False  # it is not the model that is silent
        await self._output.room()
        self._piece_at, self._is_writing = time.monotonic(), was_writing


def _message(turn: request.Message, blobs: Mapping[int, bytes]) -> Message:
    """A turn of the caller's, with the calls of their own functions and what those gave."""
    uses = tuple(ToolUse(call.id, call.function.name, call.function.parsed) for call in turn.tool_calls or ())
    return Message(turn.role, content_of(turn.content, blobs), uses, turn.tool_call_id)
