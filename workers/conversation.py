"""A conversation as a model is told it, and the pieces of its answer. Knows no provider, no tool and no Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from tokenrelay.protocol.events import FinishReason

# -- what a turn holds -------------------------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True):
    text: str


class Image(msgspec.Struct, frozen=True):
    """A picture: its address (https), or its bytes and what they are (`image/png`). `detail`: how closely to look at it
    (`low`, `high`…); "": as the model likes."""

    url: str = ""
    data: bytes = b""
    media_type: str = ""
    detail: str = ""


class File(msgspec.Struct, frozen=True):
    """A document: its address (https), or its bytes and what they are (`application/pdf`)."""

    filename: str
    url: str = ""
    data: bytes = b""
    media_type: str = ""


class Audio(msgspec.Struct, frozen=True):
    """A sound; `format` is `wav` or `mp3`."""

    data: bytes
    format: str


Part: TypeAlias = Text | Image | File | Audio
Content: TypeAlias = str | tuple[Part, ...]


def text_of(content: Content) -> str:
    """The text alone, its parts joined as they stand."""
    return content if type(content) is str else "".join(part.text for part in content if type(part) is Text)


# -- turns -------------------------------------------------------------------------------------------------------------


class Echo(msgspec.Struct, frozen=True):
    """A whole assistant turn as its provider wants it back, in its order, with its signed or sealed thoughts.

    Good for one source (a dialect, or a server of the catalogue) and one upstream id: anybody else gets the plain
    content. Only the provider that made it reads `value`, which is plain JSON.
    """

    source: str
    upstream: str
    value: Any


class ToolUse(msgspec.Struct, frozen=True):
    """One call the model asked for; `arguments` is its argument object, already parsed."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class Message(msgspec.Struct, frozen=True):
    """One turn. `tool_calls` and `echo` only on an assistant's turn; `tool_call_id` only on a tool's (role `tool`)."""

    role: str
    content: Content
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str | None = None
    echo: Echo | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as a model is told of it; `parameters` is a JSON Schema of type object. `strict`: arguments are to follow
    it by the letter; None: nobody said."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool | None = None


class Caller(msgspec.Struct, frozen=True):
    """Who asks and for which stream, for a handler of one's own: no provider elsewhere is told. `deadline` is in
    seconds since the Unix epoch; None: there is none."""

    stream_id: str = ""
    owner: str = ""
    attempt: int = 1
    deadline: float | None = None
    metadata: Mapping[str, str] = {}
    preferences: Mapping[str, Any] = {}


class ModelRequest(msgspec.Struct, frozen=True):
    """One round. `model` is the upstream id; None means: leave it to the model. `request_id` and `traceparent` say who
    asks, for the provider's logs and a trace; "" for none.

    `effort` is a level of the wire's `reasoning`; `response_format` and `tool_choice` are as in OpenAI's Chat
    Completions. `cache_key` groups requests that begin alike, for the provider's prompt cache. `extra` is merged into
    the body. `shows_thinking`: somebody wants to read the thoughts.
    """

    model: str
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    tools: Sequence[ToolSpec] = ()
    request_id: str = ""
    traceparent: str = ""
    effort: str | None = None
    response_format: Mapping[str, Any] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    cache_key: str = ""
    extra: Mapping[str, Any] = {}
    shows_thinking: bool = False
    caller: Caller | None = None


# -- the pieces of an answer -------------------------------------------------------------------------------------------


class Delta(msgspec.Struct, frozen=True):
    """A piece of the answer's text; never empty. `begins_item`: it opens a new item of the same answer, so its text
    must not run into the text before it."""

    text: str
    begins_item: bool = False


class Thinking(msgspec.Struct, frozen=True):
    """The model thinks; `text` is "" where it does not say what."""

    text: str


class ToolInput(msgspec.Struct, frozen=True):
    """The arguments of a call as they are written. `name` only in the first piece of a call, else ""."""

    call_id: str
    name: str
    text: str


class Progress(msgspec.Struct, frozen=True):
    """The provider lives, and has nothing else to tell: a ping, a keep-alive comment."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens. `input_tokens` is everything the model read, from a cache or not; `output_tokens` is what is billed as
    output, thinking included. None: the provider does not say."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Data(msgspec.Struct, frozen=True):
    """Anything beside text, as JSON under a name."""

    name: str
    value: Any


class ToldCall(msgspec.Struct, frozen=True):
    """A call that is made elsewhere: told, not run."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class ToldResult(msgspec.Struct, frozen=True):
    """What such a call gave."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    text: str
    failed: bool


class ToolRun(msgspec.Struct, frozen=True):
    """A tool of this worker to be run while the answer goes on; `answer` is told its text and whether it failed."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    answer: Callable[[str, bool], None]


class Counted(msgspec.Struct, frozen=True):
    """What has been used since it was told last. `cost_usd` None: as the row's prices say."""

    usage: Usage
    cost_usd: float | None = None


class Finish(msgspec.Struct, frozen=True):
    """The round is over; the last thing a provider yields. `resolved_model` is what the provider says answered; the
    counts are those of `Usage`. `echo` is the turn as it wants it back with the results of its tools."""

    reason: FinishReason
    input_tokens: int
    output_tokens: int
    resolved_model: str
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    echo: Echo | None = None

    @property
    def usage(self) -> Usage:
        return Usage(
            self.input_tokens,
            self.output_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.reasoning_tokens,
        )


Told: TypeAlias = Data | ToldCall | ToldResult | ToolRun
Piece: TypeAlias = Delta | Thinking | ToolInput | Progress | ToolUse | Counted | Told | Finish
