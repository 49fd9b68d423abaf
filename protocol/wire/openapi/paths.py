"""Every call: its parameters, its bodies, its answers."""

from __future__ import annotations

from typing import Any, Final

from tokenrelay.protocol import events
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.wire import cursor, event_json, sse, websocket
from tokenrelay.protocol.wire.openapi.errors import fails, fails_as_events
from tokenrelay.protocol.wire.openapi.parts import AT_MS, MODEL, STREAM_ID, Json, object_schema, ref

_ID: Final = {
    "name": "stream_id", "in": "path", "required": True, "description": "The stream's id.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"}, "example": STREAM_ID,
}  # fmt: skip
_KEY: Final = {
    "name": "Idempotency-Key", "in": "header",
    "description": "A repeated call with the same key and body attaches to the same generation, never starts a second.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}  # fmt: skip
_DEBUG_TIMING: Final = {
    "name": "X-Debug-Timing", "in": "header", "description": "`1`: the completion tells where the time went.",
    "schema": {"type": "string"},
}  # fmt: skip
_TRACEPARENT: Final = {
    "name": "traceparent", "in": "header", "schema": {"type": "string"},
    "description": "W3C Trace Context; taken up where the operator collects traces. One that is not valid is ignored.",
}  # fmt: skip
_CURSORS: Final = (
    f"The id of the last event the client has, 0 to {cursor.MAX_ID}. From the start: nothing, `0`, `-` or `-1`."
)
_AFTER: Final = {"name": "after", "in": "query", "description": _CURSORS, "schema": {"type": "string"}}
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID", "in": "header", "description": _CURSORS + " Goes before `after`.",
    "schema": {"type": "string"}, "example": "42",
}  # fmt: skip
_REPLAY: Final = {
    "name": "replay", "in": "query",
    "description": "`exact` gives every event as first sent; `compact` joins consecutive tokens of the backlog.",
    "schema": {"type": "string", "enum": ["compact", "exact"], "default": "compact"},
}  # fmt: skip

_STREAM_HEADERS: Final = {
    "X-Stream-Id": {"description": "The stream's id.", "schema": {"type": "string"}},
    "Location": {"description": "Where to come back to it.", "schema": {"type": "string"}},
}


def _json(name: str, description: str, example: Any = None, headers: Json | None = None) -> Json:
    content: Json = {"schema": ref(name)}
    if example is not None:
        content["example"] = example
    response: Json = {"description": description, "content": {"application/json": content}}
    if headers is not None:
        response["headers"] = headers
    return response


def _example_entries() -> list[entries.Entry]:
    """A short answer with a tool call in it."""
    call = {"expression": "6*7"}
    told: list[events.Event] = [
        events.Started(AT_MS, MODEL),
        events.Token(AT_MS + 20, MODEL, "w0 "),
        events.ToolCall(AT_MS + 21, MODEL, "call_0", "calculator", call),
        events.ToolResult(AT_MS + 22, MODEL, "call_0", "calculator", call, "42"),
        events.Token(AT_MS + 40, MODEL, "w1 "),
        events.Completion(
            AT_MS + 41, MODEL, "scripted", "Scripted", "stop", 1, 2, 0.041, usage=events.usage(1, 2),
        ),
    ]  # fmt: skip
    return [entries.unpack_entry(entries.pack(event)) for event in told]


def _example_stream(*, accepted: bool) -> str:
    """The same answer as bytes on the wire."""
    frames = [sse.encode_retry(1_500)]
    if accepted:
        frames.append(sse.encode_frame(event_json.to_json(event_json.accepted_data(STREAM_ID, MODEL, AT_MS))))
    for entry_id, entry in enumerate(_example_entries(), 1):
        frames.append(sse.encode_frame(event_json.json_of(entry, STREAM_ID), entry_id))
    return b"".join(frames).decode()


def _event_stream(*, accepted: bool) -> Json:
    return {
        "schema": {
            "type": "string",
            "description": "Server-Sent Events. Each is a line `id: N`, a line `data: {JSON}` and a blank line; the "
            "JSON is an `Event`. After 15 s of silence comes a comment (`: hb`). One event with `done` true ends it.",
        },
        "x-event-schema": ref("Event"),
        "example": _example_stream(accepted=accepted),
    }


_ANSWER_EXAMPLE: Final = {
    "response": "w0 w1 ",
    **{name: value for name, value in event_json.data_of(_example_entries()[-1], STREAM_ID).items()
       if name not in ("token", "done", "timestamp")},
    "tool_calls": [{"tool_name": "calculator", "tool_input": {"expression": "6*7"}, "tool_call_id": "call_0",
                    "tool_result": "42"}],
}  # fmt: skip
_CHAT_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": ref("ChatRequest"),
            "examples": {
                "stream": {
                    "summary": "Streamed, NeuroSwitch chooses",
                    "value": {"message": "Why is the sky blue?", "stream": True},
                },
                "conversation": {
                    "summary": "A conversation with a named model",
                    "value": {
                        "model": "claude",
                        "messages": [
                            {"role": "user", "content": "What is 6*7?"},
                            {"role": "assistant", "content": "42"},
                            {"role": "user", "content": "And twice that?"},
                        ],
                        "max_tokens": 200,
                        "enable_tools": True,
                        "stream": True,
                    },
                },
                "scripted": {
                    "summary": "No model at all: the script for tests",
                    "value": {"message": "hello", "model": "scripted?tokens=200&interval_ms=20", "stream": True},
                },
            },
        }
    },
}


_OPEN: Final[list[Json]] = []
"""No key needed, whatever the server's settings."""

_OR_TICKET: Final[list[Json]] = [{"bearer": []}, {"apiKey": []}, {"ticket": []}, {}]


def _operation(tag: str, name: str, summary: str, responses: Json, **more: Any) -> Json:
    return {"tags": [tag], "operationId": name, "summary": summary, **more, "responses": responses}


def _plain(name: str, summary: str, media_type: str, description: str) -> Json:
    answer = {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}
    return _operation("service", name, summary, {"200": answer, **fails()}, security=_OPEN)


_CANCELLED: Final = {
    "200": _json("StreamState", "The cancel is stored.", {"stream_id": STREAM_ID, "state": "cancelling"}),
    **fails("UNAUTHORIZED", "NOT_FOUND", "STREAM_EXPIRED", "SERVICE_UNAVAILABLE"),
}
_CANCEL_TEXT: Final = "From any device, before, during or after the start; repeating it changes nothing."

PATHS: Final[dict[str, Json]] = {
    "/api/chat": {
        "post": _operation(
            "streams", "startChat", "Start a generation",
            {
                "200": {
                    "description": "Events with `stream: true`, else one JSON object once the answer is whole.",
                    "headers": _STREAM_HEADERS,
                    "content": {
                        "text/event-stream": _event_stream(accepted=True),
                        "application/json": {"schema": ref("Answer"), "example": _ANSWER_EXAMPLE},
                    },
                },
                "204": {"description": "A repeated call whose `Last-Event-ID` is the stream's end: nothing follows."},
                **fails_as_events(
                    "INVALID_REQUEST", "UNAUTHORIZED", "FORBIDDEN", "CURSOR_AHEAD", "STREAM_EXPIRED",
                    "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "VALIDATION_ERROR", "RATE_LIMIT", "PROVIDER_ERROR",
                    "OVERLOADED", "TIMEOUT",
                ),
            },
            description="With `stream: true` and an `Accept` that does not name JSON, errors come with the same "
            "status as one `ErrorEvent`.",
            parameters=[_KEY, _DEBUG_TIMING, _TRACEPARENT], requestBody=_CHAT_BODY,
        )
    },
    "/api/streams": {
        "get": _operation(
            "streams", "listStreams", "The caller's own streams, newest first",
            {
                "200": _json("StreamList", "All that have not expired.", {"streams": [
                    {"stream_id": STREAM_ID, "state": "running", "model": MODEL,
                     "created_at": event_json.timestamp(AT_MS), "last_event_id": 3},
                ]}),
                **fails("UNAUTHORIZED", "SERVICE_UNAVAILABLE"),
            },
        )
    },
    "/api/streams/{stream_id}": {
        "parameters": [_ID],
        "get": _operation(
            "streams", "readStream", "Resume a stream, join it late, or look at it",
            {
                "200": {
                    "description": "What follows the cursor, then live; or with `Accept: application/json` the stream "
                    "as it stands.",
                    "headers": _STREAM_HEADERS,
                    "content": {
                        "text/event-stream": _event_stream(accepted=False),
                        "application/json": {"schema": ref("Snapshot")},
                    },
                },
                "204": {"description": "The cursor is the stream's end: nothing follows. An `EventSource` stops."},
                **fails("INVALID_CURSOR", "UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "CURSOR_AHEAD", "STREAM_EXPIRED",
                         "VALIDATION_ERROR", "SERVICE_UNAVAILABLE"),
            },
            parameters=[_LAST_EVENT_ID, _AFTER, _REPLAY], security=_OR_TICKET,
        ),
        "delete": _operation("streams", "deleteStream", "Stop a generation for good", _CANCELLED,
                             description=_CANCEL_TEXT),
    },
    "/api/streams/{stream_id}/cancel": {
        "parameters": [_ID],
        "post": _operation("streams", "cancelStream", "Stop a generation for good", _CANCELLED,
                           description=_CANCEL_TEXT),
    },
    "/api/tickets": {
        "post": _operation(
            "streams", "makeTicket", "A short-lived pass for what cannot send headers",
            {
                "200": _json("Ticket", "The ticket.", {
                    "ticket": "eyJhbGciOiJIUzI1NiJ9.e30.sig", "expires_in": 60,
                    "expires_at": event_json.timestamp(AT_MS + 60_000),
                }),
                **fails("INVALID_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "STREAM_EXPIRED", "PAYLOAD_TOO_LARGE",
                         "UNSUPPORTED_MEDIA_TYPE", "VALIDATION_ERROR", "SERVICE_UNAVAILABLE"),
            },
            description="For `EventSource` and a browser's WebSocket: `?ticket=`.",
            requestBody={"content": {"application/json": {
                "schema": ref("TicketRequest"), "example": {"stream_id": STREAM_ID},
            }}},
        )
    },
    "/api/models": {
        "get": _operation(
            "models", "listModels", "The models that can be named, and which can answer now",
            {
                "200": _json("ModelList", "The catalogue.", {"models": [
                    {"id": "scripted", "names": [], "provider": "Scripted", "resolved_model": "scripted",
                     "streaming": True, "speed": "Very Fast", "tools": True, "available": True, "circuit": "closed",
                     "ttft_ms": None, "context": None, "price": {"input": 0.0, "output": 0.0}},
                ]}),
                **fails(),
            },
            security=_OPEN,
        )
    },
    "/api/ws": {
        "get": _operation(
            "streams", "openSocket", "Many streams on one WebSocket",
            {
                "101": {"description": "The socket is open."},
                **fails("INVALID_REQUEST", "UNAUTHORIZED", "UPGRADE_REQUIRED", "SERVICE_UNAVAILABLE"),
            },
            description="Subprotocols: "
            + ", ".join(
                f"`{name}` ({'binary' if d.is_binary else 'text'} frames)" for name, d in websocket.DIALECTS.items()
            )
            + ". The client sends `WsCommand`, the server `WsMessage`; a frame is one message or an array of at most "
            f"{websocket.MAX_MESSAGES_PER_FRAME}. A client may carry on over SSE from the same id, or the reverse.",
            security=_OR_TICKET,
            **{"x-client-messages": ref("WsCommand"), "x-server-messages": ref("WsMessage")},
        )
    },
    "/healthz": {
        "get": _operation(
            "service", "isAlive", "Is the process alive",
            {
                "200": {"description": "It is.", "content": {"application/json": {
                    "schema": object_schema("", {"status": {"const": "ok"}}), "example": {"status": "ok"},
                }}},
                **fails(),
            },
            security=_OPEN,
        )
    },
    "/readyz": {
        "get": _operation(
            "service", "isReady", "Can it take new streams",
            {
                "200": _json("Readiness", "It can."),
                **fails(),
                "503": _json("Readiness", "It cannot; see what is missing."),
            },
            security=_OPEN,
        )
    },
    "/metrics": {"get": _plain("readMetrics", "Counters for Prometheus", "text/plain", "Text exposition format.")},
    "/openapi.json": {
        "get": _operation(
            "service", "readDocument", "This document",
            {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}},
             **fails()},
            security=_OPEN,
        )
    },
    "/docs": {"get": _plain("readDocs", "This document as a page", "text/html", "The page.")},
    "/": {"get": _plain("openChatPage", "The chat page", "text/html", "The page; `?model=NAME` chooses the model.")},
}  # fmt: skip
