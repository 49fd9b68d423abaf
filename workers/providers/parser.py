"""What the parsers of all dialects share: frames in, pieces out, the rules of an end. Pure: no socket, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NoReturn

import structlog

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Decoder, Frame, FrameTooLarge
from tokenrelay.workers.conversation import Delta, Echo, Finish, Piece, ToolUse
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.faults import Fault, mid_stream_failure, words
from tokenrelay.workers.providers.jsontext import Text, parse_arguments, whole

MAX_TOOL_CALLS: Final = 128
"""OpenAI's reference allows a request this many tools; more calls than that in one round is a model running wild."""

MAX_TOOL_BYTES: Final = 1024 * 1024

log = structlog.get_logger()


class Call:
    """A tool call under construction. Its arguments come as text in pieces, or (`object`) as they are."""

    def __init__(self) -> None:
        self.call_id = ""  # "" until it has come
        self.name = ""
        self.arguments: list[str] = []
        self.object: dict[str, Any] | None = None  # None: the text counts
        self.echo: Any = None  # None when its maker wants nothing back

    def parsed(self) -> dict[str, Any] | None:
        """None when the arguments are no JSON object."""
        return parse_arguments("".join(self.arguments)) if self.object is None else self.object


class Parser:
    """Bytes of the body in any chunking → pieces.

    ``feed`` yields pieces as they are complete and raises `ProviderError` where the stream says so, after what came
    before it. ``finish`` gives the last piece once ``is_done`` or the body has ended. A dialect says what one frame
    means in ``_take``.
    """

    dialect: ClassVar[str] = ""
    max_event_bytes: ClassVar[int] = 1024 * 1024

    def __init__(self, model: str, calls_before: int = 0) -> None:
        self.progress = 0  # how often the model was seen at work: text, thinking, a tool call; not keep-alives
        self.has_written = False  # text or a tool call has come
        self.is_done = False  # the stream's own last event has come; what follows is not looked at
        self._decoder = Decoder(self.max_event_bytes)
        self._text = Text()
        self._model = model
        self._calls: dict[int, Call] = {}  # by index, in the order they began
        self._calls_before = calls_before  # in the conversation: a call without an id gets a number after theirs
        self._tool_bytes = 0
        self._has_refused = False
        self._reason: FinishReason | None = None  # None until the stream has said one
        self._input_tokens = 0
        self._output_tokens = 0

    @property
    def is_whole(self) -> bool:
        """The answer is complete, though its usage may still come."""
        return self.is_done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Every piece that `data` completes. Raises ProviderError."""
        try:
            frames = self._decoder.feed(data)
        except FrameTooLarge:
            raise ProviderError("the model's maker sent an event that is too large", retryable=False) from None
        for frame in frames:
            if self.is_done:
                return
            yield from self._take(frame)

    def finish(self) -> Finish:
        """The round's end. Raises ProviderError when the body ended before the answer did."""
        if not self.is_whole:
            raise ProviderError("the model's maker broke off in the middle of the answer", retryable=True)
        reason = self._reason or "stop"
        if self._has_refused:
            reason = "content_filter"
        elif self._calls and reason == "stop":  # some servers finish a round of tool calls so
            reason = "tool_calls"
        return Finish(reason, self._input_tokens, self._output_tokens, self._model)

    # -- for the dialects ----------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> Iterator[Piece]:
        raise NotImplementedError

    def _write(self, text: str | None) -> Iterator[Delta]:
        if text:
            self._mark()
            if text := self._text.take(text):
                yield Delta(text)

    def _mark(self) -> None:
        self.progress += 1
        self.has_written = True

    def _call(self, index: int) -> Call:
        """The call of that index, begun if there is none yet."""
        self._mark()
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = Call()
        if len(self._calls) > MAX_TOOL_CALLS:
            self._run_wild()
        return call

    def _grow(self, call: Call, arguments: str | None) -> None:
        if arguments:
            call.arguments.append(arguments)
            self._count(len(arguments))

    def _count(self, size: int) -> None:
        self._tool_bytes += size
        if self._tool_bytes > MAX_TOOL_BYTES:
            self._run_wild()

    def _run_wild(self) -> NoReturn:
        raise ProviderError("the model's tool calls are too large", retryable=False)

    def _end(self, reason: FinishReason) -> Iterator[Piece]:
        """The model is done writing: what is held back comes now."""
        yield from self._close()
        self._reason = reason
        yield from self._tool_uses()

    def _close(self) -> Iterator[Delta]:
        if rest := self._text.rest():
            yield Delta(rest)

    def _tool_uses(self) -> Iterator[ToolUse]:
        if self._reason in ("length", "content_filter"):
            return  # the last call was cut; a call with half its arguments is none
        for number, call in enumerate(self._calls.values(), self._calls_before):
            arguments = call.parsed()
            if arguments is None or not call.name:
                raise ProviderError("the model wrote a tool call that cannot be read", retryable=True)
            echo = None if call.echo is None else Echo(self.dialect, "", call.echo)
            yield ToolUse(whole(call.call_id) or f"call_{number}", whole(call.name), arguments, echo)

    def _fail(self, fault: Fault | str) -> NoReturn:
        log.warning("upstream_failed", words=words(fault))
        raise mid_stream_failure(fault)

    def _unreadable(self) -> NoReturn:
        raise ProviderError("the model's maker sent something that cannot be read", retryable=True)
