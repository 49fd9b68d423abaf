"""What reading an answer can fail with; knows the error table of the wire, not where in the client it happened.

Source: protocol/README.md, section 6. A code that is not in the table is judged by its HTTP status (section 9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from tokenrelay.protocol.errors import ROWS, TABLE

FINAL_CLOSES: Final = {
    1000: "SERVICE_UNAVAILABLE",
    1003: "INVALID_REQUEST",
    1007: "INVALID_REQUEST",
    1009: "PAYLOAD_TOO_LARGE",
    4401: "UNAUTHORIZED",
    4403: "FORBIDDEN",
}
"""Closes of a socket after which a client does not come back (section 5), and what each of them says."""


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
    """No server for longer than the patience; what had come is kept, and `last_event_id` says how far."""

    def __init__(self, message: str) -> None:
        super().__init__("UNREACHABLE", message, status=0, retryable=True)


def refusal_of(problem: Mapping[str, Any], status: int | None, retry_after: str | None = None) -> Refused:
    """The error of an HTTP answer, or of a message (`status` None). `problem` is empty where it is none of ours (a
    proxy's page)."""
    code = str(problem.get("error_code") or _code_of(status))
    message = str(problem.get("error") or f"the server answered {status}")
    advice = _seconds(problem.get("retry_after", retry_after))
    retryable = problem.get("retryable")
    return Refused(code, message, status=status, retryable=retryable, retry_after=advice, details=problem)


def failure_of(data: Mapping[str, Any]) -> Failed:
    """The error of a last event that has an `error_code`."""
    return Failed(
        str(data["error_code"]),
        str(data.get("error", "the answer failed")),
        retryable=data.get("retryable"),
        retry_after=_seconds(data.get("retry_after")),
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
    return next((row.code for row in ROWS if row.status == status), "INTERNAL_ERROR")


def _seconds(value: Any) -> float | None:
    """`Retry-After` may also be a date, which only a proxy sends: then the wait is ours to choose."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
