"""What OpenAI's two dialects share: errors in their form, and parameters that are taken, passed over or refused.

Source: https://platform.openai.com/docs/api-reference and the official SDKs (openai-python, openai-node).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts.names import Names
from tokenrelay.protocol.wire import event_json, large_json

CODES: Final[dict[str, tuple[int, str, str]]] = {
    "INVALID_REQUEST": (400, "invalid_request_error", "invalid_request"),
    "INVALID_CURSOR": (400, "invalid_request_error", "invalid_cursor"),
    "VALIDATION_ERROR": (400, "invalid_request_error", "invalid_value"),
    "CURSOR_AHEAD": (400, "invalid_request_error", "cursor_ahead"),  # the SDKs would repeat a 409
    "UNAUTHORIZED": (401, "invalid_request_error", "invalid_api_key"),
    "FORBIDDEN": (403, "invalid_request_error", "forbidden"),
    "NOT_FOUND": (404, "invalid_request_error", "not_found"),
    "RATE_LIMIT": (429, "rate_limit_error", "rate_limit_exceeded"),
}
"""Status, `type` and `code` of an error of ours; what is not here keeps its status and is a `server_error`."""


def unsupported(name: str, why: str) -> TokenrelayError:
    """A parameter that would change the answer and is not taken."""
    return TokenrelayError(
        "VALIDATION_ERROR", f"{name}: {why}", field=name, issue=why, api_code="unsupported_parameter"
    )


def error_object(error: TokenrelayError) -> dict[str, Any]:
    """`{error: {message, type, param, code}}`."""
    status, kind, code = CODES.get(error.code, (error.status, "server_error", error.code.lower()))
    field = error.fields.get("field")
    if error.code == "VALIDATION_ERROR" and field == "model" and error.fields.get("unknown"):
        code = "model_not_found"
    if status >= 500:
        kind = "server_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": field,
            "code": error.fields.get("api_code", code),
        }
    }


def status_of(error: TokenrelayError) -> int:
    """The HTTP status on an OpenAI front."""
    if error.code == "VALIDATION_ERROR" and error.fields.get("field") == "model" and error.fields.get("unknown"):
        return 404
    return int(error.fields.get("api_status", CODES.get(error.code, (error.status, "", ""))[0]))


def failure_object(code: str, message: str, field: str | None = None, names: Names | None = None) -> dict[str, Any]:
    """The error object of a stream that failed, by the row of our table that its end names."""
    try:
        return error_object((names or Names()).renamed(TokenrelayError(code, message, field=field)))
    except KeyError:
        return error_object(TokenrelayError("INTERNAL_ERROR", message))


def decode(raw: bytes) -> dict[str, Any]:
    """A body as an object. Raises TokenrelayError INVALID_REQUEST."""
    try:
        return large_json.decode(raw, dict[str, Any])
    except msgspec.ValidationError as error:
        raise TokenrelayError("INVALID_REQUEST", "the body is not a JSON object") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise TokenrelayError("INVALID_REQUEST", f"the body is not JSON: {said}") from error


def frame(value: Any) -> bytes:
    """One SSE event without a name."""
    return b"data: " + event_json.to_json(value).encode() + b"\n\n"
