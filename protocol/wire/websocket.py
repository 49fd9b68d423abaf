"""WebSocket messages: frames to commands, answers to frames, in JSON or msgpack. Knows no socket and no stream.

A frame is one message or an array of them. Text frames carry JSON, binary frames msgpack.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, TypeAlias, cast

import msgpack
import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.feed import Format
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.wire import cursor, event_json, formats, request

MAX_MESSAGES_PER_FRAME: Final = 256
MAX_REF_CHARACTERS: Final = 128


class Close(IntEnum):
    """Why a socket was closed (RFC 6455 section 7.4.1; 4000–4999 is for applications)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL = 1002
    UNSUPPORTED = 1003
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SLOW = 4408


class Dialect(msgspec.Struct, frozen=True):
    """One subprotocol: how its frames look."""

    subprotocol: str
    is_binary: bool
    events: Format


JSON: Final = Dialect("tokenrelay.v1.json", False, formats.WS_JSON)
MSGPACK: Final = Dialect("tokenrelay.v1.msgpack", True, formats.WS_MSGPACK)
DIALECTS: Final = {dialect.subprotocol: dialect for dialect in (JSON, MSGPACK)}


class Start(msgspec.Struct, frozen=True):
    ref: str | int | None
    body: request.ChatRequest
    idempotency_key: str | None = None


class Resume(msgspec.Struct, frozen=True):
    ref: str | int | None
    stream_id: str
    after: int
    is_exact: bool


class Cancel(msgspec.Struct, frozen=True):
    ref: str | int | None
    stream_id: str


class Detach(msgspec.Struct, frozen=True):
    ref: str | int | None
    stream_id: str


class Ping(msgspec.Struct, frozen=True):
    ref: str | int | None


class Bad(msgspec.Struct, frozen=True):
    """A message that breaks the rules; the socket lives on and says why."""

    ref: str | int | None
    error: TokenrelayError


Command: TypeAlias = Start | Resume | Cancel | Detach | Ping | Bad


class BadFrame(Exception):
    """A frame that is not in the agreed form; the socket closes with `close`."""

    def __init__(self, close: Close, reason: str) -> None:
        super().__init__(reason)
        self.close = close
        self.reason = reason


def parse_frame(frame: str | bytes, dialect: Dialect, bounds: request.Bounds = request.DEFAULT_BOUNDS) -> list[Command]:
    """The commands in a frame, in order; the parts of each request within `bounds`.

    A frame that cannot be read at all gives one `Bad`. Raises BadFrame when text comes where binary was agreed, or
    the reverse.
    """
    if isinstance(frame, bytes) != dialect.is_binary:
        expected = "binary" if dialect.is_binary else "text"
        raise BadFrame(Close.UNSUPPORTED, f"{dialect.subprotocol} takes {expected} frames")
    try:
        value = _decode(frame)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        kind = "msgpack" if dialect.is_binary else "JSON"
        return [Bad(None, TokenrelayError("INVALID_REQUEST", f"the frame is not {kind}: {str(error)[:80]}"))]
    messages = value if isinstance(value, list) else [value]
    if not 1 <= len(messages) <= MAX_MESSAGES_PER_FRAME:
        issue = f"a frame has 1 to {MAX_MESSAGES_PER_FRAME} messages, got {len(messages)}"
        return [Bad(None, TokenrelayError("INVALID_REQUEST", issue))]
    return [_command(message, bounds) for message in messages]


def _decode(frame: str | bytes) -> Any:
    """Costs time and memory in proportion to the frame: unlike `msgpack`, `msgspec` makes no room for the items that an
    array's head promises before they are there, and 16,000 bytes of such heads cost 128 MiB."""
    if isinstance(frame, bytes):
        value = msgspec.msgpack.decode(frame)
        for message in value if isinstance(value, list) else [value]:
            if isinstance(message, dict) and not all(isinstance(name, (str, bytes)) for name in message):
                raise ValueError("the names of a message's fields are text")
        return value
    return json.loads(frame, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _command(message: Any, bounds: request.Bounds) -> Command:
    if not isinstance(message, dict):
        return Bad(None, TokenrelayError("INVALID_REQUEST", f"a message is an object, got {type(message).__name__}"))
    given, ref = message.get("ref"), None
    try:
        ref = _ref(given)
        return _of_type(message.get("type"), message, ref, bounds)
    except TokenrelayError as error:
        return Bad(ref, error)


def _of_type(kind: Any, message: dict[str, Any], ref: str | int | None, bounds: request.Bounds) -> Command:
    match kind:
        case "start":
            body = {name: value for name, value in message.items() if name not in ("type", "ref", "idempotency_key")}
            return Start(ref, request.from_object(body, bounds), idempotency_key(message.get("idempotency_key")))
        case "resume":
            return Resume(ref, _stream_id(message), cursor.parse(message.get("after")), _is_exact(message))
        case "cancel":
            return Cancel(ref, _stream_id(message))
        case "detach":
            return Detach(ref, _stream_id(message))
        case "ping":
            return Ping(ref)
        case _:
            raise _fault("type", "expected start, resume, cancel, detach or ping")


def _ref(value: Any) -> str | int | None:
    """What a client calls its own message. Raises TokenrelayError VALIDATION_ERROR."""
    if value is None or (isinstance(value, str) and len(value) <= MAX_REF_CHARACTERS):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= cursor.MAX_ID:
        return value
    raise _fault("ref", f"expected a string of at most {MAX_REF_CHARACTERS} characters or an integer up to 2^53-1")


def idempotency_key(value: Any) -> str | None:
    """A key as a client sent it, checked. Raises TokenrelayError VALIDATION_ERROR."""
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not value.isprintable():
        issue = "expected 1 to 255 printable characters"
        raise TokenrelayError("VALIDATION_ERROR", f"Idempotency-Key: {issue}", field="Idempotency-Key", issue=issue)
    return value


def _stream_id(message: dict[str, Any]) -> str:
    value = message.get("stream_id")
    if not isinstance(value, str):
        raise _fault("stream_id", "expected a string")
    if not keys.is_stream_id(value):
        raise TokenrelayError("NOT_FOUND")
    return value


def _is_exact(message: dict[str, Any]) -> bool:
    return parse_replay(message.get("replay")) == "exact"


def parse_replay(value: Any) -> str:
    """`exact` or `compact` (the default). Raises TokenrelayError VALIDATION_ERROR."""
    if value is None or value == "":
        return "compact"
    if value not in ("exact", "compact"):
        raise _fault("replay", "expected exact or compact")
    return str(value)


def _fault(field: str, issue: str) -> TokenrelayError:
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)


# -- server to client ------------------------------------------------------------------------------------------------


def message(dialect: Dialect, kind: str, **fields: Any) -> bytes:
    """One message; fields that are None are left out, but `ref` is not."""
    value = {"type": kind}
    value.update({name: item for name, item in fields.items() if item is not None or name == "ref"})
    if dialect.is_binary:
        return cast(bytes, msgpack.packb(value))
    return event_json.to_json(value).encode()


def error_message(
    dialect: Dialect, error: TokenrelayError, ref: str | int | None, stream_id: str | None = None
) -> bytes:
    """An error; where it is about a stream, that stream's id beside it."""
    fields = {"stream_id": stream_id, "retryable": error.row.retryable, **error.fields}
    return message(dialect, "error", ref=ref, error=error.message, error_code=error.code, **fields)


def frame(dialect: Dialect, bodies: Sequence[bytes], count: int) -> str | bytes:
    """`count` messages, joined in `bodies` by the dialect's separator, as one frame."""
    joined = bodies[0] if len(bodies) == 1 else dialect.events.separator.join(bodies)
    if dialect.is_binary:
        return joined if count == 1 else _array_head(count) + joined
    text = joined.decode()
    return text if count == 1 else f"[{text}]"


def _array_head(count: int) -> bytes:
    return cast(bytes, msgpack.Packer().pack_array_header(count))
