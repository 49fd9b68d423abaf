"""What a handler is asked and the parts it answers with. Knows no worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

FINISH_REASONS: Final = ("stop", "length", "tool_calls", "content_filter")


class Message(dict[str, Any]):
    """One turn as in Chat Completions: a plain dict whose fields are attributes too; one that it lacks is None."""

    @property
    def role(self) -> str:
        return str(self["role"])

    @property
    def content(self) -> Any:
        """A string, or a list of parts; None beside tool calls without text."""
        return self.get("content")

    @property
    def tool_calls(self) -> Any:
        return self.get("tool_calls")

    @property
    def tool_call_id(self) -> Any:
        return self.get("tool_call_id")


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool gave; `str()` of it is its text."""

    text: str
    failed: bool = False

    def __str__(self) -> str:
        return self.text


CallTool: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[ToolOutput]]


async def _no_tools(name: str, arguments: Mapping[str, Any]) -> ToolOutput:  # noqa: ARG001  the shape of CallTool
    return ToolOutput(f"there is no tool called {name[:80]!r}", failed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. All fields have defaults, so that a test can make one.

    `messages` and `tools` are as in Chat Completions, `reasoning` as on the wire (`{"effort": …}`). `attempt` counts
    the starts for this stream from 1. `deadline` is when the answer is cut off, in seconds since the Unix epoch.
    """

    messages: Sequence[Message] = ()
    max_tokens: int | None = None
    reasoning: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    preferences: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream_id: str = ""
    request_id: str = ""
    owner: str = ""
    attempt: int = 1
    deadline: float | None = None
    run_tool: CallTool = field(default=_no_tools, repr=False)

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolOutput:
        """Runs any tool of this worker; the viewers see the call and its result. One that fails says so in its text."""
        return await self.run_tool(name, arguments or {})


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer; a plain `str` is the same."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """What is thought; "" only says that somebody thinks."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Tells of a call that the handler makes itself. It is shown, not run."""

    id: str
    name: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the call with this id gave."""

    id: str
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Anything else, as JSON of at most 16 KiB under a name of at most 64 characters."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens (and dollars, where they are known) that were used; several of them add up."""

    input: int = 0
    output: int = 0
    cached: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing to tell, but work goes on: no timeout of silence applies."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Ends the answer with a reason other than `stop`, which is what returning means."""

    reason: str = "stop"


Part: TypeAlias = Text | Thinking | ToolCall | ToolResult | Data | Usage | Alive | Finish


class Fail(Exception):
    """`raise Fail("…")` ends the answer with this sentence, which its viewers read.

    `code` is a row of the error table (docs/reference.md). `retryable`: the same request may succeed later.
    """

    def __init__(self, sentence: str, code: str = "PROVIDER_ERROR", retryable: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.retryable = retryable
