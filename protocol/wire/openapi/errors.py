"""The error table as responses."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from tokenrelay.protocol import errors
from tokenrelay.protocol.wire.openapi.parts import Json, count, object_schema, one_of_the_words, ref, seconds, text


def error_schema() -> Json:
    return object_schema(
        "What went wrong, the same for every path.",
        {
            "error": text("A sentence for people; tells no internals."),
            "error_code": one_of_the_words(errors.TABLE, "A row of the error table."),
            "request_id": text("As in the header `X-Request-Id`; quote it when you ask for help."),
        },
        {
            "field": text("Which field of the request is wrong."),
            "issue": text("What is wrong with it."),
            "retry_after": seconds("Seconds to wait before trying again; also in the header `Retry-After`."),
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "stream_id": text("The stream it is about."),
            "last_event_id": count("With `CURSOR_AHEAD`: the last event there is."),
            "max_bytes": count("With `PAYLOAD_TOO_LARGE`: the largest body taken."),
            "partial_response": text("What had been written before a whole answer failed."),
        },
    )


_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Final[dict[int, Json]] = {
    401: {"WWW-Authenticate": {"description": "The scheme to use.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods this path takes.", "schema": {"type": "string"}}},
    415: {"Accept-Encoding": {"description": "What is taken: `identity`.", "schema": {"type": "string"}}},
    426: {
        "Upgrade": {"description": "`websocket`.", "schema": {"type": "string"}},
        "Sec-WebSocket-Version": {"description": "`13`.", "schema": {"type": "string"}},
    },
    429: {
        **_RETRY_AFTER,
        "X-RateLimit-Limit": {"description": "How many are allowed.", "schema": {"type": "integer"}},
        "X-RateLimit-Remaining": {"description": "How many are left.", "schema": {"type": "integer"}},
        "X-RateLimit-Reset": {"description": "When the count begins anew.", "schema": {"type": "integer"}},
    },
    503: _RETRY_AFTER,
}


_OF_CHAT_ONLY: Final = frozenset({429, 502, 504})


def error_responses() -> dict[str, Json]:
    """One response a status, made from the rows of the table that have it."""
    rows = sorted(errors.ROWS, key=lambda row: row.status)
    by_status = groupby(rows, key=lambda row: row.status)
    return {str(status): _error_response(status, list(group)) for status, group in by_status}


def _error_response(status: int, rows: list[errors.Row]) -> Json:
    examples = {
        row.code: {"value": errors.TokenrelayError(row.code).body("0a1b2c3d4e5f6071"), "summary": row.meaning}
        for row in rows
    }
    response: Json = {
        "description": "; ".join(f"`{row.code}`: {row.meaning}" for row in rows),
        "content": {"application/json": {"schema": ref("Error"), "examples": examples}},
    }
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return _as_event_too(response) if status in _OF_CHAT_ONLY else response


def fails(*codes: str) -> Json:
    """The error responses of an operation; the last two are every operation's."""
    statuses = sorted({errors.TABLE[code].status for code in (*codes, "METHOD_NOT_ALLOWED", "INTERNAL_ERROR")})
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def fails_as_events(*codes: str) -> dict[str, Json]:
    """The same for `POST /api/chat`, whose caller may have asked for events: then the error is one."""
    known = error_responses()
    return {
        status: reference if int(status) in _OF_CHAT_ONLY else _as_event_too(known[status])
        for status, reference in fails(*codes).items()
    }


def _as_event_too(response: Json) -> Json:
    one_event = {"text/event-stream": {"schema": {"type": "string", "description": "One `ErrorEvent`."}}}
    return {**response, "content": {**response["content"], **one_event}}


def table_as_text() -> str:
    head = "| code | status | retry helps | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{row.code}` | {row.status} | {'yes' if row.retryable else 'no'} | {row.meaning} |" for row in errors.ROWS
    )
