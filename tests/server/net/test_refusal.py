"""An error as an HTTP answer: whoever refuses, its head is the same."""

from __future__ import annotations

import json

import pytest

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.server.net import refusal

PROMISED = {
    b"x-content-type-options", b"referrer-policy", b"x-frame-options", b"cross-origin-resource-policy",
    b"content-security-policy", b"x-request-id",
}  # fmt: skip


@pytest.mark.parametrize("code", TABLE)
def test_every_row_has_the_promised_headers_in_each_form(code: str) -> None:
    error = TokenrelayError(code, "no", retry_after=2)
    for answer in (refusal.as_json(error, "r1"), refusal.as_event(error, "r1")):
        assert answer.status == TABLE[code].status
        assert {name for name, _ in answer.headers} >= PROMISED
        assert len({name for name, _ in answer.headers}) == len(answer.headers)
        assert (b"retry-after", b"2") in answer.headers
        assert b'"error_code":"%b"' % code.encode() in answer.body
    head, _, body = refusal.as_bytes(error, "r1").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % TABLE[code].status)
    assert f"content-length: {len(body)}".encode() in head
    assert b"connection: close" in head
    assert json.loads(body)["request_id"] == "r1"
    assert all(name in head for name in PROMISED)


@pytest.mark.parametrize(
    ("code", "header"),
    [
        ("UNAUTHORIZED", (b"www-authenticate", b'Bearer realm="tokenrelay"')),
        ("UNSUPPORTED_MEDIA_TYPE", (b"accept-encoding", b"identity")),
        ("UPGRADE_REQUIRED", (b"sec-websocket-version", b"13")),
        ("UPGRADE_REQUIRED", (b"upgrade", b"websocket")),
    ],
)
def test_some_rows_say_what_would_do(code: str, header: tuple[bytes, bytes]) -> None:
    assert header in refusal.as_json(TokenrelayError(code), "r1").headers
