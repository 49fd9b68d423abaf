"""What the parsers of all dialects share: frames in, pieces out, the rules of an end. Pure: no socket, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NoReturn

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Decoder, Frame, FrameTooLarge
from tokenrelay.workers.conversation import Delta, Finish, Piece, Thinking, ToolInput, ToolUse
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.faults import Fault, fault_of, mid_stream_failure
from tokenrelay.workers.providers.jsontext import Text, arguments_of, parse_arguments, whole

MAX_TOOL_CALLS: Final = 128
"""OpenAI's reference allows a request this many tools; more calls than that in one round is a model running wild."""

MAX_TOOL_BYTES: Final = 1024 * 1024

MAX_TURN_BYTES: Final = 4 * 1024 * 1024
"""Of thoughts that are kept to go back; of more than this none is."""

MAX_RAW_BYTES: Final = 64 * 1024

DONE: Final = "[DONE]"
"""The last event of Chat Completions; some servers of the other dialects send it as well, or with a space after it."""

COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip (RFC 1952), zstd (RFC 8878)


class Call:
    """A tool call under construction. Its arguments come as text in pieces, or (`object`) as they are."""

    def __init__(self, made_up: str) -> None:
        self.their_id = ""  # "" until it has come
        self.made_up = made_up
        self.call_id = ""  # "" until somebody was told it; then it stays
        self.name = ""
        self.arguments: list[str] = []
        self.object: Any = None  # None: the text counts
        self.told = 0  # how many pieces of the arguments were told

    @property
    def is_complete(self) -> bool:
        """Its arguments are there and can be read."""
        return (bool(self.arguments) or self.object is not None) and self.parsed() is not None

    def parsed(self) -> dict[str, Any] | None:
        """None when the arguments are no JSON object."""
        return parse_arguments("".join(self.arguments)) if self.object is None else arguments_of(self.object)


class Parser:
    """Bytes of the body in any chunking → pieces.

    ``feed`` yields pieces as they are complete and raises `ProviderError` where the stream says so, after what came
    before it. ``end`` gives the rest once ``is_done`` or the body has ended: tool uses, then the `Finish`. A dialect
    says what one frame means in ``_take``, and in ``_turn`` what it wants back of the turn.
    """

    dialect: ClassVar[str] = ""
    max_event_bytes: ClassVar[int] = 1024 * 1024

    def __init__(self, model: str, calls_before: int = 0, may_be_empty: bool = False) -> None:
        self.has_written = False  # text or a tool call has come
        self.is_done = False  # the stream's own last event has come; what follows is not looked at
        self.may_be_empty = may_be_empty  # an answer of nothing is one: a stop sequence may have met its first token
        self._decoder = Decoder(self.max_event_bytes)
        self._raw = b""  # from the last `data:` on: an error may come as bare JSON, in no frame at all
        self._text = Text()
        self._thought = Text()
        self._model = model
        self._calls: dict[int, Call] = {}  # by index, in the order they began
        self._calls_before = calls_before  # in the conversation: a call without an id gets a number after theirs
        self._tool_bytes = 0
        self._turn_bytes = 0
        self._has_text = False
        self._begins_item = False  # the next text opens a new item of the answer
        self._has_refused = False
        self._reason: FinishReason | None = None  # None until the stream has said one
        self._went_on = False  # there was text after the reason: that it is over is to be believed at the end only
        self._input_tokens = 0
        self._output_tokens = 0
        self._cached: int | None = None
        self._cache_write: int | None = None
        self._reasoning: int | None = None

    @property
    def is_whole(self) -> bool:
        """The answer is complete, though its usage may still come."""
        return self._reason is not None and not self._went_on

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Every piece that `data` completes. Raises ProviderError."""
        at = data.rfind(b"data:")
        self._raw = data[at:] if at >= 0 else (self._raw + data)[-MAX_RAW_BYTES:]
        try:
            frames = self._decoder.feed(data)
        except FrameTooLarge:
            raise ProviderError("the model's provider sent an event that is too large", retryable=False) from None
        for frame in frames:
            if self.is_done:
                return
            if frame.data.startswith(DONE):
                if self._reason is None and self._calls:  # no finish reason was given
                    self._reason = "tool_calls"
                self.is_done = True
                return
            try:
                yield from self._take(frame)
            except ProviderError as error:
                # What cannot be read after the finish costs the usage, not the answer.
                if not self.is_whole or error.said is not None or not error.retryable:
                    raise

    def end(self) -> Iterator[Piece]:
        """The rest of the answer, last its `Finish`. Raises ProviderError when the body ended before the answer did."""
        if not self.is_done and self._decoder.is_mid_event:  # the blank line after the last event is missing
            try:
                yield from self.feed(b"\n\n")
            except ProviderError as error:
                if error.said is not None:
                    raise
        if self._reason is None:
            self._cut()
        yield from self._close()
        if self._reason == "stop" and not (self.has_written or self._has_refused or self.may_be_empty):
            raise ProviderError("the model ended its answer before it wrote anything", retryable=True)
        reason = self._reason
        uses = list(self._tool_uses())
        yield from uses
        if self._has_refused:
            reason = "content_filter"
        elif self._calls and reason == "stop":  # some servers finish a round of tool calls so
            reason = "tool_calls"
        yield Finish(
            reason,
            self._input_tokens,
            self._output_tokens,
            self._model,
            self._cached,
            self._cache_write,
            self._reasoning,
        )

    def turn(self) -> Any:
        """The whole turn as it is wanted back, as plain JSON; None where its text and its calls say everything."""
        return None if self._turn_bytes > MAX_TURN_BYTES else self._turn()

    # -- for the dialects ----------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> Iterator[Piece]:
        raise NotImplementedError

    def _turn(self) -> Any:
        return None

    def _write(self, text: str | None) -> Iterator[Delta]:
        if text:
            self.has_written = True
            if self._reason is not None:
                self._went_on = True
            if text := self._text.take(text):
                if self._begins_item:
                    self._begins_item = False
                    yield Delta(text, self._has_text)
                else:
                    yield Delta(text)
                self._has_text = True

    def _think(self, text: str | None) -> Iterator[Thinking]:
        yield Thinking(self._thought.take(text) if text else "")

    def _call(self, index: int) -> Call:
        """The call of that index, begun if there is none yet."""
        self.has_written = True
        if self._reason is not None:
            self._went_on = True
        call = self._calls.get(index)
        if call is None:
            if len(self._calls) >= MAX_TOOL_CALLS:
                self._run_wild()
            call = self._calls[index] = Call(f"call_{self._calls_before + len(self._calls)}")
            self._begins_item = True
        return call

    def _grow(self, call: Call, arguments: str | None) -> None:
        if arguments:
            call.arguments.append(arguments)
            self._count(len(arguments))

    def _show(self, call: Call) -> Iterator[ToolInput]:
        """What has come of its arguments since it was last shown."""
        if not call.name:
            return  # nobody would know whose they are
        new = "".join(call.arguments[call.told :])
        is_first = not call.call_id
        if is_first:
            others = {other.call_id for other in self._calls.values()}
            call.call_id = whole(call.their_id) or call.made_up
            if call.call_id in others:
                call.call_id = call.made_up
        call.told = len(call.arguments)
        if new or is_first:
            yield ToolInput(call.call_id, whole(call.name) if is_first else "", new if new.isascii() else whole(new))

    def _count(self, size: int) -> None:
        self._tool_bytes += size
        if self._tool_bytes > MAX_TOOL_BYTES:
            self._run_wild()

    def _run_wild(self) -> NoReturn:
        raise ProviderError("the model's tool calls are too large", retryable=False)

    def _end(self, reason: FinishReason) -> None:
        """The stream has said why it ends. That it does is to be seen: some servers say so with every chunk."""
        self._reason = reason
        self._went_on = False

    def _close(self) -> Iterator[Delta]:
        if rest := self._text.rest():
            yield Delta(rest)

    def _tool_uses(self) -> Iterator[ToolUse]:
        if self._reason in ("length", "content_filter"):
            return  # the last call was cut; a call with half its arguments is none
        for call in self._calls.values():
            arguments = call.parsed()
            if arguments is None or not call.name:
                raise ProviderError("the model wrote a tool call that cannot be read", retryable=True)
            for _ in self._show(call):  # it has its id now, if it had none
                pass
            yield ToolUse(call.call_id, whole(call.name), arguments)

    def _cut(self) -> NoReturn:
        """The body has ended before the answer did: maybe it never was a stream."""
        bare = self._raw if not self._raw.startswith(b"data:") else self._raw.replace(b"\r", b"\n").partition(b"\n")[2]
        bare = bare.lstrip(b"\xef\xbb\xbf \t\r\n")
        if bare.startswith(COMPRESSED):
            raise ProviderError("the model's provider sent compressed data without saying so", retryable=True)
        at = bare.find(b"{")
        fault = None if at < 0 else fault_of(bare[at:].rstrip(b" \t\r\n]"))
        if fault is not None:
            self._fail(fault)
        if bare.startswith((b"<", b"{", b"[")):
            text = bare[:MAX_RAW_BYTES].decode("utf-8", "replace")
            raise ProviderError(
                "the model's provider sent something else than a stream", retryable=True, said=Fault(message=text)
            )
        raise ProviderError("the model's provider broke off in the middle of the answer", retryable=True)

    def _fail(self, fault: Fault | str) -> NoReturn:
        error = mid_stream_failure(fault)
        error.said = fault
        raise error

    def _unreadable(self) -> NoReturn:
        raise ProviderError("the model's provider sent something that cannot be read", retryable=True)

    def _unfinished(self, message: str = "the model failed to write its answer") -> NoReturn:
        """The stream says that it ends, and not well."""
        raise ProviderError(message, retryable=True)


def count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def counted(usage: Any, *path: str) -> int | None:
    """The number of tokens at this place of a usage object; None where there is none."""
    for name in path:
        if not isinstance(usage, dict):
            return None
        usage = usage.get(name)
    return count(usage)
