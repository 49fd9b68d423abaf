"""A chat request, validated when it is made; an error names the wrong field. Knows no HTTP and no
model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from tokenrelay.protocol.errors import TokenrelayError, invalid
from tokenrelay.protocol.models import preferences
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.wire import large_json, parts
from tokenrelay.protocol.wire.messages import Call, Message, ToolName, check_free, check_parts, check_turns, shortly
from tokenrelay.protocol.wire.parts import Bounds, Content
from tokenrelay.protocol.wire.response_format import MAX_DESCRIPTION, JsonSchemaFormat, ResponseFormat

__all__ = [
    "Bounds",
    "Call",
    "ChatRequest",
    "Message",
    "ToolName",
    "bounded",
    "from_object",
    "pack",
    "parse_json",
    "unpack",
]

MAX_MESSAGES: Final = 1_000
MAX_DISCONNECT_GRACE_S: Final = 3_600

MAX_TOOLS: Final = 128

MAX_METADATA: Final = 16
MAX_METADATA_NAME: Final = 64
MAX_METADATA_VALUE: Final = 512

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function as OpenAI's API describes it; `parameters` is a JSON Schema of type object."""

    name: ToolName
    description: Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`{name}` is a tool of the server; `{type: "function", function: {…}}` is one too where the server has that name,
    else a function of the caller's own. With `own` it is the caller's, whatever the server has."""

    type: Literal["function"] | None = None
    name: ToolName | None = None
    function: Function | None = None
    own: bool = False

    @property
    def called(self) -> str:
        """What the model calls it."""
        return self.function.name if self.function is not None else self.name or ""


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much the model shall think."""

    effort: Effort | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    name: ToolName


class NamedChoice(msgspec.Struct, frozen=True):
    """This one function and no other."""

    function: NamedFunction
    type: Literal["function"] = "function"


Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METADATA_NAME)],
        Annotated[str, msgspec.Meta(max_length=MAX_METADATA_VALUE)],
    ],
    msgspec.Meta(max_length=MAX_METADATA),
]


class ChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of `POST /api/chat` and of a WebSocket `start`. Exactly one of `message`, `prompt`, `messages`."""

    message: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    model: Name | None = None
    provider: Name | None = None
    stream: bool = False
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stop: Name | Annotated[list[Name], msgspec.Meta(max_length=16)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    system: str | None = None
    enable_tools: bool | None = None
    tools: Annotated[list[ToolName | ToolEntry], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None
    show: Annotated[list[Literal["thinking", "tool_input"]], msgspec.Meta(max_length=8)] | None = None
    metadata: Metadata | None = None
    preferences: dict[str, Any] | None = None
    on_disconnect: Annotated[str, msgspec.Meta(max_length=32)] = "continue"
    # What other APIs take and no model is told of here; once checked, True where it asks. See `not_taken`.
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    max_completion_tokens: Any = None
    min_p: Any = None
    n: Any = None
    presence_penalty: Any = None
    service_tier: Any = None
    top_k: Any = None
    top_logprobs: Any = None
    verbosity: Any = None

    @property
    def conversation(self) -> list[Message]:
        """The turns, the system's first if there is one."""
        turns = list(self.messages) if self.messages else [Message("user", self.message or self.prompt or "")]
        return [Message("system", self.system), *turns] if self.system else turns

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def effort(self) -> Effort | None:
        """How much to think, by whichever name it was asked; None: as the model likes."""
        return self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)

    @property
    def not_taken(self) -> tuple[str, ...]:
        """Those of `NOT_TAKEN` that ask for something."""
        return tuple(name for name in NOT_TAKEN if getattr(self, name) is not None)

    @property
    def contents(self) -> list[Content | None]:
        """Of the turns of `messages`, in order."""
        return [turn.content for turn in self.messages or ()]

    def shows(self, what: Literal["thinking", "tool_input"]) -> bool:
        return what in (self.show or ())

    def fingerprint(self, blobs: Sequence[bytes] = ()) -> str:
        """Equal for requests that ask for the same answer, however it is delivered. `blobs`: what was taken out."""
        digest = hashlib.blake2b(msgspec.msgpack.encode(msgspec.structs.replace(self, stream=False)))
        for blob in blobs:
            digest.update(hashlib.blake2b(blob).digest())
        return digest.hexdigest()[:32]


NOT_TAKEN: Final = (
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "min_p", "n", "presence_penalty",
    "service_tier", "top_k", "top_logprobs", "verbosity",
)  # fmt: skip
"""What other APIs take and no model is told of here: named in `left_out`, never dropped without a word."""

_NOTHING: Final[tuple[Any, ...]] = (None, False, 0, "", [], {})


class Taken(NamedTuple):
    """A request without bytes, and the bytes of its parts by their number."""

    request: ChatRequest
    blobs: list[bytes]


def take_out(request: ChatRequest) -> Taken:
    """Takes long where there is much; see `parts.take_out`. Raises TokenrelayError VALIDATION_ERROR."""
    if not any(isinstance(content, list) for content in request.contents):
        return Taken(request, [])
    contents, blobs = parts.take_out(request.contents)
    turns = zip(request.messages or (), contents, strict=True)
    messages = [turn if turn.content is new else msgspec.structs.replace(turn, content=new) for turn, new in turns]
    return Taken(msgspec.structs.replace(request, messages=messages), blobs)


def kinds_of(request: ChatRequest) -> dict[str, str]:
    """What a model has to accept beside text, each with the first field that wants it: `images`, `files`, `audio`, and
    `file_url` for a file by its address."""
    found: dict[str, str] = {}
    for turn, content in enumerate(request.contents):
        if isinstance(content, list):
            for number, part in enumerate(content):
                if (kind := parts.KINDS.get(type(part))) is not None:
                    found.setdefault(kind, f"messages[{turn}].content[{number}]")
                if isinstance(part, parts.FilePart) and part.file.file_url is not None:
                    found.setdefault("file_url", f"messages[{turn}].content[{number}]")
    return found


def accepting(request: ChatRequest, choices: Sequence[Choice]) -> list[Choice]:
    """Those that accept the parts of the request. Raises TokenrelayError VALIDATION_ERROR with the field of the first
    part that none of them accepts."""
    left = list(choices)
    for kind, field in kinds_of(request).items():
        left = [choice for choice in left if choice.model.takes(kind)]
        if not left:
            who = f"{request.model} does not accept" if request.model else "no model that may answer accepts"
            raise invalid(field, f"{who} {'files by their address' if kind == 'file_url' else kind}")
    return left


DEFAULT_BOUNDS: Final = Bounds()


def parse_json(body: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> ChatRequest:
    """A request from JSON text, its parts within `bounds`.

    Raises TokenrelayError INVALID_REQUEST (not JSON) or VALIDATION_ERROR (`field`, `issue`).
    """
    try:
        return _checked(large_json.decode(body, ChatRequest), bounds)
    except msgspec.ValidationError as error:
        raise _validation(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenrelayError("INVALID_REQUEST", f"the body is not JSON: {shortly(error)}") from error


def from_object(value: Any, bounds: Bounds = DEFAULT_BOUNDS) -> ChatRequest:
    """A request from an object already decoded (a WebSocket message). Raises TokenrelayError VALIDATION_ERROR."""
    try:
        return _checked(msgspec.convert(value, type=ChatRequest), bounds)
    except msgspec.ValidationError as error:
        raise _validation(str(error)) from error
    except RecursionError as error:
        raise TokenrelayError("INVALID_REQUEST", "the message is nested too deep") from error
    except UnicodeEncodeError as error:  # JSON may escape half of a character, as a field's name too
        raise TokenrelayError("INVALID_REQUEST", "the text has a character that UTF-8 cannot carry") from error


def bounded(request: ChatRequest, most: int) -> ChatRequest:
    """The request with `max_tokens`, which is at most `most`; 0: as it is. Raises TokenrelayError VALIDATION_ERROR."""
    if not most or (request.max_tokens is not None and request.max_tokens <= most):
        return request
    if request.max_tokens is not None:
        raise invalid("max_tokens", f"expected at most {most}, got {request.max_tokens}")
    return msgspec.structs.replace(request, max_tokens=most)


def pack(request: ChatRequest) -> bytes:
    """As a worker will read it."""
    return msgspec.msgpack.encode(request)


def unpack(raw: bytes) -> ChatRequest:
    """Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(raw, type=ChatRequest)


def grace_s(on_disconnect: str) -> float | None:
    """Seconds without any viewer after which the generation stops; None: it goes on whatever viewers do.

    Raises ValueError when it is none of `continue`, `cancel`, `grace:SECONDS`.
    """
    if on_disconnect == "continue":
        return None
    if on_disconnect == "cancel":
        return 0.0
    match = re.fullmatch(r"grace:([0-9]{1,4})", on_disconnect)
    if match is None or int(match[1]) > MAX_DISCONNECT_GRACE_S:
        raise ValueError(f"expected continue, cancel or grace:SECONDS (at most {MAX_DISCONNECT_GRACE_S})")
    return float(match[1])


def _without_values_not_taken(request: ChatRequest) -> ChatRequest:
    """The values of `NOT_TAKEN` may be anything and are of no use to anybody: only whether they ask for something is
    carried."""
    given = {name: value for name in NOT_TAKEN if (value := getattr(request, name)) is not None}
    if not given:
        return request
    asks = {name: None if value in _NOTHING or (name, value) == ("n", 1) else True for name, value in given.items()}
    return msgspec.structs.replace(request, **asks)


def _checked(request: ChatRequest, bounds: Bounds) -> ChatRequest:
    """What the types do not say."""
    request = _without_values_not_taken(request)
    given = [name for name in ("message", "prompt", "messages") if getattr(request, name) is not None]
    if len(given) != 1:
        issue = "expected exactly one of message, prompt, messages; got " + (" and ".join(given) or "none")
        raise invalid(given[1] if given else "message", issue)
    if given[0] != "messages" and not getattr(request, given[0]).strip():
        raise invalid(given[0], "expected some text, got none")
    if request.messages is not None:
        check_turns(request.messages)
        check_parts(request.messages, bounds)
        if not any(turn.text.strip() for turn in request.messages) and not kinds_of(request):
            raise invalid("messages", "expected some text, got none")
    for name in ("model", "provider"):
        value = getattr(request, name)
        if value is not None and not value.isprintable():
            raise invalid(name, "expected printable characters")
    try:
        grace_s(request.on_disconnect)
    except ValueError as error:
        raise invalid("on_disconnect", str(error)) from error
    for number, entry in enumerate(request.tools or ()):
        _check_tool(f"tools[{number}]", entry)
    _check_asked(request)
    if request.preferences:
        check_free("preferences", request.preferences)
    try:
        msgspec.msgpack.encode(_spared(request))
    except UnicodeEncodeError as error:
        raise TokenrelayError("INVALID_REQUEST", "the text has a character that UTF-8 cannot carry") from error
    except (TypeError, ValueError, OverflowError) as error:  # msgpack's extension types, integers beyond 64 bits
        raise TokenrelayError("INVALID_REQUEST", f"a value cannot be carried: {shortly(error)}") from error
    preferences.parse(request.preferences)
    return request


def _spared(request: ChatRequest) -> ChatRequest:
    if not kinds_of(request):
        return request
    turns = [msgspec.structs.replace(turn, content=parts.spared(turn.content)) for turn in request.messages or ()]
    return msgspec.structs.replace(request, messages=turns)


def _check_asked(request: ChatRequest) -> None:
    """How the answer shall be: what the fields say of one another."""
    by_name = request.reasoning.effort if request.reasoning else None
    if by_name is not None and request.reasoning_effort not in (None, by_name):
        raise invalid("reasoning_effort", f"expected {by_name} as in reasoning.effort, or nothing")
    if isinstance(request.response_format, JsonSchemaFormat):
        check_free("response_format.json_schema.schema", request.response_format.json_schema.schema or {})
    choice = request.tool_choice
    if choice in (None, "auto", "none"):
        return
    if not request.enable_tools and not request.tools:
        raise invalid("tool_choice", "expected tools beside it, or enable_tools")
    if isinstance(choice, NamedChoice) and request.tools:
        known = {entry if isinstance(entry, str) else entry.called for entry in request.tools}
        if choice.function.name not in known:
            raise invalid("tool_choice.function.name", "expected the name of one of the tools")


def _check_tool(field: str, entry: ToolName | ToolEntry) -> None:
    if isinstance(entry, str):
        return
    if (entry.name is None) == (entry.function is None):
        raise invalid(field, "expected an id, {name}, or {type: function, function: {name}}")
    if entry.function is None:
        if entry.own:
            raise invalid(f"{field}.own", "only a function is the caller's own")
        return
    if entry.type is None:
        raise invalid(f"{field}.type", "expected function beside a function")
    parameters = entry.function.parameters
    if parameters is None:
        return
    if parameters.get("type", "object") != "object":
        raise invalid(f"{field}.function.parameters", "expected a JSON Schema of type object")
    check_free(f"{field}.function.parameters", parameters)


_AT: Final = re.compile(r"^(?P<issue>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)


def _validation(text: str) -> TokenrelayError:
    match = _AT.match(text)
    issue = match["issue"] if match else text
    path = (match["path"] or "") if match else ""
    return invalid(path.lstrip(".") or "body", issue)
