"""Every error a client can get, as one table; does not know where in the code it happens."""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One kind of error: its HTTP status, whether trying again can help, and how a WebSocket says it.

    `close_code` is None where the socket stays open and the error is a message on it
    (RFC 6455 section 7.4; 4xxx is the private range, 4000 + HTTP status here).
    """

    code: str
    status: int
    retryable: bool
    meaning: str
    close_code: int | None = None


ROWS: Final = (
    Row("INVALID_REQUEST", 400, False, "the request is not well formed"),
    Row("INVALID_CURSOR", 400, False, "the cursor is not an event id"),
    Row("UNAUTHORIZED", 401, False, "no valid key or ticket came with the request", 4401),
    Row("FORBIDDEN", 403, False, "the key, the ticket or the web page's origin does not allow this", 4403),
    Row("NOT_FOUND", 404, False, "there is no such stream, or it is not yours"),
    Row("METHOD_NOT_ALLOWED", 405, False, "the path does not take this method"),
    Row("CURSOR_AHEAD", 409, False, "the cursor is beyond the last event"),
    Row("STREAM_EXPIRED", 410, False, "the stream is past its retention"),
    Row("PAYLOAD_TOO_LARGE", 413, False, "the request is larger than the server takes", 1009),
    Row("UNSUPPORTED_MEDIA_TYPE", 415, False, "the body is encoded in a way the server does not take"),
    Row("VALIDATION_ERROR", 422, False, "a field has a value it cannot have"),
    Row("UPGRADE_REQUIRED", 426, False, "the path speaks WebSocket, version 13"),
    Row("RATE_LIMIT", 429, True, "too many requests; try again later"),
    Row("INTERNAL_ERROR", 500, True, "something went wrong here", 1011),
    Row("PROVIDER_ERROR", 502, True, "the model's provider failed"),
    Row("WORKER_LOST", 502, True, "the worker that wrote the answer is gone"),
    Row("OVERLOADED", 503, True, "too much is waiting already; try again later"),
    Row("SERVICE_UNAVAILABLE", 503, True, "a part that is needed cannot be reached now", 1013),
    Row("TIMEOUT", 504, True, "it took longer than is allowed"),
)
TABLE: Final[dict[str, Row]] = {row.code: row for row in ROWS}


class TokenrelayError(Exception):
    """A refusal with a row in the table. `message` is a sentence for the client; `fields` go beside it.

    >>> TokenrelayError("VALIDATION_ERROR", "expected a string", field="message", issue="expected `str`").status
    422
    """

    def __init__(self, code: str, message: str | None = None, **fields: Any) -> None:
        self.row = TABLE[code]
        self.message = message or self.row.meaning
        self.fields = {name: value for name, value in fields.items() if value is not None}
        super().__init__(f"{code}: {self.message}")

    @property
    def code(self) -> str:
        return self.row.code

    @property
    def status(self) -> int:
        return self.row.status

    @property
    def retry_after_s(self) -> float | None:
        value = self.fields.get("retry_after")
        return float(value) if value is not None else None

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON object of an HTTP answer."""
        return {"error": self.message, "error_code": self.code, "request_id": request_id, **self.fields}

    def event_data(self, request_id: str) -> dict[str, Any]:
        """The same object as the one event of an SSE answer: a client that only appends `token` stays whole."""
        return {"token": "", "done": True, "retryable": self.row.retryable, **self.body(request_id)}


def unreadable() -> TokenrelayError:
    """A stream of which something is stored that nobody of ours wrote; to ask again would not help."""
    return TokenrelayError("INTERNAL_ERROR", "what is stored of this stream cannot be read", retryable=False)


def invalid(field: str, issue: str) -> TokenrelayError:
    """A field that has a value it cannot have."""
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)
