"""The HTTP interface as one OpenAPI 3.1 document, made from the tables and types it describes; opens nothing.

What a type already says (the request) and what a table already says (the errors) is taken from there. Written out by
hand is only what no type holds: the answers and the events, which tests hold against `snapshot` and `codec`.
Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final, TypeAlias, get_args

import msgspec

from tokenrelay.protocol import errors, events
from tokenrelay.protocol.lifecycle import PublicState
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.wire import cursor, request, sse, timing, websocket

Json: TypeAlias = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_STREAM_ID: Final = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"
_MODEL: Final = "scripted?tokens=2"
_AT_MS: Final = 1_793_880_000_000

# -- small words -----------------------------------------------------------------------------------------------------


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def _object(description: str, required: dict[str, Json], optional: dict[str, Json] | None = None) -> Json:
    """An object schema. Unknown fields stay allowed: a later version may add some, and clients pass over them."""
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _text(description: str, **more: Any) -> Json:
    return {"type": "string", "description": description, **more}


def _count(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def _seconds(description: str) -> Json:
    return {"type": "number", "minimum": 0, "description": description}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of_the_words(words: Any, description: str) -> Json:
    return {"type": "string", "enum": list(words), "description": description}


# -- schemas: the request --------------------------------------------------------------------------------------------

_FIELDS: Final = {
    "message": "The question, for a single turn.",
    "prompt": "Another name for `message`.",
    "messages": "The conversation so far, oldest turn first.",
    "model": "A name from `/api/models`, or a maker's own id. None: NeuroSwitch chooses.",
    "provider": "The maker whose models may answer.",
    "stream": "True: the answer as events. False: one JSON object at the end.",
    "max_tokens": "The answer ends with `finish_reason` `length` after so many tokens.",
    "temperature": "Left out of the call to a model that does not take it.",
    "top_p": "Left out of the call to a model that does not take it.",
    "stop": "The answer ends before any of these.",
    "seed": "Where a model takes one: the same seed, the same answer.",
    "system": "Instructions that stand before the conversation.",
    "enable_tools": "True lets the model call the server's tools.",
    "tools": (
        "The tools the model may call: ids, `{name}`, or functions as OpenAI's API describes them; without them all "
        "that the server has. A function the server has no tool for is the caller's own: when the model calls it, the "
        "answer ends with `finish_reason` `tool_calls`."
    ),
    "preferences": (
        "Wishes NeuroSwitch weighs when it chooses: `strategy` (balanced, speed, quality, cost, weighted), `weights` "
        "(of quality, speed, cost and strength, 0 to 100), `avoid` and `prefer` (names of models or makers)."
    ),
    "on_disconnect": (
        "What becomes of the generation when nobody reads it any more: `continue`, `cancel`, or `grace:SECONDS` "
        f"(at most {request.MAX_DISCONNECT_GRACE_S})."
    ),
}
_ASKED: Final = ("message", "prompt", "messages")


def _request_schemas() -> dict[str, Json]:
    """`ChatRequest` and `Message` as their types say; added is what `request` checks beyond types."""
    _, schemas = msgspec.json.schema_components([request.ChatRequest], ref_template=_REF)
    chat = schemas["ChatRequest"]
    for name, description in _FIELDS.items():
        chat["properties"][name]["description"] = description
    chat["properties"]["on_disconnect"]["pattern"] = "^(continue|cancel|grace:[0-9]{1,4})$"
    del chat["required"]
    # Exactly one of the three is given; null counts as not given.
    given = {name: next(s for s in chat["properties"][name]["anyOf"] if s["type"] != "null") for name in _ASKED}
    chat["oneOf"] = [
        {"required": [name], "properties": {name: schema if name == "messages" else {**schema, "pattern": "\\S"}}}
        for name, schema in given.items()
    ]
    turn = schemas["Message"]
    turn["properties"]["role"]["type"] = "string"
    # Only a turn that calls needs no content.
    turn["anyOf"] = [
        {"required": ["content"], "properties": {"content": {"type": "string"}}},
        {"required": ["tool_calls"], "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array"}}},
    ]
    return schemas


# -- schemas: errors -------------------------------------------------------------------------------------------------


def _error_schema() -> Json:
    return _object(
        "What went wrong, the same for every path.",
        {
            "error": _text("A sentence for people; tells no internals."),
            "error_code": _one_of_the_words(errors.TABLE, "A row of the error table."),
            "request_id": _text("As in the header `X-Request-Id`; quote it when you ask for help."),
        },
        {
            "field": _text("Which field of the request is wrong."),
            "issue": _text("What is wrong with it."),
            "retry_after": _seconds("Seconds to wait before trying again; also in the header `Retry-After`."),
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "stream_id": _text("The stream it is about."),
            "last_event_id": _count("With `CURSOR_AHEAD`: the last event there is."),
            "max_bytes": _count("With `PAYLOAD_TOO_LARGE`: the largest body taken."),
            "partial_response": _text("What had been written before a whole answer failed."),
        },
    )


_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Final[dict[int, Json]] = {
    401: {"WWW-Authenticate": {"description": "The scheme to use.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods this path takes.", "schema": {"type": "string"}}},
    429: {
        **_RETRY_AFTER,
        "X-RateLimit-Limit": {"description": "How many are allowed.", "schema": {"type": "integer"}},
        "X-RateLimit-Remaining": {"description": "How many are left.", "schema": {"type": "integer"}},
        "X-RateLimit-Reset": {"description": "When the count begins anew.", "schema": {"type": "integer"}},
    },
    503: _RETRY_AFTER,
}


_OF_CHAT_ONLY: Final = frozenset({429, 502, 504})


def _error_responses() -> dict[str, Json]:
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
        "content": {"application/json": {"schema": _ref("Error"), "examples": examples}},
    }
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return _as_event_too(response) if status in _OF_CHAT_ONLY else response


def _fails(*codes: str) -> Json:
    """The error responses of an operation; the last two are every operation's."""
    statuses = sorted({errors.TABLE[code].status for code in (*codes, "METHOD_NOT_ALLOWED", "INTERNAL_ERROR")})
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _fails_as_events(*codes: str) -> dict[str, Json]:
    """The same for `POST /api/chat`, whose caller may have asked for events: then the error is one."""
    known = _error_responses()
    return {
        status: reference if int(status) in _OF_CHAT_ONLY else _as_event_too(known[status])
        for status, reference in _fails(*codes).items()
    }


def _as_event_too(response: Json) -> Json:
    one_event = {"text/event-stream": {"schema": {"type": "string", "description": "One `ErrorEvent`."}}}
    return {**response, "content": {**response["content"], **one_event}}


def _table_as_text() -> str:
    head = "| code | status | retry helps | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{row.code}` | {row.status} | {'yes' if row.retryable else 'no'} | {row.meaning} |" for row in errors.ROWS
    )


# -- schemas: events -------------------------------------------------------------------------------------------------

_TIMESTAMP: Final = _text("ISO 8601, UTC.", format="date-time")
_MODEL_FIELD: Final = _text("The model as it was asked for.")
_NO_TOKEN: Final = {"const": "", "description": "Empty, so that a client may append it unseen."}
_NOT_DONE: Final = {"const": False}
_DONE: Final = {"const": True, "description": "This event ends the stream."}
_TOOL: Final = {
    "tool_name": _text("Which tool."),
    "tool_input": {"type": "object", "description": "Its arguments."},
    "tool_call_id": _text("The same in the call and its result."),
}


def _event(description: str, required: dict[str, Json], optional: dict[str, Json] | None = None) -> Json:
    return _object(description, {**required, "timestamp": _TIMESTAMP}, optional)


_TIMING: Final = {
    "timing": _object(
        "Where the time to the first token went, in milliseconds; there where `X-Debug-Timing: 1` was asked.",
        {},
        {name: {"type": "number", "minimum": 0} for name in (*timing.PARTS, "hops_ms", "ttft_ms")},
    )
}
_USAGE: Final = {
    "total_tokens": _count("Input and output over all rounds."),
    "input_tokens": _count("Tokens read."),
    "output_tokens": _count("Tokens written."),
}
_ANSWERED: Final = {
    "finish_reason": _one_of_the_words(sorted(events.FINISH_REASONS), "Why the answer ends here."),
    "response_time": _seconds("Seconds from the request to the end."),
    "model": _MODEL_FIELD,
    "resolved_model": _text("The maker's id of the model that answered."),
    "provider": _text("Its maker."),
}
_ATTEMPTS: Final = {
    "attempts": {
        "type": "array",
        "description": "The calls of makers that failed before, in order.",
        "items": _object(
            "One failed call.",
            {
                "model": _text("The model's name here."),
                "provider": _text("Its maker."),
                "error_code": _text("A row of the error table."),
                "error": _text("A sentence."),
                "seconds": _seconds("How long it took."),
            },
        ),
    },
}
_LEFT_OUT: Final = {
    "left_out": {
        "type": "array",
        "description": "Fields of the request that this model does not take; it was not told of them.",
        "items": {"type": "string"},
    },
}

_EVENTS: Final[dict[str, Json]] = {
    "AcceptedEvent": _event(
        "The edge's own first word, sent before the model does anything. It is not in the log and has no id.",
        {"token": _NO_TOKEN, "done": _NOT_DONE, "status": {"const": "queued"}, "stream_id": _text("The stream's id."),
         "model": _MODEL_FIELD},
    ),
    "StartedEvent": _event(
        "A worker has begun.",
        {"token": _NO_TOKEN, "done": _NOT_DONE, "status": {"const": "started"}, "model": _MODEL_FIELD},
        {"routing": {"type": "object", "description": "Why NeuroSwitch chose this model, when it did."}},
    ),
    "TokenEvent": _event(
        "A piece of the answer. Appended in order they are the answer, exactly.",
        {"token": _text("The text.", minLength=1), "done": _NOT_DONE, "model": _MODEL_FIELD},
    ),
    "ToolCallEvent": {
        **_event("The model calls a tool.", {**_TOOL, "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD}),
        "not": {"required": ["tool_result"]},
    },
    "ToolResultEvent": _event(
        "What the tool gave.",
        {**_TOOL, "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD,
         "tool_result": _text(f"At most {events.MAX_TOOL_RESULT_BYTES} bytes of UTF-8.")},
        {"tool_error": {"const": True, "description": "There when the tool failed."}},
    ),
    "CompletionEvent": _event(
        "The answer is whole, or was cancelled.",
        {"token": _NO_TOKEN, "done": _DONE, **_USAGE, **_ANSWERED, "stream_id": _text("The stream's id.")},
        {**_ATTEMPTS, **_LEFT_OUT, **_TIMING},
    ),
    "ErrorEvent": _object(
        "The answer ends here without being whole; or the request was refused and `stream` was asked for.",
        {"token": _NO_TOKEN, "done": _DONE, "error": _text("A sentence for people."),
         "error_code": _one_of_the_words(errors.TABLE, "A row of the error table."),
         "retryable": {"type": "boolean", "description": "Whether asking again may help."}},
        {"retry_after": _seconds("Seconds to wait first."), "stream_id": _text("The stream's id."),
         "request_id": _text("Of a request that was refused."), "timestamp": _TIMESTAMP, **_ATTEMPTS},
    ),
}  # fmt: skip

# -- schemas: the rest -----------------------------------------------------------------------------------------------

_STATE: Final = _one_of_the_words(get_args(PublicState), "Where the generation stands.")
_TOOL_CALL: Final = _object(
    "One call of a tool, with its result once there is one.",
    _TOOL,
    {"tool_result": _text("What it gave."), "tool_error": {"const": True, "description": "There when it failed."}},
)
_SCHEMAS: Final[dict[str, Json]] = {
    **_request_schemas(),
    **_EVENTS,
    "Event": {
        "description": "The object in a `data:` line, and in a WebSocket's `event` message.",
        "anyOf": [_ref(name) for name in _EVENTS],
    },
    "ToolCall": _TOOL_CALL,
    "Answer": _object(
        "A whole answer.",
        {"response": _text("The text."), **_USAGE, **_ANSWERED, "stream_id": _text("The stream's id."),
         "tool_calls": {"type": "array", "items": _ref("ToolCall")}},
        {**_ATTEMPTS, **_TIMING},
    ),
    "Snapshot": _object(
        "A stream as it stands.",
        {"stream_id": _text("Its id."), "state": _STATE, "model": _MODEL_FIELD, "text": _text("The text so far."),
         "last_event_id": _count("The cursor from which to go on."),
         "tool_calls": {"type": "array", "items": _ref("ToolCall")},
         **{name: _or_null(schema) for name, schema in _ANSWERED.items() if name != "model"},
         "usage": _or_null(_object("Once the answer is whole.", _USAGE)),
         "error": _or_null(_object(
             "Once it has failed.",
             {"error": _text("A sentence."), "error_code": _text("A row of the error table."),
              "retryable": {"type": "boolean"}},
         ))},
    ),
    "StreamState": _object("Where a stream stands.", {"stream_id": _text("Its id."), "state": _STATE}),
    "StreamList": _object(
        "The caller's own streams, newest first.",
        {"streams": {"type": "array", "items": _object(
            "One stream.",
            {"stream_id": _text("Its id."), "state": _STATE, "model": _MODEL_FIELD, "created_at": _TIMESTAMP,
             "last_event_id": _count("Its last event.")},
        )}},
    ),
    "TicketRequest": _object(
        "What the ticket is for.",
        {},
        {"stream_id": _or_null(_text("One stream; without it, all the caller's and the WebSocket."))},
    ),
    "Ticket": _object(
        "A short-lived pass for what cannot send headers.",
        {"ticket": _text("Goes into `?ticket=`."), "expires_in": _seconds("Seconds."), "expires_at": _TIMESTAMP},
    ),
    "ModelList": _object(
        "The catalogue.",
        {"models": {"type": "array", "items": _object(
            "One model.",
            {"id": _text("Its name here."), "names": {"type": "array", "items": {"type": "string"}},
             "provider": _text("Its maker."),
             "resolved_model": _or_null(_text("The maker's id; null where it varies.")),
             "streaming": {"type": "boolean"}, "speed": _text("A label."),
             "tools": {"type": "boolean", "description": "Whether it can call tools."},
             "available": {"type": "boolean", "description": "Whether a worker can answer with it now."},
             "circuit": _one_of_the_words(("closed", "open", "half_open"), "Open: it rests after failures."),
             "ttft_ms": _or_null(_seconds("Milliseconds to its first token lately; null while unknown.")),
             "context": _or_null(_count("Tokens it reads and writes together; null: enough for anything.")),
             "price": _or_null(_object("US dollars for a million tokens, by the catalogue; null where it varies.", {
                 "input": _seconds("Read."), "output": _seconds("Written.")}))},
            {"unavailable_because": _text("Why not.")},
        )}},
    ),
    "Readiness": _object(
        "Whether new streams can be taken, and if not, what is missing.",
        {"status": _one_of_the_words(("ready", "not ready"), "The sum."),
         "redis": _one_of_the_words(("ok", "unreachable"), "The log."),
         "live_feed": _one_of_the_words(("ok", "silent"), "Whether events arrive as they are written."),
         "live_feed_probe_age_s": _seconds("Since it last proved that it works."),
         "draining": {"type": "boolean", "description": "On its way out."},
         "workers": _count("Living workers."), "edge": _text("For people.")},
    ),
    "Error": _error_schema(),
    "WsCommand": {
        "description": "What a client sends on `/api/ws`. A frame is one message or an array of them.",
        "oneOf": [
            _object("Start a generation: these, and the fields of `ChatRequest`.", {"type": {"const": "start"}},
                    {"ref": _ref("WsRef"), "idempotency_key": _text("As the header of the same name.")}),
            _object("Read a stream from a cursor.",
                    {"type": {"const": "resume"}, "stream_id": _text("Which.")},
                    {"ref": _ref("WsRef"), "after": _or_null(_count("The cursor.")),
                     "replay": _one_of_the_words(("compact", "exact"), "How the backlog comes.")}),
            _object("Stop it for good.", {"type": {"const": "cancel"}, "stream_id": _text("Which.")},
                    {"ref": _ref("WsRef")}),
            _object("Read it no longer; it goes on.", {"type": {"const": "detach"}, "stream_id": _text("Which.")},
                    {"ref": _ref("WsRef")}),
            _object("Ask for a `pong`.", {"type": {"const": "ping"}}, {"ref": _ref("WsRef")}),
        ],
    },
    "WsRef": {
        "description": "The client's own mark; the answer carries it back.",
        "anyOf": [{"type": "string", "maxLength": websocket.MAX_REF_CHARACTERS}, {"type": "integer"}, {"type": "null"}],
    },
    "WsMessage": {
        "description": "What the server sends. A frame is one message or an array of them.",
        "oneOf": [
            _object("A stream is attached.", {"type": {"const": "started"}, "ref": _ref("WsRef"),
                                              "stream_id": _text("Which.")},
                    {"done": {"const": True, "description": "Its end is behind the cursor: nothing follows."}}),
            _object("An event.", {"type": {"const": "event"}, "stream_id": _text("Which."),
                                  "id": {"type": "integer", "minimum": 1}, "data": _ref("Event")}),
            _object("A refusal; the socket lives on.",
                    {"type": {"const": "error"}, "ref": _ref("WsRef"), "error": _text("A sentence."),
                     "error_code": _text("A row of the error table.")}, {"stream_id": _text("Which.")}),
            _object("The answer to `ping`.", {"type": {"const": "pong"}, "ref": _ref("WsRef")}),
            _object("A drain has begun: reconnect.", {"type": {"const": "reconnect"}, "after_ms": _count("When.")}),
        ],
    },
}  # fmt: skip

# -- parameters and bodies -------------------------------------------------------------------------------------------

_ID: Final = {
    "name": "stream_id", "in": "path", "required": True, "description": "The stream's id.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"}, "example": _STREAM_ID,
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
    content: Json = {"schema": _ref(name)}
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
        events.Started(_AT_MS, _MODEL),
        events.Token(_AT_MS + 20, _MODEL, "w0 "),
        events.ToolCall(_AT_MS + 21, _MODEL, "call_0", "calculator", call),
        events.ToolResult(_AT_MS + 22, _MODEL, "call_0", "calculator", call, "42"),
        events.Token(_AT_MS + 40, _MODEL, "w1 "),
        events.Completion(_AT_MS + 41, _MODEL, "scripted", "Scripted", "stop", 1, 2, 0.041),
    ]
    return [entries.unpack_entry(entries.pack(event)) for event in told]


def _example_stream(*, accepted: bool) -> str:
    """The same answer as bytes on the wire."""
    frames = [sse.encode_retry(1_500)]
    if accepted:
        frames.append(sse.encode_frame(entries.to_json(entries.accepted_data(_STREAM_ID, _MODEL, _AT_MS))))
    for entry_id, entry in enumerate(_example_entries(), 1):
        frames.append(sse.encode_frame(entries.json_of(entry, _STREAM_ID), entry_id))
    return b"".join(frames).decode()


def _event_stream(*, accepted: bool) -> Json:
    return {
        "schema": {
            "type": "string",
            "description": "Server-Sent Events. Each is a line `id: N`, a line `data: {JSON}` and a blank line; the "
            "JSON is an `Event`. After 15 s of silence comes a comment (`: hb`). One event with `done` true ends it.",
        },
        "x-event-schema": _ref("Event"),
        "example": _example_stream(accepted=accepted),
    }


_ANSWER_EXAMPLE: Final = {
    "response": "w0 w1 ",
    **{name: value for name, value in entries.data_of(_example_entries()[-1], _STREAM_ID).items()
       if name not in ("token", "done", "timestamp")},
    "tool_calls": [{"tool_name": "calculator", "tool_input": {"expression": "6*7"}, "tool_call_id": "call_0",
                    "tool_result": "42"}],
}  # fmt: skip
_CHAT_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _ref("ChatRequest"),
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

# -- operations ------------------------------------------------------------------------------------------------------

_OPEN: Final[list[Json]] = []
"""No key needed, whatever the server's settings."""

_OR_TICKET: Final[list[Json]] = [{"bearer": []}, {"apiKey": []}, {"ticket": []}, {}]


def _operation(tag: str, name: str, summary: str, responses: Json, **more: Any) -> Json:
    return {"tags": [tag], "operationId": name, "summary": summary, **more, "responses": responses}


def _plain(name: str, summary: str, media_type: str, description: str) -> Json:
    answer = {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}
    return _operation("service", name, summary, {"200": answer, **_fails()}, security=_OPEN)


_CANCELLED: Final = {
    "200": _json("StreamState", "The wish is kept.", {"stream_id": _STREAM_ID, "state": "cancelling"}),
    **_fails("UNAUTHORIZED", "NOT_FOUND", "STREAM_EXPIRED", "SERVICE_UNAVAILABLE"),
}
_CANCEL_TEXT: Final = "From any device, before, during or after the start; repeating it changes nothing."

_PATHS: Final[dict[str, Json]] = {
    "/api/chat": {
        "post": _operation(
            "streams", "startChat", "Start a generation",
            {
                "200": {
                    "description": "Events with `stream: true`, else one JSON object once the answer is whole.",
                    "headers": _STREAM_HEADERS,
                    "content": {
                        "text/event-stream": _event_stream(accepted=True),
                        "application/json": {"schema": _ref("Answer"), "example": _ANSWER_EXAMPLE},
                    },
                },
                "204": {"description": "A repeated call whose `Last-Event-ID` is the stream's end: nothing follows."},
                **_fails_as_events(
                    "INVALID_REQUEST", "UNAUTHORIZED", "FORBIDDEN", "CURSOR_AHEAD", "STREAM_EXPIRED",
                    "PAYLOAD_TOO_LARGE", "VALIDATION_ERROR", "RATE_LIMIT", "PROVIDER_ERROR", "OVERLOADED", "TIMEOUT",
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
                    {"stream_id": _STREAM_ID, "state": "running", "model": _MODEL,
                     "created_at": entries.timestamp(_AT_MS), "last_event_id": 3},
                ]}),
                **_fails("UNAUTHORIZED", "SERVICE_UNAVAILABLE"),
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
                        "application/json": {"schema": _ref("Snapshot")},
                    },
                },
                "204": {"description": "The cursor is the stream's end: nothing follows. An `EventSource` stops."},
                **_fails("INVALID_CURSOR", "UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "CURSOR_AHEAD", "STREAM_EXPIRED",
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
                    "expires_at": entries.timestamp(_AT_MS + 60_000),
                }),
                **_fails("INVALID_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "STREAM_EXPIRED", "PAYLOAD_TOO_LARGE",
                         "VALIDATION_ERROR", "SERVICE_UNAVAILABLE"),
            },
            description="For `EventSource` and a browser's WebSocket: `?ticket=`.",
            requestBody={"content": {"application/json": {
                "schema": _ref("TicketRequest"), "example": {"stream_id": _STREAM_ID},
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
                **_fails(),
            },
            security=_OPEN,
        )
    },
    "/api/ws": {
        "get": _operation(
            "streams", "openSocket", "Many streams on one WebSocket",
            {
                "101": {"description": "The socket is open."},
                **_fails("INVALID_REQUEST", "UNAUTHORIZED", "SERVICE_UNAVAILABLE"),
            },
            description="Subprotocols: "
            + ", ".join(
                f"`{name}` ({'binary' if d.is_binary else 'text'} frames)" for name, d in websocket.DIALECTS.items()
            )
            + ". The client sends `WsCommand`, the server `WsMessage`; a frame is one message or an array of at most "
            f"{websocket.MAX_MESSAGES_PER_FRAME}. A client may carry on over SSE from the same id, or the reverse.",
            security=_OR_TICKET,
            **{"x-client-messages": _ref("WsCommand"), "x-server-messages": _ref("WsMessage")},
        )
    },
    "/healthz": {
        "get": _operation(
            "service", "isAlive", "Is the process alive",
            {
                "200": {"description": "It is.", "content": {"application/json": {
                    "schema": _object("", {"status": {"const": "ok"}}), "example": {"status": "ok"},
                }}},
                **_fails(),
            },
            security=_OPEN,
        )
    },
    "/readyz": {
        "get": _operation(
            "service", "isReady", "Can it take new streams",
            {
                "200": _json("Readiness", "It can."),
                **_fails(),
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
             **_fails()},
            security=_OPEN,
        )
    },
    "/docs": {"get": _plain("readDocs", "This document as a page", "text/html", "The page.")},
    "/": {"get": _plain("openChatPage", "The chat page", "text/html", "The page; `?model=NAME` chooses the model.")},
}  # fmt: skip

DOCUMENT: Final[Json] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Tokenrelay",
        "version": "1",
        "summary": "Answers of language models, token by token, over connections that may break.",
        "description": "Start a generation with `POST /api/chat`; whatever happens to the connection, carry on with "
        "`GET /api/streams/{stream_id}` and the id of the last event you have: nothing is lost, nothing comes twice. "
        "Every path that takes GET takes HEAD.\n\n## Errors\n\n" + _table_as_text(),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "servers": [{"url": "/", "description": "The server that gave this document."}],
    "tags": [
        {"name": "streams", "description": "Start, follow, resume and stop generations."},
        {"name": "models", "description": "Who can answer."},
        {"name": "service", "description": "The server itself."},
    ],
    # The empty one: a server on loopback without keys needs none.
    "security": [{"bearer": []}, {"apiKey": []}, {}],
    "paths": _PATHS,
    "components": {
        "schemas": _SCHEMAS,
        "responses": _error_responses(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
            "apiKey": {
                "type": "apiKey", "in": "header", "name": "Authorization",
                "description": "`Authorization: ApiKey KEY`, the scheme in any case.",
            },
            "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From `POST /api/tickets`."},
        },
    },
}  # fmt: skip
