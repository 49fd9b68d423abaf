"""Chat Completions chunks as parts: whatever yields them (the openai SDK, LiteLLM) becomes a handler."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tokenrelay.agent.adapters import Handler, Joined, close, in_thread, refusals
from tokenrelay.agent.parts import (
    Alive,
    Ask,
    Fail,
    Finish,
    Part,
    Thinking,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from tokenrelay.workers.providers.chat_completions import Parser

_END: Final = object()


def openai_chunks(function: Callable[[Ask], Any]) -> Handler:
    """A handler of a function that gives Chat Completions chunks for an `Ask`: an async generator, a coroutine that
    gives one or an iterator of them, or a function without `async`. A chunk is an object of the openai SDK or of
    LiteLLM, a dict, or its JSON as bytes. What is not async is called and read in threads.

    The chunks may be those of several rounds, one after the other, with parts (`ToolResult`, `Data`, …) between them:
    a round's calls are told when it is over, and not run.
    """

    async def handler(ask: Ask) -> AsyncIterator[str | Part]:
        rounds = _Rounds()
        with refusals():
            stream = function(ask) if _is_async(function) else await in_thread(lambda: function(ask))
            if inspect.isawaitable(stream):
                stream = await stream
            try:
                async for item in _each(stream):
                    if isinstance(item, (str, Part)):
                        for part in rounds.between():
                            yield part
                        yield item
                    else:
                        for part in rounds.take(_json_of(item)):
                            yield part
            finally:
                await close(stream)
        for part in rounds.end():
            yield part

    return handler


class _Rounds:
    """Each round has a parser of its own: the one that reads providers of this dialect."""

    def __init__(self) -> None:
        self._parser: Parser | None = None  # None between two rounds
        self._id: Any = None
        self._calls = 0
        self._texts = Joined()
        self._reason = "stop"

    def take(self, chunk: dict[str, Any]) -> Iterator[Part]:
        from tokenrelay.workers.providers.chat_completions import Parser

        is_new = chunk.get("id") != self._id and bool(chunk.get("choices"))
        if is_new:
            yield from self.between()
        if self._parser is None:
            self._parser = Parser("", self._calls)
            self._texts.begin()
        self._id = chunk.get("id")
        yield from self._feed(self._parser, b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def between(self) -> Iterator[Part]:
        """Before a part, or another round: one that has said its finish is over."""
        if self._parser is not None and self._parser.is_whole:
            yield from self.over()

    def over(self) -> Iterator[Part]:
        """The rest of the round, if one is under way."""
        from tokenrelay.workers.providers.base import ProviderError

        parser, self._parser = self._parser, None
        if parser is None:
            return
        try:
            for piece in parser.end():
                yield from self._part(piece)
        except ProviderError as error:
            raise _fail(error) from error

    def end(self) -> Iterator[Part]:
        yield from self.over()
        yield Finish(self._reason)

    def _feed(self, parser: Parser, data: bytes) -> Iterator[Part]:
        from tokenrelay.workers.providers.base import ProviderError

        try:
            for piece in parser.feed(data):
                yield from self._part(piece)
        except ProviderError as error:
            raise _fail(error) from error

    def _part(self, piece: Any) -> Iterator[Part]:
        from tokenrelay.workers import conversation

        match piece:
            case conversation.Delta():
                yield from self._texts.take(piece.text)
            case conversation.Thinking():
                yield Thinking(piece.text)
            case conversation.ToolUse():
                self._calls += 1
                yield ToolCall(piece.call_id, piece.name, piece.arguments)
            case conversation.Finish():
                self._reason = piece.reason
                yield Usage(piece.input_tokens, piece.output_tokens, piece.cached_input_tokens)
            case _:
                yield Alive()


def _fail(error: Any) -> Fail:
    return Fail(str(error), error.code, error.retryable)


def _is_async(function: Callable[[Ask], Any]) -> bool:
    return inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)


async def _each(stream: Any) -> AsyncIterator[Any]:
    """What blocks while it waits for the next chunk is read in a thread: all handlers share this loop."""
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
    else:
        items = iter(stream)
        while (item := await in_thread(lambda: next(items, _END))) is not _END:
            yield item


def _json_of(chunk: Any) -> dict[str, Any]:
    """Raises TypeError for what is no chunk."""
    if hasattr(chunk, "model_dump"):
        chunk = chunk.model_dump(mode="json", warnings=False)
    elif isinstance(chunk, (bytes, bytearray)):
        chunk = json.loads(chunk)
    if not isinstance(chunk, dict):
        raise TypeError(f"expected Chat Completions chunks or parts, got {type(chunk).__name__}")
    return chunk
