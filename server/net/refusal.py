"""An error as an HTTP answer: the one place that writes its status, its head and its body. Knows no connection.

Whoever refuses says it in the same words and with the same headers: a handler, a WebSocket handshake, and the protocols
below them, which refuse what never becomes a request.
"""

from __future__ import annotations

import secrets
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import event_json, sse
from tokenrelay.server.access.origin import NOT_A_PAGE, SECURITY_HEADERS

Lines: TypeAlias = list[tuple[bytes, bytes]]

SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    # "Exactly one done:true event ends every stream, and then the connection closes."
    (b"connection", b"close"),
)


class Answer(msgspec.Struct, frozen=True):
    """A whole HTTP answer: its header lines have all but what belongs to the connection."""

    status: int
    headers: Lines
    body: bytes


def new_request_id() -> str:
    return secrets.token_hex(8)


def as_json(error: TokenrelayError, request_id: str) -> Answer:
    """As most callers read it."""
    body = event_json.to_json(error.body(request_id)).encode()
    head = [
        (b"content-type", b"application/json"), (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    ]  # fmt: skip
    return Answer(error.status, [*head, *_common(error, request_id)], body)


def as_event(error: TokenrelayError, request_id: str) -> Answer:
    """As one SSE event, for a client that reads events."""
    body = sse.encode_frame(event_json.to_json(error.event_data(request_id)))
    return Answer(error.status, [*SSE_HEADERS, *_common(error, request_id)], body)


def in_form(
    error: TokenrelayError, request_id: str, status: int, body: bytes, content_type: str, **more: str
) -> Answer:
    """As another client's dialect says it: status and body are the dialect's, the rest of the head is ours."""
    head = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
    head += [(b"content-length", str(len(body)).encode())]
    head += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    return Answer(status, [*head, *_common(error, request_id)], body)


def as_bytes(error: TokenrelayError, request_id: str | None = None) -> bytes:
    """As it stands on the wire; the connection closes behind it."""
    answer = as_json(error, request_id or new_request_id())
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}".encode(),
        b"date: " + formatdate(usegmt=True).encode(),  # RFC 9110 section 6.6.1
        *(b": ".join(line) for line in answer.headers),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", answer.body])


def _common(error: TokenrelayError, request_id: str) -> Lines:
    said = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers_of(error).items()]
    return [*SECURITY_HEADERS, NOT_A_PAGE, (b"x-request-id", request_id.encode()), *said]


def headers_of(error: TokenrelayError) -> dict[str, str]:
    """What an error says in its head as well as in its body."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.code == "RATE_LIMIT":
        limits = (
            ("limit", "x-ratelimit-limit"),
            ("remaining", "x-ratelimit-remaining"),
            ("reset", "x-ratelimit-reset"),
        )
        headers |= {name: str(error.fields[field]) for field, name in limits if field in error.fields}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="tokenrelay"'  # RFC 9110 section 11.6.1
    if error.status == 415:
        headers["accept-encoding"] = "identity"  # RFC 9110 section 15.5.16
    if error.status == 426:
        headers |= {"upgrade": "websocket", "sec-websocket-version": "13"}  # RFC 9110 section 15.5.22
    return headers
