"""All routes on one screen."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.exposition import Slot
from tokenrelay.protocol.wire import event_json, openapi
from tokenrelay.server.api import chat, health, streams, tickets
from tokenrelay.server.edge import Edge, open_edge
from tokenrelay.server.fronts import chat_completions, responses, ui
from tokenrelay.server.http import Call, Endpoint, ErrorForm, Handler
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.upgrade import WebSocketEndpoint
from tokenrelay.server.web import pages

_OPENAPI: Final = event_json.to_json(openapi.DOCUMENT).encode()

ROUTES: Final[dict[str, dict[str, Handler]]] = {
    "/api/chat": {"POST": lambda call: _chat(call)},
    "/api/streams": {"GET": streams.streams},
    "/api/streams/{stream_id}": {"GET": streams.stream, "DELETE": streams.cancel},
    "/api/streams/{stream_id}/cancel": {"POST": streams.cancel},
    "/api/tickets": {"POST": tickets.ticket},
    "/api/models": {"GET": lambda call: call.json(200, {"models": call.edge.models.listing()})},
    "/healthz": {"GET": health.alive},
    "/readyz": {"GET": health.ready},
    "/metrics": {"GET": health.counters},
    "/openapi.json": {"GET": lambda call: call.answer(200, _OPENAPI, "application/json")},
    "/docs": {"GET": pages.docs},
    "/": {"GET": pages.chat},
}
FRONTS: Final[dict[str, tuple[ErrorForm, dict[str, Handler]]]] = {
    "/v1/chat/completions": (chat_completions.ERRORS, {"POST": chat_completions.completions}),
    "/v1/chat/completions/{completion_id}": (
        chat_completions.ERRORS, {"GET": chat_completions.completion, "DELETE": chat_completions.delete},
    ),
    "/v1/models": (chat_completions.ERRORS, {"GET": chat_completions.models}),
    "/v1/models/{model_id:path}": (chat_completions.ERRORS, {"GET": chat_completions.model}),
    "/v1/responses": (responses.ERRORS, {"POST": responses.create}),
    "/v1/responses/{response_id}": (responses.ERRORS, {"GET": responses.retrieve, "DELETE": responses.delete}),
    "/v1/responses/{response_id}/cancel": (responses.ERRORS, {"POST": responses.cancel}),
    "/v1/responses/{response_id}/input_items": (responses.ERRORS, {"GET": responses.input_items}),
    "/api/ui/chat": (ui.errors, {"POST": ui.chat}),
    "/api/ui/chat/{chat_id:path}/stream": (ui.errors, {"GET": ui.stream, "DELETE": ui.stop}),
    "/api/ui/chat/{chat_id:path}/stop": (ui.errors, {"POST": ui.stop}),
    "/api/chat/{chat_id:path}/stream": (ui.errors, {"GET": ui.stream, "DELETE": ui.stop}),
    "/api/chat/{chat_id:path}/stop": (ui.errors, {"POST": ui.stop}),
}  # fmt: skip
"""Dialects of other clients, each with errors in its own form: OpenAI's SDKs (base URL `/v1`), the AI SDK's `useChat`.
Their vendors' pages describe them, so they are not in our OpenAPI document."""

STATIC: Final[dict[str, Handler]] = {"GET": pages.static}
"""`/static/…`: what the pages are made of. Part of them and not of the interface, so not in the OpenAPI document."""


async def _chat(call: Call) -> None:
    """`POST /api/chat`, for our own clients and for the AI SDK's `useChat`, whose default path it is."""
    await chat.chat(call, ui)


class App:
    """The edge as one plain ASGI application; `edge` is there while the lifespan is."""

    def __init__(
        self, settings: Settings, *, on_ready: Callable[[Edge], None] | None = None, slot: Slot | None = None
    ) -> None:
        self._settings = settings
        self._slot = slot  # None unless it is one of several on this port
        self._on_ready = on_ready
        self._router: Router | None = None  # None outside the lifespan
        self._lifespan = Router(lifespan=self._run)

    @contextlib.asynccontextmanager
    async def _run(self, _: Any) -> AsyncIterator[None]:
        async with open_edge(self._settings, self._slot) as edge:
            routes: list[Any] = [Route(path, Endpoint(edge, handlers)) for path, handlers in ROUTES.items()]
            routes += [
                Route(path, Endpoint(edge, handlers, error_form=errors)) for path, (errors, handlers) in FRONTS.items()
            ]
            routes.append(Route("/static/{name:path}", Endpoint(edge, STATIC)))
            socket = WebSocketEndpoint(edge)
            routes += [WebSocketRoute("/api/ws", socket), Route("/api/ws", socket)]
            self._router = Router(routes, redirect_slashes=False, default=_Elsewhere(edge, socket))
            if self._on_ready is not None:
                self._on_ready(edge)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif self._router is not None:
            await self._router(scope, receive, send)


class _Elsewhere:
    """Any other path, over HTTP and WebSocket."""

    def __init__(self, edge: Edge, socket: WebSocketEndpoint) -> None:
        self._http = Endpoint(edge, {}, otherwise=_not_found)
        self._socket = socket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket.deny(scope, receive, send, _nothing_here())
        else:
            await self._http(scope, receive, send)


async def _not_found(_: Call) -> None:
    raise _nothing_here()


def _nothing_here() -> TokenrelayError:
    return TokenrelayError("NOT_FOUND", "there is nothing at this path")
