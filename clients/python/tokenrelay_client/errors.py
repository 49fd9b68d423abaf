"""What reading an answer can fail with; knows the error table of the wire, not where in the client it happened.

Source: protocol/README.md, section 6. A code that is not in the table is judged by its HTTP status (section 9). The
server has the table too; both are held to the test vectors of `protocol/vectors/errors.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Row(NamedTuple):
    """One kind of error: its HTTP status, and whether trying again can help."""

    status: int
    retryable: bool


TABLE: Final = {
    "INVALID_REQUEST": Row(400, False),
    "INVALID_CURSOR": Row(400, False),
    "UNAUTHORIZED": Row(401, False),
    "FORBIDDEN": Row(403, False),
    "NOT_FOUND": Row(404, False),
    "METHOD_NOT_ALLOWED": Row(405, False),
    "CURSOR_AHEAD": Row(409, False),
    "STREAM_EXPIRED": Row(410, False),
    "PAYLOAD_TOO_LARGE": Row(413, False),
    "UNSUPPORTED_MEDIA_TYPE": Row(415, False),
    "VALIDATION_ERROR": Row(422, False),
    "UPGRADE_REQUIRED": Row(426, False),
    "RATE_LIMIT": Row(429, True),
    "INTERNAL_ERROR": Row(500, True),
    "PROVIDER_ERROR": Row(502, True),
    "WORKER_LOST": Row(502, True),
    "OVERLOADED": Row(503, True),
    "SERVICE_UNAVAILABLE": Row(503, True),
    "TIMEOUT": Row(504, True),
}

FINAL_CLOSES: Final = {1009: "PAYLOAD_TOO_LARGE", 4401: "UNAUTHORIZED", 4403: "FORBIDDEN"}
"""Closes of a socket that are the server's last word, and what each of them says (section 5). Every other may be a
proxy's, and is a drop."""


class TokenrelayError(Exception):
    """The base of the three below.

    `code` is a row of the error table, one that is newer than this client, or `UNREACHABLE`; `status` its HTTP status
    (0 where no server answered); `retry_after` in seconds, None where nothing was said; `details` the server's object:
    `field`, `issue`, `last_event_id`, `request_id` and the like.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        row = TABLE.get(code)
        self.code = code
        self.status = status if status is not None else row.status if row else 500
        known = row.retryable if row else self.status >= 500 or self.status == 429
        self.retryable = known if retryable is None else retryable
        self.retry_after = retry_after
        self.details = dict(details or {})


class Refused(TokenrelayError):
    """The server said no to a request, and asking again would not help or has not helped."""


class Failed(TokenrelayError):
    """The answer itself failed: its last event is an error. What was written is kept."""


class Unreachable(TokenrelayError):
    """No server answered; the message says why not. What had come is kept, and `last_event_id` says how far."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__("UNREACHABLE", message, status=0, retryable=retryable)


def is_ours(problem: Mapping[str, Any] | None) -> bool:
    """Whether an answer's object is the server's word. A proxy's page has no `error_code`, and says nothing of a
    stream."""
    return problem is not None and isinstance(problem.get("error_code"), str)


def refusal_of(problem: Mapping[str, Any], status: int | None, retry_after: str | None = None) -> Refused:
    """The error of an HTTP answer that is ours, or of a message (`status` None)."""
    code = str(problem.get("error_code") or _code_of(status))
    message = str(problem.get("error") or f"the server answered {status}")
    advice = seconds_of(problem.get("retry_after", retry_after))
    retryable = problem.get("retryable")
    known = retryable if isinstance(retryable, bool) else None
    return Refused(code, message, status=status, retryable=known, retry_after=advice, details=problem)


def failure_of(data: Mapping[str, Any]) -> Failed:
    """The error of a last event that has an `error_code`."""
    return Failed(
        str(data["error_code"]),
        str(data.get("error", "the answer failed")),
        retryable=data.get("retryable"),
        retry_after=seconds_of(data.get("retry_after")),
        details=data,
    )


def may_pass(error: TokenrelayError, is_cursor_ours: bool) -> bool:
    """Whether the same request may succeed in a moment. `is_cursor_ours`: the server itself gave the cursor."""
    # "Redis has lost a tail in a failover and the stream's worker is writing it again: try again a few times."
    if error.code == "CURSOR_AHEAD":
        return is_cursor_ours
    # A model that no worker offers (`field`) is not there a second later either.
    return error.retryable and "field" not in error.details


def _code_of(status: int | None) -> str:
    return next((code for code, row in TABLE.items() if row.status == status), "INTERNAL_ERROR")


def seconds_of(value: Any) -> float | None:
    """`Retry-After` may also be a date, which only a proxy sends: then the wait is ours to choose."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
