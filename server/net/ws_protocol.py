"""The opening handshake of `websockets`, refusing in the form of our table. Knows no connection."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import event_json


class Handshake(ServerProtocol):
    """Refuses in the form of our table."""

    def reject(self, status: Any, text: str) -> Response:
        code = {405: "METHOD_NOT_ALLOWED", 500: "INTERNAL_ERROR"}.get(int(status), "INVALID_REQUEST")
        reason = text.split("\n", 1)[0] if code == "INVALID_REQUEST" else None
        error = TokenrelayError(code, reason)
        request_id = secrets.token_hex(8)
        body = event_json.to_json(error.body(request_id)).encode()
        headers = Headers({
            "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
            "X-Request-Id": request_id, "Cache-Control": "no-store",
        })  # fmt: skip
        return Response(error.status, HTTPStatus(error.status).phrase, headers, body)
