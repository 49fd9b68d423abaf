"""A chat request: what a client may ask, valid from birth; names the field that is wrong. Knows no HTTP and no
model."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import preferences

MAX_MESSAGES: Final = 1_000
MAX_DISCONNECT_GRACE_S: Final = 3_600

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 128
SPARE_LEVELS: Final = 64
MAX_DESCRIPTION: Final = 16_384

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
CallId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ToolName: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.:-]{1,128}$")]


class CalledFunction(msgspec.Struct, frozen=True):
    """Which function a model called, with what: `arguments` is the text of a JSON object, as OpenAI's API has it."""

    name: ToolName
    arguments: str = "{}"

    @property
    def parsed(self) -> dict[str, Any]:
        """Raises msgspec.DecodeError when it is no JSON object."""
        return msgspec.json.decode(self.arguments or "{}", type=dict[str, Any])


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of one of the caller's own functions, on the assistant's turn that made it."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of the conversation. The assistant's may have `tool_calls`, and then needs no `content`; for each one
    follows a turn `tool` with its `tool_call_id`, whose `content` is what the function gave."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: Annotated[list[Call], msgspec.Meta(min_length=1, max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function as OpenAI's API describes it; `parameters` is a JSON Schema of type object."""

    name: ToolName
    description: Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION)] | None = None
    parameters: dict[str, Any] | None = None


class ToolEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`{name}` is a tool of the server; `{type: "function", function: {…}}` is one too where the server has that name,
    else a function of the caller's own."""

    type: Literal["function"] | None = None
    name: ToolName | None = None
    function: Function | None = None


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
    preferences: dict[str, Any] | None = None
    on_disconnect: Annotated[str, msgspec.Meta(max_length=32)] = "continue"

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

    def fingerprint(self) -> str:
        """Equal for requests that ask for the same answer, however it is delivered."""
        return hashlib.blake2b(msgspec.msgpack.encode(msgspec.structs.replace(self, stream=False))).hexdigest()[:32]


def parse_json(body: bytes) -> ChatRequest:
    """A request from JSON text.

    Raises TokenrelayError INVALID_REQUEST (not JSON) or VALIDATION_ERROR (`field`, `issue`).
    """
    try:
        return _checked(msgspec.json.decode(body, type=ChatRequest))
    except msgspec.ValidationError as error:
        raise _validation(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenrelayError("INVALID_REQUEST", f"the body is not JSON: {_shortly(error)}") from error


def from_object(value: Any) -> ChatRequest:
    """A request from an object already decoded (a WebSocket message). Raises TokenrelayError VALIDATION_ERROR."""
    try:
        return _checked(msgspec.convert(value, type=ChatRequest))
    except msgspec.ValidationError as error:
        raise _validation(str(error)) from error
    except RecursionError as error:
        raise TokenrelayError("INVALID_REQUEST", "the message is nested too deep") from error


def bounded(request: ChatRequest, most: int) -> ChatRequest:
    """The request with `max_tokens`, which is at most `most`; 0: as it is. Raises TokenrelayError VALIDATION_ERROR."""
    if not most or (request.max_tokens is not None and request.max_tokens <= most):
        return request
    if request.max_tokens is not None:
        raise _fault("max_tokens", f"expected at most {most}, got {request.max_tokens}")
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


def _checked(request: ChatRequest) -> ChatRequest:
    """What the types do not say."""
    given = [name for name in ("message", "prompt", "messages") if getattr(request, name) is not None]
    if len(given) != 1:
        issue = "expected exactly one of message, prompt, messages; got " + (" and ".join(given) or "none")
        raise _fault(given[1] if given else "message", issue)
    if given[0] != "messages" and not getattr(request, given[0]).strip():
        raise _fault(given[0], "expected some text, got none")
    if request.messages is not None:
        _check_turns(request.messages)
        if not any((turn.content or "").strip() for turn in request.messages):
            raise _fault("messages", "expected some text, got none")
    for name in ("model", "provider"):
        value = getattr(request, name)
        if value is not None and not value.isprintable():
            raise _fault(name, "expected printable characters")
    try:
        grace_s(request.on_disconnect)
    except ValueError as error:
        raise _fault("on_disconnect", str(error)) from error
    for number, entry in enumerate(request.tools or ()):
        _check_tool(f"tools[{number}]", entry)
    if request.preferences:
        _check_free("preferences", request.preferences)
    try:
        msgspec.msgpack.encode(request)
    except UnicodeEncodeError as error:
        raise TokenrelayError("INVALID_REQUEST", "the text has a character that UTF-8 cannot carry") from error
    except (TypeError, ValueError, OverflowError) as error:  # msgpack's extension types, integers beyond 64 bits
        raise TokenrelayError("INVALID_REQUEST", f"a value cannot be carried: {_shortly(error)}") from error
    preferences.parse(request.preferences)
    return request


def _check_turns(turns: list[Message]) -> None:
    """Calls and results belong together: every provider refuses a conversation in which one is without the other."""
    open_calls: dict[str, int] = {}  # calls without a result yet: id → the turn that made them
    for number, turn in enumerate(turns):
        at = f"messages[{number}]"
        if turn.role == "tool":
            if turn.tool_call_id is None:
                raise _fault(f"{at}.tool_call_id", "expected the id of the call this is the result of")
            if open_calls.pop(turn.tool_call_id, None) is None:
                raise _fault(f"{at}.tool_call_id", "expected the id of a call of the turn before, without a result yet")
        elif open_calls:
            raise _fault(f"messages[{min(open_calls.values())}].tool_calls", "each call needs a turn with its result")
        elif turn.tool_call_id is not None:
            raise _fault(f"{at}.tool_call_id", "only a turn of role tool has it")
        if turn.tool_calls is not None:
            _check_calls(at, turn, open_calls, number)
        elif turn.content is None:
            raise _fault(f"{at}.content", "expected a string")
    if open_calls:
        raise _fault(f"messages[{min(open_calls.values())}].tool_calls", "each call needs a turn with its result")


def _check_calls(at: str, turn: Message, open_calls: dict[str, int], number: int) -> None:
    if turn.role != "assistant":
        raise _fault(f"{at}.tool_calls", "only an assistant's turn has them")
    for index, call in enumerate(turn.tool_calls or ()):
        field = f"{at}.tool_calls[{index}]"
        if call.id in open_calls:
            raise _fault(f"{field}.id", "another call of this turn has the same id")
        try:
            parsed = call.function.parsed
        except (msgspec.DecodeError, RecursionError) as error:
            raise _fault(f"{field}.function.arguments", "expected the text of a JSON object") from error
        _check_free(f"{field}.function.arguments", parsed)
        open_calls[call.id] = number


def _check_tool(field: str, entry: ToolName | ToolEntry) -> None:
    if isinstance(entry, str):
        return
    if (entry.name is None) == (entry.function is None):
        raise _fault(field, "expected an id, {name}, or {type: function, function: {name}}")
    if entry.function is None:
        return
    if entry.type is None:
        raise _fault(f"{field}.type", "expected function beside a function")
    parameters = entry.function.parameters
    if parameters is None:
        return
    if parameters.get("type", "object") != "object":
        raise _fault(f"{field}.function.parameters", "expected a JSON Schema of type object")
    _check_free(f"{field}.function.parameters", parameters)


def _check_free(field: str, value: dict[str, Any]) -> None:
    """What no type describes has to be JSON too: msgpack knows NaN and bytes, and `1e999` is read as infinity.

    It is looked at deeper in brackets than it will be anywhere after: what a worker cannot read must not be queued.
    """
    held: Any = value
    for _ in range(SPARE_LEVELS):
        held = [held]
    try:
        json.dumps(held, allow_nan=False)
    except RecursionError as error:
        raise _fault(field, "nested too deep") from error
    except (TypeError, ValueError) as error:
        raise _fault(field, f"expected only what JSON can say: {_shortly(error)}") from error


_AT: Final = re.compile(r"^(?P<issue>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)


def _validation(text: str) -> TokenrelayError:
    match = _AT.match(text)
    issue = match["issue"] if match else text
    path = (match["path"] or "") if match else ""
    return _fault(path.lstrip(".") or "body", issue)


def _fault(field: str, issue: str) -> TokenrelayError:
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)


def _shortly(error: Exception) -> str:
    return str(error)[:120] if not isinstance(error, RecursionError) else "nested too deep"
