"""The WebSocket's handshake: who comes in, in which dialect, and how long a socket is served. Reads no command."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import websocket
from tokenrelay.protocol.wire.websocket import Dialect
from tokenrelay.server import http
from tokenrelay.server.access import origin
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.access.limits import raise_if_crowded
from tokenrelay.server.edge import Edge
from tokenrelay.server.net import peer, refusal
from tokenrelay.server.transports.websocket import Socket

DENIED_S: Final = 5.0

log = structlog.get_logger()


class WebSocketEndpoint:
    """`WS /api/ws`. A plain ASGI application."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            # Whoever meant to upgrade may have sent more than a request: nothing is read from it as another one.
            await http.Endpoint(self._edge, {"GET": _upgrade_required}, is_last=True)(scope, receive, send)
            return
        identity: Identity | None = None  # until it is admitted
        try:
            identity, dialect = await self._admit(scope)
            with self._edge.connection(identity):
                await self._open(scope, receive, send, identity, dialect)  # raises none of ours
        except TokenrelayError as error:
            await self.deny(scope, receive, send, error)
        except asyncio.CancelledError:
            # The edge goes; who was not admitted yet has been told so (`ws_protocol.WebSocketProtocol.shutdown`).
            if identity is not None:
                raise

    async def _open(self, scope: Scope, receive: Receive, send: Send, identity: Identity, dialect: Dialect) -> None:
        await receive()  # websocket.connect
        chosen = dialect.subprotocol if dialect.subprotocol in scope["subprotocols"] else None
        given = _context(scope)  # of the headers, which are not kept
        await send({"type": "websocket.accept", "subprotocol": chosen})
        peer.hold_little(send)
        await self._serve(Socket(self._edge, dialect, identity, send, given), receive)

    async def deny(self, scope: Scope, receive: Receive, send: Send, error: TokenrelayError) -> None:
        """Refuse the handshake with the HTTP answer the same call would have had (ASGI: Websocket Denial Response)."""
        request_id = http.request_id_of(Headers(scope=scope))
        self._edge.refused(error, "ws", request_id)
        await receive()  # websocket.connect
        answer = refusal.as_json(error, request_id)
        await send({"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "websocket.http.response.body", "body": answer.body})
        # uvicorn takes a denied handshake for an unfinished one, and logs that, until the connection is lost: the
        # first of these messages says that we closed, the second that it is.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DENIED_S):
                await receive()
                await receive()

    async def _admit(self, scope: Scope) -> tuple[Identity, Dialect]:
        raise_if_crowded(scope)
        headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
        settings = self._edge.settings
        origin.check(headers, settings, origin.scheme_of(scope.get("client"), headers, settings))
        identity = await self._edge.auth.identify_with_ticket(headers.get("authorization"), query.get("ticket"))
        self._edge.raise_if_draining()
        offered = scope["subprotocols"]
        for name in offered:
            if name in websocket.DIALECTS:
                return identity, websocket.DIALECTS[name]
        if offered:
            raise TokenrelayError("INVALID_REQUEST", f"expected a subprotocol of {', '.join(websocket.DIALECTS)}")
        return identity, websocket.JSON

    async def _serve(self, socket: Socket, receive: Receive) -> None:
        self._edge.enter(socket)
        gauge = self._edge.metrics.sessions.labels("ws")
        gauge.inc()
        reading = asyncio.create_task(socket.read(receive))
        reading.add_done_callback(socket.on_read_done)
        try:
            await socket.write()
        except OSError:
            pass  # the client has gone while we wrote: uvicorn's ClientDisconnected
        except Exception as error:
            log.error("socket_failed", error=repr(error))
        finally:
            gauge.dec()
            self._edge.connections.discard(socket)
            socket.detach_all()
            reading.cancel()
            [result] = await asyncio.gather(reading, return_exceptions=True)
            if isinstance(result, Exception) and not isinstance(result, OSError):
                log.error("socket_failed", error=repr(result))


def _context(scope: Scope) -> Context:
    headers = Headers(scope=scope)
    return http.context_of(headers, http.request_id_of(headers))


async def _upgrade_required(_: http.Call) -> None:
    raise TokenrelayError("INVALID_REQUEST", "this path speaks WebSocket; send an upgrade")
